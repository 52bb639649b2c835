"""The only module that prints: results to stdout, everything else to stderr.

In a pipe there are no colours, no cursor movements and no line breaks of our own. Text that came from the user or a
file is never read as markup, and its control characters are shown rather than obeyed.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

LABEL_WIDTH = 11  # the longest label of a start-up line ("optimizer") and two spaces
_PIPE_WIDTH = 10_000  # a table in a log file is never folded
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

err = Console(stderr=True, highlight=False)
_out = Console(highlight=False)
_log: Path | None = None  # log.txt of the run in hand


def is_terminal(stream: str = "stderr") -> bool:
    """Whether "stderr" or "stdout" is a terminal that understands cursor movements."""
    console = _out if stream == "stdout" else err
    return console.is_terminal and not console.is_dumb_terminal


def is_first_process() -> bool:
    """Whether this is the one of a run's processes that speaks for all; errors are shown by any."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "RANK"))


def printable(text: object) -> str:
    """The text with its control characters spelt out (\\x1b), newlines and tabs kept."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(text))


def keep_log(path: Path | None) -> None:
    """From here on, append every line of stderr to this file too, plain; None: no longer."""
    global _log
    _log = path


def _line(line: Text) -> None:
    err.print(line, soft_wrap=True)
    log(line.plain)


def log(text: str) -> None:
    """One line for the log file alone, where there is one."""
    if _log is not None:
        with _log.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}".rstrip() + "\n")


def say(label: str, text: str) -> None:
    """A start-up line on stderr: `label       text`."""
    if not is_first_process():
        return
    line = Text(f"{label:<{LABEL_WIDTH}} ", style="bold cyan")
    line.append(printable(text), style="default not bold")
    _line(line)


def note(text: str) -> None:
    """One plain line on stderr."""
    if is_first_process():
        _line(Text(printable(text)))


def warn(text: str) -> None:
    """One warning on stderr: something that the user can act on."""
    if is_first_process():
        _line(Text.assemble(("warning: ", "bold yellow"), printable(text)))


def error(message: str, hint: str = "") -> None:
    """`error: message` on stderr, the way out indented under it."""
    _line(Text.assemble(("error: ", "bold red"), _indented(message)))
    if hint:
        _line(Text("       " + _indented(hint)))


def out(text: str, end: str = "\n") -> None:
    """The result, to stdout, exactly as it is."""
    if is_first_process():
        sys.stdout.write(text + end)
        sys.stdout.flush()


def out_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """The result as one line of strict JSON: a number that is not finite becomes null."""
    out(json.dumps(_finite(value), ensure_ascii=False, allow_nan=False))


def table(
    rows: Iterable[Sequence[object]],
    headers: Sequence[str] = (),
    *,
    right: Sequence[int] = (),
    stdout: bool = False,
) -> None:
    """Aligned columns, numbers on the right in the columns named by `right`."""
    if not is_first_process():
        return
    console = _out if stdout else err
    table = _table(rows, headers, right)
    if console.is_terminal:
        console.print(table)
        return
    plain = Console(file=console.file, width=_PIPE_WIDTH, highlight=False)
    with plain.capture() as drawn:
        plain.print(table)
    for line in drawn.get().splitlines():  # Rich fills the last column up with spaces
        plain.file.write(line.rstrip() + "\n")


class LiveTable:
    """A table on stderr that is drawn again in place; in a pipe it draws nothing."""

    def __init__(self, headers: Sequence[str], *, right: Sequence[int] = ()) -> None:
        self._headers = headers
        self._right = right
        self._shown: list[Sequence[object]] = []
        self._live = Live(console=err, auto_refresh=False, transient=True) if is_terminal() else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def visible(self) -> bool:
        return self._live is not None

    def update(self, rows: Iterable[Sequence[object]]) -> None:
        shown = list(rows)
        if self._live is not None and shown != self._shown:
            self._shown = shown
            self._live.update(_table(shown, self._headers, self._right), refresh=True)


def clock(seconds: float) -> str:
    """75.2 -> "1:15", 4000 -> "1:06:40"."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def silence() -> None:
    """Throw away what is still to be written: the reader of our pipe has gone."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())


def _indented(text: str) -> str:
    return printable(text).replace("\n", "\n       ")


def _table(rows: Iterable[Sequence[object]], headers: Sequence[str], right: Sequence[int]) -> Table:
    cells = [[Text(printable(cell)) for cell in row] for row in rows]
    columns = max([len(headers), *(len(row) for row in cells)])
    result = Table(box=None, show_header=bool(headers), pad_edge=False, padding=(0, 2, 0, 0))
    for column in range(columns):
        header = Text(headers[column] if column < len(headers) else "", style="bold")
        result.add_column(header, justify="right" if column in right else "left", overflow="fold")
    for row in cells:
        result.add_row(*row)
    return result


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


class Meter:
    """A transient bar on stderr for work that reports `(what, done, total)`; in a pipe a line every 15 seconds.

    A total of 0 is not known: the amount done is shown instead of a share and the time left. in_bytes: amounts are
    bytes, and their rate is shown.
    """

    def __init__(self, *, in_bytes: bool = False) -> None:
        self._in_bytes = in_bytes
        self._bar: Progress | None = None
        self._task: Any = None
        self._line = time.monotonic()
        self._what, self._begun, self._first = "", 0.0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, what: str, done: float, total: float) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._begun, self._first = what, now, done  # what an earlier process did has no rate
        if not is_terminal():
            if now - self._line >= 15.0:
                self._line = now
                share = f" {min(1.0, done / total):.0%}" if total else ""
                note(f"{what}{share}{self._pace(now, done, total)}")
            return
        if self._bar is None:
            self._bar = Progress(
                TextColumn(" {task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[pace]}"),
                console=err, transient=True, refresh_per_second=4,
            )  # fmt: skip
            self._task = self._bar.add_task(what, total=None, pace="")
            self._bar.start()
        pace = self._pace(now, done, total).strip()
        self._bar.update(self._task, description=what, completed=done, total=total or None, pace=pace)

    def _pace(self, now: float, done: float, total: float) -> str:
        """How much is done where nobody knows of how much, how fast, and how long it will still take."""
        amount = "" if total or not done else f"  {done / 1e6:,.1f} MB" if self._in_bytes else f"  {done:,.0f}"
        seconds = now - self._begun
        rate = (done - self._first) / seconds if seconds > 1.0 else 0.0
        if rate <= 0.0:
            return amount
        speed = f"  {rate / 1e6:,.1f} MB/s" if self._in_bytes else ""
        left = f"  {clock(max(0.0, total - done) / rate)} left" if total else ""
        return amount + speed + left


def sample(step: int, prompt: str, text: str) -> None:
    """A training sample on one line of stderr: the prompt dim, the continuation bright."""
    line = Text(f" step {step:,}  ", style="cyan")
    line.append(_one_line(prompt), style="dim")
    line.append(" ▸ ", style="cyan")
    line.append(_one_line(text))
    log(line.plain)
    width = err.width if err.is_terminal else 160
    line.truncate(max(20, width - 1), overflow="ellipsis")
    err.print(line, soft_wrap=True)


def _one_line(text: str) -> str:
    return printable(" ".join(text.split("\n")))


def begin_stream(prompt: str) -> None:
    """Start a streamed text on stdout with its prompt, dim on a terminal."""
    if is_terminal("stdout"):
        _out.print(Text(printable(prompt), style="dim"), end="", soft_wrap=True)
    else:
        out(prompt, end="")


def stream(piece: str) -> None:
    """The next piece of a streamed text."""
    out(printable(piece) if is_terminal("stdout") else piece, end="")


def end_stream() -> None:
    out("")


def ask(prompt: str) -> str:
    """A line that the user types, with the keys of his shell to edit it where there is readline.

    Raises EOFError at the end of input. What is not UTF-8 becomes U+FFFD.
    """
    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401  input() uses it once it is there
    if is_terminal("stdout"):
        coloured = (
            prompt if _out.no_color else f"\x01\x1b[1;36m\x02{prompt}\x01\x1b[0m\x02"
        )  # no width, says \x01...\x02
        line = input(coloured)
    else:
        err.print(Text(prompt, style="bold cyan"), end="")
        line = input()
    return line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
