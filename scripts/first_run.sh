#!/usr/bin/env bash
# Set up an environment, then train, evaluate and generate on the default data: a few minutes on two CPU cores.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
set -x
llm train
llm eval
llm generate --prompt "The for statement"
