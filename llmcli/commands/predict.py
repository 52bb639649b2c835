"""llm predict: what a run's task answers to texts: the neighbours of a word, a label, ..."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig

from llmcli import runs, ui
from llmcli.errors import InputError

AT_ONCE = 256  # texts that are read before they are answered


def run(cfg: DictConfig, texts: dict[str, list[str]]) -> int:
    import torch

    from llmcli import checkpoint
    from llmcli.trainer import accelerator_of, quiet_lightning

    quiet_lightning()
    if cfg.top < 1:
        raise InputError(f"top ({cfg.top}) must be at least 1")
    path = runs.resolve(cfg.ckpt, "use")
    if cfg.ckpt in (None, "latest"):
        ui.say("run", str(path))
    loaded = checkpoint.load(path)
    if not hasattr(loaded.task, "predict"):
        raise InputError(
            f"{path} is a {type(loaded.task).__name__} run, which predicts nothing about a text",
            f"llm generate ckpt={cfg.ckpt or path} continues one" if hasattr(loaded.task, "step") else "",
        )
    kind, _ = accelerator_of(str(cfg.accelerator), 1, key="accelerator")
    loaded.task.to(torch.device(kind))
    lines, answered = _texts(texts), 0
    as_json = bool(cfg.json) or not ui.is_terminal("stdout")
    while some := list(islice(lines, AT_ONCE)):
        with torch.inference_mode():
            answers = loaded.task.predict(some, loaded.tokenizer, top=int(cfg.top))
        answered += len(answers)
        if as_json:
            for answer in answers:
                ui.out_json(answer)
        else:
            _show(answers)
    if not answered:
        raise InputError("there is no text to predict for", 'llm predict --text "..." or --input FILE, one text a line')
    return 0


def _texts(texts: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """From --text, then the lines of each --input; without either those of standard input. Answers and lines match."""
    yield from texts.get("text", ())
    for name in texts.get("input", ()):
        try:
            with Path(name).open("rb") as file:
                yield from _lines(file, f"--input {name}")
        except OSError as err:
            raise InputError(f"--input {name}: {err.strerror}") from err
    if not texts.get("text") and not texts.get("input") and not sys.stdin.isatty():
        yield from _lines(sys.stdin.buffer, "standard input")


def _lines(file: IO[bytes], name: str) -> Iterator[str]:
    """Also the empty ones between others, so that answers stand in the lines of their texts; none at the end."""
    empty = 0
    for number, line in enumerate(file, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
        except UnicodeDecodeError as err:
            raise InputError(f"{name}, line {number} is not UTF-8: byte 0x{line[err.start]:02x}") from err
        if not text.strip():
            empty += 1
            continue
        yield from [""] * empty
        empty = 0
        yield text


def _show(answers: Sequence[Mapping[str, Any]]) -> None:
    """One table with a row for each text, or a table for each where an answer holds a list."""
    if not any(isinstance(value, list) for answer in answers for value in answer.values()):
        ui.table([_cells(answer) for answer in answers], list(answers[0]), stdout=True)
        return
    for answer in answers:
        ui.out(ui.printable(answer["text"]))
        for name, value in answer.items():
            if name == "text":
                continue
            if value and isinstance(value, list) and isinstance(value[0], dict):
                rows = [("", *_cells(each)) for each in value]
                ui.table(rows, (" ", *value[0]), right=range(2, 1 + len(value[0])), stdout=True)
            else:
                shown = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
                ui.out(f"  {name}: {ui.printable(shown)}")


def _cells(values: Mapping[str, Any]) -> list[str]:
    return [f"{value:.4f}" if isinstance(value, float) else str(value) for value in values.values()]
