"""llm predict: what a run's task answers: the neighbours of a word, a label, where an answer stands, ..."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from omegaconf import DictConfig

from llmcli import runs, ui
from llmcli.asked import FLAGS, Asked, Ways, of_flags, of_line, usage
from llmcli.errors import InputError

if TYPE_CHECKING:
    from llmcli.checkpoint import Loaded

AT_ONCE = 256  # texts or questions that are read before they are answered


def run(cfg: DictConfig, texts: dict[str, list[str]]) -> int:
    import torch

    from llmcli import checkpoint
    from llmcli.loading import precision_of, prepare
    from llmcli.trainer import accelerator_of, quiet_lightning

    quiet_lightning()
    precision = precision_of(cfg.precision)
    if cfg.top < 1:
        raise InputError(f"top ({cfg.top}) must be at least 1")
    path = runs.resolve(cfg.ckpt, "use")
    if cfg.ckpt in (None, "latest"):
        ui.say("run", str(path))
    loaded = checkpoint.load(path)
    if not hasattr(loaded.task, "predict"):
        raise InputError(
            f"{path} is a {type(loaded.task).__name__} run, which predicts nothing about a text",
            _instead(loaded, str(cfg.ckpt or path)),
        )
    kind, _ = accelerator_of(str(cfg.accelerator), 1, key="accelerator")
    if said := prepare(loaded.task, precision, kind):
        ui.say("precision", said)
    asked, answered = _asked(texts, loaded.task.asks), 0
    as_json = bool(cfg.json) or not ui.is_terminal("stdout")
    while some := list(islice(asked, AT_ONCE)):
        with torch.inference_mode():
            answers = loaded.task.predict(some, loaded.tokenizer, top=int(cfg.top))
        answered += len(answers)
        if as_json:
            for answer in answers:
                ui.out_json(answer)
        else:
            _show(answers)
    if not answered:
        way_out = f"llm predict {usage(loaded.task.asks[0])}, or --input FILE"
        raise InputError("there is no text to predict for", way_out)
    return 0


def _instead(loaded: Loaded, name: str) -> str:
    if hasattr(loaded.task, "template"):
        return f"llm chat ckpt={name} talks with it"
    return f"llm generate ckpt={name} continues one" if loaded.task.generates else ""


def _asked(texts: Mapping[str, Sequence[str]], ways: Ways) -> Iterator[Asked]:
    """From the flags, then the lines of each --input; without either those of standard input."""
    flags = {name: list(texts.get(name, ())) for name in FLAGS}
    flags["context"] += map(_content, texts.get("context_file", ()))
    yield from of_flags(flags, ways)
    for name in texts.get("input", ()):
        with _opened(f"--input {name}", Path(name)) as file:
            yield from _of_lines(file, f"--input {name}", ways)
    if not any(flags.values()) and not texts.get("input") and not sys.stdin.isatty():
        yield from _of_lines(sys.stdin.buffer, "standard input", ways)


def _of_lines(file: IO[bytes], name: str, ways: Ways) -> Iterator[Asked]:
    for number, line in _lines(file, name):
        if (asked := of_line(line, ways, f"{name}, line {number}")) is not None:
            yield asked


def _content(name: str) -> str:
    with _opened(f"--context-file {name}", Path(name)) as file:
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise InputError(f"--context-file {name} is not UTF-8: byte 0x{data[err.start]:02x}") from err


def _opened(said: str, path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as err:
        raise InputError(f"{said}: {err.strerror}") from err


def _lines(file: IO[bytes], name: str) -> Iterator[tuple[int, str]]:
    """Numbered; also the empty ones between others, so that answers and lines match, and none at the end."""
    empty: list[int] = []
    for number, line in enumerate(file, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
        except UnicodeDecodeError as err:
            raise InputError(f"{name}, line {number} is not UTF-8: byte 0x{line[err.start]:02x}") from err
        if not text.strip():
            empty.append(number)
            continue
        yield from ((each, "") for each in empty)
        empty.clear()
        yield number, text


def _show(answers: Sequence[Mapping[str, Any]]) -> None:
    """One table with a row for each answer, or a table for each where one holds a list; what was asked stands first."""
    if not any(isinstance(value, list) for answer in answers for value in answer.values()):
        ui.table([_cells(answer) for answer in answers], list(answers[0]), stdout=True)
        return
    for answer in answers:
        (_, asked), *said = answer.items()
        ui.out(ui.printable(" | ".join(asked) if isinstance(asked, list) else asked))
        for name, value in said:
            if value and isinstance(value, list) and isinstance(value[0], dict):
                rows = [("", *_cells(each)) for each in value]
                ui.table(rows, (" ", *value[0]), right=range(2, 1 + len(value[0])), stdout=True)
            else:
                shown = ", ".join(map(str, value)) or "none" if isinstance(value, list) else _cell(name, value)
                ui.out(f"  {name}: {ui.printable(shown)}")


def _cells(values: Mapping[str, Any]) -> list[str]:
    return [_cell(name, value) for name, value in values.items()]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return f"no {name}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
