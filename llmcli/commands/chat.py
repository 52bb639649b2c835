"""llm chat: talk with a run in the terminal, or answer the lines of standard input."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from llmcli import config as configs
from llmcli import files, runs, ui
from llmcli.errors import InputError, LLMError

if TYPE_CHECKING:
    from llmcli.chat import Answer, Dialogue
    from llmcli.checkpoint import Loaded

HELP = (
    ("/reset", "begin anew; the system's text stays"),
    ("/system TEXT", "tell the assistant what to be from here on; without TEXT nothing"),
    ("/save FILE", "write the conversation as a line of JSON that data=chat reads"),
    ("/help", "this list"),
    ("/quit", "end, as Ctrl-D does; Ctrl-C stops an answer"),
    ("//...", "a message that begins with /"),
)


def run(cfg: DictConfig, texts: dict[str, list[str]]) -> int:
    from llmcli import checkpoint
    from llmcli.chat import Dialogue
    from llmcli.loading import precision_of, prepare
    from llmcli.strategies import strategy_of
    from llmcli.trainer import accelerator_of, quiet_lightning

    quiet_lightning()
    configs.validate(cfg)
    precision = precision_of(cfg.precision)
    if cfg.unknown not in ("error", "replace"):
        raise InputError(f"unknown must be error or replace, not {cfg.unknown!r}")
    path = runs.resolve(cfg.ckpt, "use")
    if cfg.ckpt in (None, "latest"):
        ui.say("run", str(path))
    loaded = checkpoint.load(path)
    _check_converses(loaded, str(cfg.ckpt or path))
    kind, _ = accelerator_of(str(cfg.accelerator), 1, key="accelerator")
    if said := prepare(loaded.task, precision, kind, generating=True):
        ui.say("precision", said)
    dialogue = Dialogue(
        loaded.task,
        loaded.tokenizer,
        strategy=strategy_of(loaded, cfg.decoding),
        max_new_tokens=int(cfg.max_new_tokens),
        seed=int(cfg.seed),
        system="\n".join(texts.get("system", [])) or None,
        unknown=str(cfg.unknown),
    )
    session = Session(dialogue, as_json=bool(cfg.json))
    if sys.stdin.isatty():
        session.talk()
    else:
        session.answer_lines()
    return 0


def _check_converses(loaded: Loaded, name: str) -> None:
    """Raises InputError, saying what the run can do, for one that did not learn from conversations."""
    task = loaded.task
    if hasattr(task, "template"):
        return
    ways = []
    if task.generates:
        does = "turns a text into another" if hasattr(task, "bind") else "continues a text"
        ways.append(f"llm generate ckpt={name} {does}")
    if hasattr(task, "predict"):
        ways.append(f"llm predict ckpt={name} answers with it")
    if getattr(task, "head_kind", None) == "next token":
        ways.append(f"llm train data=chat data.path=FILE init={name} teaches it to converse")
    raise InputError(f"{loaded.path} is a {type(task).__name__} run, which was not taught to converse", "; ".join(ways))


class Session:
    """What is typed, and what is said to it."""

    def __init__(self, dialogue: Dialogue, *, as_json: bool) -> None:
        self.dialogue, self.as_json = dialogue, as_json
        self._saved: set[Path] = set()  # files that hold this conversation, and may be written again

    def talk(self) -> None:
        """In a terminal: until /quit or Ctrl-D. A mistake is said, and the conversation goes on."""
        ui.note("/help lists the commands; Ctrl-C stops an answer, Ctrl-D ends")
        while True:
            try:
                line = ui.ask("you ▸ ").strip()
            except EOFError:
                ui.note("")
                return
            except KeyboardInterrupt:
                ui.note("\nCtrl-D or /quit ends")
                continue
            try:
                if line and self._take(line):
                    return
            except LLMError as err:
                ui.error(str(err), err.hint)
            except KeyboardInterrupt:
                ui.note("\nstopped; the message was not said")

    def answer_lines(self) -> None:
        """In a pipe: each line of standard input is a message or a command; a mistake ends it."""
        for number, line in enumerate(sys.stdin.buffer, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text and self._take(text):
                    return
            except UnicodeDecodeError as err:
                raise InputError(f"standard input, line {number} is not UTF-8: byte 0x{line[err.start]:02x}") from err
            except InputError as err:
                raise InputError(f"standard input, line {number}: {err}", err.hint) from err

    def _take(self, line: str) -> bool:
        """A message or a command; whether it ends the conversation."""
        if not line.startswith("/") or line.startswith("//"):
            self._answer(line[1:] if line.startswith("//") else line)
            return False
        name, _, rest = line.partition(" ")
        match name, rest.strip():
            case "/quit", "":
                return True
            case "/help", "":
                ui.table(HELP)
            case "/reset", "":
                self.dialogue.reset()
                self._saved.clear()
                ui.note("the conversation begins anew")
            case "/system", text:
                self.dialogue.system = text or None
                ui.note("the assistant is told so" if text else "the assistant is told nothing")
            case "/save", file if file:
                self._save(Path(file))
            case "/save", _:
                raise InputError("/save needs a file", "/save talk.jsonl")
            case _:
                raise InputError(
                    f"there is no command {line}", "/help lists them; //... sends a message that begins with /"
                )
        return False

    def _answer(self, text: str) -> None:
        from llmcli.chat import StoppedError

        streams = not self.as_json
        with _interrupts() as interrupted:

            def show(piece: str) -> None:
                if streams:
                    ui.stream(piece)
                if interrupted():
                    raise StoppedError

            answer = self.dialogue.ask(text, show)
            if streams:
                ui.end_stream()
        if self.as_json:
            ui.out_json({"message": text, **_plain(answer)})
        if answer.forgotten:
            ui.note(f"the oldest {answer.forgotten} turns no longer fit what the model sees: it has forgotten them")
        if answer.finish_reason == "length":
            ui.note(f"the answer was cut after {answer.tokens:,} tokens")
        elif answer.finish_reason == "stopped":
            ui.note("stopped")

    def _save(self, path: Path) -> None:
        if not path.absolute().parent.is_dir():
            raise InputError(f"{path} cannot be written: there is no such folder")
        if path.exists() and path.absolute() not in self._saved:
            raise InputError(f"{path} is there already", "another name, or delete it")
        line = json.dumps(self.dialogue.record(), ensure_ascii=False) + "\n"
        try:
            files.write_atomic(path, line.encode())
        except OSError as err:
            raise InputError(f"{path} cannot be written: {err.strerror}") from err
        self._saved.add(path.absolute())
        ui.note(f"saved to {path}")


def _plain(answer: Answer) -> dict[str, object]:
    return {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "tokens": answer.tokens,
        "forgotten_turns": answer.forgotten,
        "reused_tokens": answer.reused,
    }


@contextmanager
def _interrupts() -> Iterator[Interrupted]:
    """In a terminal Ctrl-C asks for an end of the answer, which comes after the token in hand; a second one, or Ctrl-C
    in a pipe, is a KeyboardInterrupt."""
    interrupted = Interrupted()
    if not sys.stdin.isatty():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, interrupted.note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


class Interrupted:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self._once = False

    def __call__(self) -> bool:
        return self._once

    def note(self, number: int, frame: FrameType | None) -> None:
        if self._once:
            raise KeyboardInterrupt
        self._once = True
