"""Train, evaluate and use language models from one config-driven command line."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """`llmcli.load` imports torch only when it is asked for."""
    if name == "load":
        from llmcli.api import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
