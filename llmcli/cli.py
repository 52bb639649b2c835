"""The command table, and the way from the command line to a command (standard library only until a command runs).

    llm COMMAND [group=option ...] [key=value ...] [--key value ...]

Overrides go to Hydra, which composes the config of the command; free text (`--prompt`) goes around it untouched. Each
command is a module with `run(cfg, texts) -> int`, imported when it is called.
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmcli import __version__
from llmcli.errors import InputError, LLMError
from llmcli.mistakes import did_you_mean, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

# What a group of `train` is when another command gets it from the run that it works on.
_OF_THE_RUN = (
    "clean",
    "duplicates",
    "tokenizer",
    "model",
    "template",
    "task",
    "batch",
    "optimizer",
    "schedule",
    "trainer",
    "callbacks",
    "logger",
    "experiment",
)


@dataclass(frozen=True)
class Command:
    """One line of `llm --help`, and how the command's arguments are read.

    `texts`: options whose value is free text. `booleans`: options without a value. `positionals`: keys that bare words
    fill in order. `of_the_run`: groups that come from the run and cannot be chosen. `imports`: modules that it imports
    whatever it is told. Without `config` the arguments are not read at all and reach the command as `texts["args"]`.
    """

    module: str
    meaning: str
    examples: tuple[str, ...]
    config: str | None = None
    texts: tuple[str, ...] = ()
    booleans: tuple[str, ...] = ("json",)
    positionals: tuple[str, ...] = ()
    of_the_run: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    sweeps: bool = False


COMMANDS = {
    "train": Command(
        module="train",
        meaning="learn from text",
        examples=(
            "llm train data=text data.path=my.txt",
            "llm train model=lstm",
            "llm train model=transformer model.n_layers=6 trainer.max_steps=2000",
            "llm train resume=latest",
            "llm train --dry-run trainer.max_steps=500",
            "llm train -m model=rnn,lstm,gru,transformer hydra.launcher.n_jobs=2",
        ),
        config="train",
        booleans=("json", "dry_run"),
        sweeps=True,
        imports=("llmcli.assembly",),
    ),
    "eval": Command(
        module="evaluate",
        meaning="score a run",
        examples=(
            "llm eval",
            "llm eval ckpt=runs/...",
            "llm eval data=text data.path=other.txt --json",
            "llm eval ckpt=runs/... baseline=runs/...",
            "llm eval --similarity wordsim353.txt --analogies questions-words.txt",
        ),
        config="eval",
        texts=("similarity", "analogies"),
        of_the_run=_OF_THE_RUN,
        imports=("llmcli.checkpoint",),
    ),
    "generate": Command(
        module="generate",
        meaning="continue a prompt",
        examples=(
            'llm generate --prompt "The for statement"',
            'llm generate --prompt "def " --stop ":" decoding.temperature=0.5',
            "llm generate --prompt-file question.txt ckpt=runs/... --max-new-tokens 50 --json",
        ),
        config="generate",
        texts=("prompt", "prompt_file", "prefix", "stop"),
        booleans=("json",),
        of_the_run=(*_OF_THE_RUN, "data"),
        imports=("llmcli.checkpoint",),
    ),
    "chat": Command(
        module="chat",
        meaning="talk with a run",
        examples=(
            "llm chat ckpt=runs/chat",
            'llm chat ckpt=runs/chat --system "Answer in one sentence."',
            "llm chat ckpt=runs/chat decoding.temperature=0 --json < questions.txt",
        ),
        config="chat",
        texts=("system",),
        of_the_run=(*_OF_THE_RUN, "data"),
        imports=("llmcli.checkpoint",),
    ),
    "predict": Command(
        module="predict",
        meaning="answer for each text",
        examples=(
            'llm predict --text "a lovely film"',
            "llm predict ckpt=runs/reviews --input reviews.txt top=3",
            "llm predict --json < reviews.txt > answers.jsonl",
            'llm predict --question "What is it for?" --context-file manual.txt',
            'llm predict --first "a man sleeps" --second "nobody is awake"',
        ),
        config="predict",
        texts=("text", "question", "context", "context_file", "choice", "first", "second", "input"),
        of_the_run=(*_OF_THE_RUN, "data"),
        imports=("llmcli.checkpoint",),
    ),
    "average": Command(
        module="average",
        meaning="average checkpoints",
        examples=("llm average", "llm average ckpt=runs/... last=5"),
        config="average",
        of_the_run=(*_OF_THE_RUN, "data"),
        imports=("llmcli.checkpoint",),
    ),
    "export": Command(
        module="export",
        meaning="write word vectors",
        examples=("llm export to=vectors.txt", "llm export ckpt=runs/... to=vectors.bin format=word2vec_binary"),
        config="export",
        of_the_run=(*_OF_THE_RUN, "data"),
        imports=("llmcli.checkpoint",),
    ),
    "prepare": Command(
        module="prepare",
        meaning="store data for training",
        examples=("llm prepare", "llm prepare data=text data.path=my.txt tokenizer=char"),
        config="prepare",
    ),
    "data": Command(
        module="data",
        meaning="look at a data set",
        examples=(
            "llm data list",
            "llm data data=text data.path=my.txt",
            "llm data data=text data.path=my.txt 'clean=[html,whitespace]' --out report.html",
            "llm data --json",
        ),
        config="data",
        positionals=("action",),
    ),
    "bench": Command(
        module="bench",
        meaning="measure this machine",
        examples=(
            "llm bench",
            "llm bench model.d_model=384 model.n_layers=6 batch.size=16 batch.seq_len=256 'compare=[bare]'",
            "llm bench 'what=[generate]' 'batch_sizes=[1,64]' --json",
            "llm bench 'what=[prepare,start]'",
        ),
        config="bench",
    ),
    "runs": Command(
        module="runs",
        meaning="list, show, delete runs",
        examples=("llm runs", "llm runs show runs/...", "llm runs delete runs/... --yes"),
        config="runs",
        booleans=("json", "yes"),
        positionals=("action", "run"),
    ),
    "completion": Command(
        module="completion",
        meaning="completion for a shell",
        examples=('eval "$(llm completion bash)"', "llm completion zsh", "llm completion fish | source"),
    ),
}

_KEY = re.compile(r"^[A-Za-z_][\w.]*$")
_HYDRA_BARE = {"--multirun": "--multirun", "-m": "--multirun", "--resolve": "--resolve", "--hydra-help": "--hydra-help"}
_HYDRA_VALUED = {"--cfg": "--cfg", "-c": "--cfg", "--package": "--package", "-p": "--package"}
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_NOT_OURS = {
    "--config-path": "--config-dir adds a folder whose YAML comes before ours",
    "-cp": "--config-dir adds a folder whose YAML comes before ours",
    "--config-name": "the command names its config: llm train uses train.yaml",
    "-cn": "the command names its config: llm train uses train.yaml",
    "--shell-completion": "llm completion bash|zsh|fish prints a script for your shell",
    "-sc": "llm completion bash|zsh|fish prints a script for your shell",
}


@dataclass
class Arguments:
    """A command line after `llm COMMAND`, taken apart. `flags` are Hydra's own."""

    overrides: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    config_dirs: list[str] = field(default_factory=list)
    help: bool = False
    multirun: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 2 wrong input, 1 failed, 130 interrupted."""
    typed = sys.argv
    words = list(typed[1:] if argv is None else argv)
    sys.argv = [typed[0], *words]  # what Lightning repeats for every further process of a run
    show_traceback = "--traceback" in words
    try:
        return _dispatch([word for word in words if word != "--traceback"])
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        from llmcli import ui

        ui.silence()
        return 0
    except Exception as err:  # noqa: BLE001  the last one to see it: it becomes a message and an exit code
        if show_traceback:
            traceback.print_exc()
        return _report(err, show_traceback)
    finally:
        sys.argv = typed


def read(name: str, words: Sequence[str]) -> Arguments:
    """Take the words after `llm NAME` apart: overrides, Hydra's flags, free text. Raises InputError."""
    command = COMMANDS[name]
    found = Arguments()
    positionals = list(command.positionals)
    queue = list(words)
    while queue:
        word = queue.pop(0)
        option, equals, value = word.partition("=")
        key = option.lstrip("-").replace("-", "_")
        if word in ("--help", "-h"):
            found.help = True
        elif word in ("--run", "-r"):
            continue
        elif word in _HYDRA_BARE:
            found.flags.append(_HYDRA_BARE[word])
        elif option in _HYDRA_VALUED:
            found.flags += [_HYDRA_VALUED[option], value if equals else _next(queue, option)]
        elif option in ("--info", "-i"):
            answer = value if equals else queue.pop(0) if queue and queue[0] in _INFO else "all"
            found.flags += ["--info", answer]
        elif option in ("--config-dir", "-cd"):
            found.config_dirs.append(value if equals else _next(queue, option))
        elif option in _NOT_OURS:
            raise InputError(f"{option} is not used here", hint=_NOT_OURS[option])
        elif key in command.texts and (option.startswith("--") or equals):
            found.texts.setdefault(key, []).append(value if equals else _next(queue, option, any_text=True))
        elif word.startswith("--") and len(option) > 2:
            if meant := nearest(key, command.texts, cutoff=0.8):
                raise InputError(f"there is no option {option}.{did_you_mean('--' + meant.replace('_', '-'))}")
            if key in command.booleans:
                found.overrides.append(f"{key}={value.lower() if equals else 'true'}")
            else:
                found.overrides.append(f"{key}={value if equals else _option_value(queue, name, option)}")
        elif word.startswith("-") and not equals:
            raise InputError(f"there is no flag {word}", hint=f"llm {name} --help lists them")
        elif positionals and not (equals and _KEY.match(option)) and not word.startswith(("+", "~")):
            found.overrides.append(f"{positionals.pop(0)}={word}")
        else:
            found.overrides.append(word)
    found.multirun = "--multirun" in found.flags
    _check(name, command, found)
    return found


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        from llmcli.help import overview

        sys.stdout.write(overview())
        return 0
    name, rest = words[0], words[1:]
    if name in ("--version", "-V"):
        sys.stdout.write(f"llm {__version__}\n")
        return 0
    if name not in COMMANDS:
        close = nearest(name, COMMANDS)
        meant = did_you_mean(f"llm {close}" if close else None)
        raise InputError(f'there is no command "{name}".{meant}', hint=f"the commands: {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    if command.config is None:
        if rest and rest[0] in ("--help", "-h"):
            from llmcli.help import of_command

            sys.stdout.write(of_command(name, []))
            return 0
        return _run(command, None, {"args": rest})
    arguments = read(name, rest)
    if arguments.help:
        from llmcli.help import of_command

        sys.stdout.write(of_command(name, arguments.config_dirs))
        return 0
    return _compose_and_run(name, command, command.config, arguments)


def _compose_and_run(name: str, command: Command, root: str, arguments: Arguments) -> int:
    from llmcli.imports import in_one_go

    with in_one_go(_interrupted):
        from llmcli import config

    dirs = arguments.config_dirs
    if not arguments.multirun and arguments.flags:
        config.through_hydra(root, arguments.overrides, arguments.flags, config_dirs=dirs)
        return 0
    cfg = None if arguments.multirun else config.capture(root, arguments.overrides, config_dirs=dirs)
    if cfg is None:
        from llmcli import sweep

        return sweep.run(root, arguments.overrides, config_dirs=dirs)
    return _run(command, cfg, arguments.texts)


def _run(command: Command, cfg: DictConfig | None, texts: dict[str, list[str]]) -> int:
    from llmcli.imports import in_one_go

    with in_one_go(_interrupted):
        module = importlib.import_module(f"llmcli.commands.{command.module}")
        for name in command.imports:
            importlib.import_module(name)
    return int(module.run(cfg, texts))


def _interrupted() -> None:
    sys.stderr.write("stopping …\n")


def _check(name: str, command: Command, found: Arguments) -> None:
    """Refuse what would be ignored: groups that come from the run, a sweep of a command that has none."""
    if found.multirun and not command.sweeps:
        raise InputError(f"llm {name} cannot sweep", hint="-m is for llm train")
    for override in found.overrides:
        key = override.partition("=")[0].lstrip("+~")
        group = key.partition(".")[0]
        if group in command.of_the_run:
            hint = f"the run keeps its {group}; llm train {override} trains another"
            raise InputError(f"{override}: {name} uses the run's own {group}", hint=hint)


def _next(queue: list[str], option: str, *, any_text: bool = False) -> str:
    if not queue or (not any_text and queue[0].startswith("--")):
        raise InputError(f"{option} needs a value", hint=f"{option} VALUE")
    return queue.pop(0)


def _option_value(queue: list[str], name: str, option: str) -> str:
    """The value after `--key`; without one the option may be a misspelt flag."""
    if queue and not queue[0].startswith("--") and queue[0] not in _HYDRA_BARE:
        return queue.pop(0)
    command = COMMANDS[name]
    known = ["--" + key.replace("_", "-") for key in (*command.booleans, *command.texts)]
    known += ["--traceback", "--help", *(each for each in (*_HYDRA_BARE, *_HYDRA_VALUED) if each.startswith("--"))]
    close = nearest(option, [*known, "--config-dir", "--info"])
    if close:
        raise InputError(f'there is no flag "{option}".{did_you_mean(close)}', hint=f"llm {name} --help lists them")
    raise InputError(f"{option} needs a value", hint=f"{option} VALUE, or {option.lstrip('-')}=VALUE")


def _report(err: Exception, show_traceback: bool) -> int:
    from llmcli import ui

    if isinstance(err, LLMError):
        ui.error(str(err), err.hint)
        return err.exit_code
    message = next(iter(str(err).splitlines()), "")
    named = f"{type(err).__name__}: {message}" if message else type(err).__name__
    ui.error(named, "" if show_traceback else "this is a bug; --traceback shows the rest")
    return 1
