"""`python -m llmcli` is `llm`."""

import sys

from llmcli.cli import main

if __name__ == "__main__":
    sys.exit(main())
