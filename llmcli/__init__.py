"""Train, evaluate and use language models from one config-driven command line."""

__version__ = "0.1.0"
