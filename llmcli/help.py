"""The text of `llm --help` and `llm COMMAND --help`, made from the command table and the config folders.

Standard library only: help must not wait for Hydra or torch.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from llmcli.catalog import Catalog, Key, config_dir
from llmcli.cli import COMMANDS, Command
from llmcli.errors import InputError

_FLAGS = (
    ("--json", "one JSON object on stdout"),
    ("--cfg job", "print the config instead of running"),
    ("--config-dir DIR", "a folder of your own YAML, looked at before ours"),
    ("--traceback", "show where an error came from"),
)
_TEXTS = {
    "prompt": "the text to continue, taken literally; may be repeated",
    "prompt_file": "a file that holds the prompt",
    "prefix": "how the text begins that is made of a source",
    "stop": "end when this text appears; may be repeated",
    "text": "a text to answer for, taken literally; may be repeated",
    "question": "a question, for runs that answer from a text or choose an answer; may be repeated",
    "context": "the text in which answers stand, one for all questions or one for each",
    "context_file": "a file that holds it",
    "choice": "an answer to choose from; all belong to one question",
    "first": "of pairs, the first text; may be repeated",
    "second": "and the second",
    "input": "a file of texts, or of JSON objects with question, context, ..., one a line; may be repeated",
    "similarity": "a file of lines `word word score`, for word vectors; may be repeated",
    "analogies": "a file of lines `a b c d` below lines `: section`, for word vectors; may be repeated",
}
_BOOLEANS = {
    "dry_run": "sizes, memory and steps, without training",
    "yes": "delete without asking",
}


def overview() -> str:
    """`llm --help`: one line a command."""
    name_width = max(map(len, COMMANDS))
    meaning_width = max(len(command.meaning) for command in COMMANDS.values())
    lines = ["usage: llm COMMAND [group=option ...] [key=value ...]", ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:<{name_width}}  {command.meaning:<{meaning_width}}  {command.examples[0]}")
    lines += [
        "",
        "Every command: --help, --json, --traceback, --cfg job (the config it would use)",
        "Choices: llm train --help        Version: llm --version",
    ]
    return "\n".join(lines) + "\n"


def of_command(name: str, config_dirs: Sequence[str]) -> str:
    """`llm NAME --help`: usage, groups with their options, keys, flags, examples."""
    command = COMMANDS[name]
    lines = [f"usage: llm {name} {_usage(command)}".rstrip(), "", command.meaning]
    if command.config is not None:
        folders = [Path(each) for each in config_dirs]
        for folder in folders:
            if not folder.is_dir():
                raise InputError(f"--config-dir {folder}: there is no such folder")
        catalog = Catalog([*folders, config_dir()])
        lines += _groups(catalog, command)
        lines += _keys(catalog, command)
        flags = [(f"--{key.replace('_', '-')}", _BOOLEANS[key]) for key in command.booleans if key in _BOOLEANS]
        texts = [(f"--{key.replace('_', '-')} TEXT", _TEXTS[key]) for key in command.texts]
        sweep = [("-m, --multirun", "train every combination: -m model=rnn,lstm")] if command.sweeps else []
        lines += ["", "flags", *_two_columns([*texts, *flags, *sweep, *_FLAGS])]
    lines += ["", "examples", *(f"  {example}" for example in command.examples)]
    return "\n".join(lines) + "\n"


def _usage(command: Command) -> str:
    if command.config is None:
        return "bash|zsh|fish"
    words = [f"[{each.upper()}]" for each in command.positionals]
    return " ".join([*words, "[group=option ...]" if not words else "", "[key=value ...]"]).replace("  ", " ").strip()


def _groups(catalog: Catalog, command: Command) -> list[str]:
    """Each group with its options, the default marked."""
    lines: list[str] = []
    for group, default in catalog.defaults(command.config or "").items():
        options = catalog.options(group)
        if group in command.of_the_run or not options:
            continue
        rows = [(f"{'*' if each.name == default else ' '} {each.name}", each.meaning) for each in options]
        lines += ["", f"{group}=", *_two_columns(rows)]
    return ["", "groups (* is the default; GROUP.KEY=VALUE changes a key of it)", *lines[1:]] if lines else []


def _keys(catalog: Catalog, command: Command) -> list[str]:
    found = catalog.root_keys(command.config or "")
    rows = [(_assignment(key), key.meaning) for key in found if key.name not in ("json", *_BOOLEANS)]
    return ["", "keys", *_two_columns(rows)] if rows else []


def _assignment(key: Key) -> str:
    return f"{key.name}={key.default}"


def _two_columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Aligned pairs, the meaning folded to the width of the terminal."""
    left = max(len(first) for first, _ in rows) + 3
    width = max(40, min(shutil.get_terminal_size().columns, 120) - left - 2)
    lines: list[str] = []
    for first, second in rows:
        parts = textwrap.wrap(second, width) or [""]
        lines.append(f"  {first:<{left}}{parts[0]}".rstrip())
        lines += [" " * (left + 2) + part for part in parts[1:]]
    return lines
