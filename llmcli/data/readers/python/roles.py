"""Roles of names in the code of a function, from its syntax tree: tagging that needs the words around a word.

A name is tagged as a function (where it is defined), class, parameter, variable, global, call, method, attribute,
keyword (of a call), module (imported) or part of a type; all else is outside. Tags are IOB2; a type or module is one
span.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator

from llmcli.data.readers.python import files
from llmcli.data.readers.python.source import Module, PythonRecords
from llmcli.data.records import TaggedTokens

MIN_TOKENS = 10
_LAYOUT = frozenset(
    {tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENDMARKER}
)

Place = tuple[int, int]  # line from 1, character from 0


class PythonRoles(PythonRecords[TaggedTokens]):
    """The tokens of one function each, without its docstring and comments.

    Functions with an f-string are left out: what a token of it is depends on the version of Python.
    """

    record = TaggedTokens
    version = 1

    def examples(self, module: Module) -> Iterator[TaggedTokens]:
        with tokenize.open(module.file) as file:
            lines = file.readlines()
        for node, _ in files.documented(module.tree, module.name):
            if not isinstance(node, files.Function) or any(isinstance(part, ast.JoinedStr) for part in ast.walk(node)):
                continue
            code = lines[node.lineno - 1 : node.end_lineno]
            if sum(map(len, code)) <= self.max_characters:
                tagged = _tagged(node, lines, code)
                if len(tagged.tokens) >= MIN_TOKENS:
                    yield tagged


def _tagged(node: files.Function, lines: list[str], code: list[str]) -> TaggedTokens:
    roles = _Roles(node, lines)
    tokens, tags, before, span = [], [], "", None
    for token in tokenize.generate_tokens(io.StringIO("".join(code)).readline):
        place = (token.start[0] + node.lineno - 1, token.start[1])
        if token.type in _LAYOUT or roles.in_docstring(place):
            continue
        inside = next((each for each in roles.spans if each[0] <= place < each[1]), None)
        if inside:
            tag = f"{'I' if inside == span else 'B'}-{inside[2]}"
        elif token.type == tokenize.NAME and before in ("def", "class"):
            tag = "B-function" if before == "def" else "B-class"
        else:
            tag = f"B-{roles.names[place]}" if token.type == tokenize.NAME and place in roles.names else "O"
        tokens.append(token.string)
        tags.append(tag)
        before, span = token.string, inside
    return TaggedTokens(tuple(tokens), tuple(tags))


class _Roles:
    """What the tree says of places in a function. names: roles of those that begin there. spans: from, to, role."""

    def __init__(self, node: files.Function, lines: list[str]) -> None:
        self._lines = lines
        self.names: dict[Place, str] = {}
        self.spans: list[tuple[Place, Place, str]] = []
        self._parameters = {each.arg for each in ast.walk(node) if isinstance(each, ast.arg)}
        self._variables = {
            each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
        }
        first = node.body[0]
        is_docstring = (
            isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
        )
        self._docstring = (self._start(first), self._end(first)) if is_docstring else None
        self._visit(node, called=False)

    def in_docstring(self, place: Place) -> bool:
        return self._docstring is not None and self._docstring[0] <= place < self._docstring[1]

    def _visit(self, node: ast.AST, *, called: bool) -> None:
        called_part = node.func if isinstance(node, ast.Call) else None
        if isinstance(node, ast.Name):
            self.names[self._start(node)] = self._role(node.id, called=called)
        elif isinstance(node, ast.Attribute):
            line, column = self._end(node)
            self.names[line, column - len(node.attr)] = "method" if called else "attribute"
        elif isinstance(node, ast.arg):
            self.names[self._start(node)] = "parameter"
        elif isinstance(node, ast.keyword) and node.arg:
            self.names[self._start(node)] = "keyword"
        elif isinstance(node, ast.alias):
            self.spans.append((self._start(node), self._end(node), "module"))
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns") and isinstance(value, ast.expr):
                self.spans.append((self._start(value), self._end(value), "type"))
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self._visit(child, called=child is called_part)

    def _role(self, name: str, *, called: bool) -> str:
        if name in self._parameters:
            return "parameter"
        return "variable" if name in self._variables else "call" if called else "global"

    def _start(self, node: ast.expr | ast.stmt | ast.arg | ast.keyword | ast.alias) -> Place:
        return node.lineno, self._column(node.lineno, node.col_offset)

    def _end(self, node: ast.expr | ast.stmt | ast.alias) -> Place:
        line, column = node.end_lineno or node.lineno, node.end_col_offset or 0
        return line, self._column(line, column)

    def _column(self, line: int, column: int) -> int:
        """Characters before a place for which the tree counts bytes of UTF-8."""
        text = self._lines[line - 1]
        return column if text.isascii() else len(text.encode()[:column].decode())
