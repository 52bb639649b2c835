"""How a conversation becomes one sequence of tokens: a Jinja template arranges its turns.

Templates are written as Hugging Face's are, with `messages`, `add_generation_prompt`, `bos_token`, `eos_token`,
`raise_exception` and `{% generation %}`, but they never see the texts: each turn's `content` stands for a place, into
which the ids of its text are put once the template is done. So no text can pass for a mark, and which tokens are the
assistant's is known exactly. A template runs in Jinja's sandbox, with bounds on its steps, its time and what it holds.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce, wraps
from time import thread_time
from types import FrameType
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from llmcli.errors import InputError
from llmcli.tokenizers.base import RESERVED

KEY = "task.template"
MAX_STEPS = 200_000  # lines of Python that a rendering may run; a conversation of 1,000 turns takes about 20,000
MAX_SECONDS = 10.0  # of the processor, for steps that are not small
MAX_CHARACTERS = 1_000_000  # of what it writes, places of texts included; and of what one of its values holds
MAX_VALUES = 100_000  # in another one
MAX_BITS = 64  # of a whole number

# Noncharacters of Unicode, which are for use inside a program: a special id each, and what encloses a place or a span.
# A template cannot hold one, and no text of a conversation is ever in a rendering.
_SPECIAL = 0xFDD0
_PLACE, _PLACE_END, _BEGIN, _END = "\ufde0", "\ufde1", "\ufde2", "\ufde3"
_PRIVATE = re.compile("[\ufdd0-\ufdef]")


# Filters and methods of strings whose result can be far longer than what they are given.
_MULTIPLYING = {"batch", "center", "expandtabs", "format", "format_map", "indent", "join", "ljust", "replace"}
_MULTIPLYING |= {"fromkeys", "rjust", "round", "slice", "translate", "wordwrap", "zfill"}
_WEIGHED = "_weighed"  # a filter of the sandbox's own
_EMPTY: dict[str, str] = {}
_VIEWS = (type(_EMPTY.keys()), type(_EMPTY.values()), type(_EMPTY.items()))
_CONTAINERS = (list, tuple, dict, range, *_VIEWS)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rendering: text that the template writes, a special id (its index), or the place of a turn's text.

    said: the assistant says it, so that it is to be learned.
    """

    text: str = ""
    special: int | None = None
    turn: int | None = None
    said: bool = False


class ChatTemplate:
    """text: the template. marks: words in it that stand for reserved ids, by name: {"<|im_end|>": "eos"}.

    What stands between `{% generation %}` and `{% endgeneration %}` is what the assistant says.

    Raises InputError for a template that does not compile and for marks that name no reserved id.
    """

    def __init__(self, *, text: str, marks: Mapping[str, str]) -> None:
        if found := _PRIVATE.search(text):
            raise InputError(f"{KEY} holds the character U+{ord(found[0]):04X}, which is for use inside the program")
        names = [name.strip("<>") for name in RESERVED]
        for mark, name in marks.items():
            if not mark or name not in names:
                raise InputError(
                    f"task.marks: {mark!r} stands for {name!r}, no reserved id", f"one of {', '.join(names)}"
                )
        specials = {mark: names.index(name) for mark, name in marks.items()}
        self._variables = {f"{name}_token": chr(_SPECIAL + index) for index, name in enumerate(names)}
        self._specials = {**specials, **{chr(_SPECIAL + index): index for index in range(len(RESERVED))}}
        words = "|".join(map(re.escape, sorted(self._specials, key=len, reverse=True)))
        self._pieces = re.compile(f"({_PLACE}\\d+{_PLACE_END}|[{_BEGIN}{_END}]|{words})")
        environment = _Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(text)
        except jinja2.TemplateSyntaxError as err:
            raise InputError(f"{KEY}, line {err.lineno}: {err.message}") from err
        except RecursionError as err:
            raise InputError(f"{KEY} is nested too deeply") from err

    def pieces(self, roles: Sequence[str], *, answer_next: bool) -> list[Piece]:
        """A conversation whose turns have these roles, in order. answer_next: up to where an answer begins.

        Raises InputError where the template fails, refuses the roles, does not end, or leaves out or repeats a text.
        """
        messages = [{"role": role, "content": f"{_PLACE}{turn}{_PLACE_END}"} for turn, role in enumerate(roles)]
        variables = {**self._variables, "messages": messages, "add_generation_prompt": answer_next}
        pieces = list(self._parsed(self._rendered(variables, roles)))
        places = Counter(piece.turn for piece in pieces)
        for turn, role in enumerate(roles):
            if (count := places[turn]) != 1:
                often = f"{count} times" if count else "nowhere"
                raise InputError(
                    f"{KEY} puts the text of turn {turn + 1}, the {role}'s, {often}: {_said(roles)}",
                    "each message.content must stand there once, as it is: filters cannot change it",
                )
        return pieces

    def _rendered(self, variables: Mapping[str, Any], roles: Sequence[str]) -> str:
        try:
            with _bounded(MAX_STEPS, MAX_SECONDS):
                parts, size = [], 0
                for part in self._template.generate(variables):
                    parts.append(part)
                    size += len(part)
                    _check_size(size)
                return "".join(parts)
        except Exception as err:  # a template can raise whatever Python can
            lines = [
                frame.lineno for frame in traceback.extract_tb(err.__traceback__) if frame.filename == "<template>"
            ]
            line = f", line {lines[-1]}" if lines else ""
            raise InputError(f"{KEY}{line} fails for {_said(roles)}: {str(err) or type(err).__name__}") from err

    def _parsed(self, rendering: str) -> Iterator[Piece]:
        said = False
        for part in self._pieces.split(rendering):
            if part in (_BEGIN, _END):
                said = part == _BEGIN
            elif part.startswith(_PLACE):
                yield Piece(turn=int(part[1:-1]), said=said)
            elif part in self._specials:
                yield Piece(special=self._specials[part], said=said)
            elif part:
                yield Piece(text=part, said=said)


class _EndlessError(Exception):
    """A rendering goes on and on."""


def _check_size(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise _EndlessError(f"it writes more than {MAX_CHARACTERS:,} characters")


def _joined(parts: Iterable[str]) -> str:
    found = list(parts)
    _check_size(sum(map(len, found)))
    return "".join(found)


def _weighed(value: Any) -> Any:
    """The value, if it holds no more than MAX_VALUES and MAX_CHARACTERS, each counted as often as it would be printed
    or compared: what stands twice in a list, which stands twice in another, and so on, is soon more than can be.

    A namespace counts as one: what is done with it are steps of Python.
    """
    if isinstance(value, int | float | None):
        return value
    before = sys.gettrace()
    sys.settrace(None)  # a walk that is bounded by itself need not be slow
    try:
        _check_weight(value)
    finally:
        sys.settrace(before)
    return value


def _check_weight(value: Any) -> None:
    values, characters, held = 0, 0, [value]
    while held:
        each = held.pop()
        if isinstance(each, str):
            characters += len(each)
        elif isinstance(each, _CONTAINERS):
            values += len(each)
            if values <= MAX_VALUES:
                held.extend(each)
                if isinstance(each, dict):
                    held.extend(each.values())
    _check_size(characters)
    if values > MAX_VALUES:
        raise _EndlessError(f"one of its values holds more than {MAX_VALUES:,} others")


def _weighing(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose results are weighed."""

    @wraps(function)  # with the marks by which Jinja knows what to call it with
    def weighing(*given: Any, **named: Any) -> Any:
        return _weighed(function(*given, **named))

    return weighing


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's, without what makes much of little in a single step, which no bound on steps stops.

    Nothing is worked out while a template compiles, where nothing is bounded.
    """

    intercepted_binops = frozenset({"*", "**", "%", "+"})
    concat = staticmethod(_joined)

    def __init__(self, **options: Any) -> None:
        super().__init__(optimized=False, finalize=_as_it_is, **options)
        self.filters = {name: _weighing(each) for name, each in self.filters.items() if name not in _MULTIPLYING} | {
            _WEIGHED: _weighed
        }
        self.globals |= {"dict": _weighing(dict)}
        del self.globals["lipsum"]

    def wrap_str_format(self, value: Any) -> None:
        """Not let in by another door than other methods."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _MULTIPLYING and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" or not (numbers or operator == "+"):
            raise SecurityError(f"{operator} is not allowed here")
        result = _weighed(super().call_binop(context, operator, left, right))
        if isinstance(result, int) and result.bit_length() > MAX_BITS:
            raise SecurityError(f"whole numbers of more than {MAX_BITS} bits are not allowed here")
        return result

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Added().visit(super()._parse(source, name, filename))
        return tree


class _Added(NodeTransformer):
    """`a ~ b` as `a|string + b|string`, which the sandbox is asked about; what puts values together, weighed."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802  as the base class names it
        self.generic_visit(node)
        parts: list[nodes.Expr] = [
            nodes.Filter(each, "string", [], [], None, None, lineno=node.lineno) for each in node.nodes
        ]
        return reduce(lambda left, right: nodes.Add(left, right, lineno=node.lineno), parts)

    def visit_List(self, node: nodes.List | nodes.Tuple | nodes.Dict | nodes.Name) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return nodes.Filter(node, _WEIGHED, [], [], None, None, lineno=node.lineno)

    visit_Dict = visit_List  # noqa: N815

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802
        return self.visit_List(node) if node.ctx == "load" else node

    def visit_Name(self, node: nodes.Name) -> nodes.Expr:  # noqa: N802
        """A macro's `varargs` and `kwargs` are what it was called with, put together by Jinja."""
        return self.visit_List(node) if node.ctx == "load" and node.name in ("varargs", "kwargs") else node


@jinja2.pass_context
def _as_it_is(context: Any, value: Any) -> Any:
    """What is printed; that it is asked for keeps Jinja from printing constants while it compiles."""
    return value


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: what the assistant says, as in transformers' templates."""

    tags = {"generation"}  # noqa: RUF012  as the base class declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_enclosed"), [], [], body).set_lineno(line)

    def _enclosed(self, caller: Callable[[], str]) -> str:
        return f"{_BEGIN}{caller()}{_END}"


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


@contextmanager
def _bounded(steps: int, seconds: float) -> Iterator[None]:
    """Raises _EndlessError where the code in it runs more lines of Python than `steps`, or takes longer.

    A template is compiled to Python, so each turn of its loops is a line or more.
    """
    left, end = steps, thread_time() + seconds

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise _EndlessError(f"it does not end within {steps:,} steps")
        if thread_time() > end:
            raise _EndlessError(f"it does not end within {seconds:g} seconds")
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)


def _said(roles: Sequence[str]) -> str:
    return f"a conversation of {', '.join(roles)}"
