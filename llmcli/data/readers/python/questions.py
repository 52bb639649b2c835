"""Questions about parameters, whose answers stand in the signature or the docstring; some have none."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from llmcli.data.readers.python.docstrings import Parameter, Span, parameters
from llmcli.data.readers.python.files import Function
from llmcli.data.readers.python.source import Documented, Module, PythonRecords, number
from llmcli.data.records import QuestionAnswer

MAX_QUESTIONS = 4  # about one object
UNANSWERABLE = 3  # one object in so many is asked about a parameter of another

ASKED = {
    "meaning": ("What is the parameter {}?", "What does {} stand for?"),
    "type": ("Of what type is {}?", "What kind of value does {} take?"),
    "default": ("What is the default of {}?", "Which value does {} have when it is left out?"),
}


class PythonQuestions(PythonRecords[QuestionAnswer]):
    """The meaning, type or default of a parameter, asked of the signature and the docstring."""

    record = QuestionAnswer
    version = 1

    def examples(self, module: Module) -> Iterator[QuestionAnswer]:
        known = {each.name: found for each in module.objects if (found := parameters(each.doc))}
        names = sorted({parameter.name for found in known.values() for parameter in found})
        for each in module.objects:
            if each.name not in known:
                continue
            context = f"{each.signature}\n\n{each.doc}"
            for parameter in known[each.name][:MAX_QUESTIONS]:
                spans = _answers(each, parameter)
                if not spans:
                    continue
                kind = sorted(spans)[number(f"{each.name} {parameter.name}") % len(spans)]
                start, stop = spans[kind]
                yield QuestionAnswer(
                    _question(kind, parameter.name, each.name),
                    context,
                    (context[start:stop],),
                    (start,),
                    id=f"{each.name}.{parameter.name}.{kind}",
                )
            if number(each.name) % UNANSWERABLE == 0:
                words = set(re.findall(r"\w+", context))
                foreign = [name for name in names if name not in words]
                if foreign:
                    name = foreign[number(f"{each.name} none") % len(foreign)]
                    kind = sorted(ASKED)[number(f"{each.name} {name}") % len(ASKED)]
                    yield QuestionAnswer(_question(kind, name, each.name), context, id=f"{each.name}.{name}.{kind}")


def _question(kind: str, parameter: str, asked_of: str) -> str:
    forms = ASKED[kind]
    return forms[number(f"{asked_of} {parameter} {kind}") % len(forms)].format(parameter)


def _answers(each: Documented, parameter: Parameter) -> dict[str, Span]:
    """Where the answers to the kinds of question stand in the signature, two line ends and the docstring."""
    shift = len(each.signature) + 2
    said = {"meaning": parameter.meaning, "type": parameter.type}
    spans = {kind: (span[0] + shift, span[1] + shift) for kind, span in said.items() if span}
    default = _default(each, parameter.name)
    return {**spans, "default": default} if default else spans


def _default(each: Documented, name: str) -> Span | None:
    """Where the default of a parameter stands in the signature."""
    if not isinstance(each.node, Function):
        return None
    arguments = each.node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [
        *zip(reversed(positional), reversed(arguments.defaults), strict=False),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    for argument, default in pairs:
        if argument.arg == name and default is not None:
            before, value = f"{ast.unparse(argument)}=", ast.unparse(default)
            found = re.search(rf"[(\s]{re.escape(before + value)}", each.signature)
            start = found.start() + 1 + len(before) if found else 0
            return (start, start + len(value)) if found else None
    return None
