"""Data sets made from Python source: what is taken from a small library, and what keeps splits apart."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from llmcli.data.readers.python import docstrings
from llmcli.data.readers.python.chat import PythonChat
from llmcli.data.readers.python.choices import PythonChoices
from llmcli.data.readers.python.pairs import PythonPairs
from llmcli.data.readers.python.preferences import PythonPreferences
from llmcli.data.readers.python.questions import PythonQuestions
from llmcli.data.readers.python.roles import PythonRoles
from llmcli.data.readers.python.summaries import PythonSummaries
from llmcli.data.readers.python.topics import PythonTopics
from llmcli.data.records import Conversation, LabeledPair, LabeledText, QuestionAnswer, TaggedTokens, TextPair, Turn
from llmcli.errors import InputError

REST = "It looks at every box once, from the first to the last, and stops where nothing more is left to be done there."
MODULE = f'''
raise SystemExit("nobody may run this")

def open_box(box, tool="knife", *, times: int = 1):
    """Open a box with care.

    {REST}

    Parameters
    ----------
    box : Box
        The thing to open. It stays.
    tool : str, optional
        What to open it with.
    times
        How often.
    """
    import os.path as place
    found = place.join(box, key=tool)
    return found.lid

def close_box(box: list[str]):
    """Close a box for good.

    {REST} Then it is closed.

    Args:
        box (Box): the thing to close; gone after.
    """

def turn_box(box):
    """Turn a box upside down.

    {REST} Then it is turned.

    :param Box box: the thing to turn
    """

def paint_box(box):
    """Paint a box in red.

    {REST} Then it is red.
    """
'''


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Two packages, of which one holds a copy of the other's docstrings."""
    for name, content in {"boxes": MODULE, "copies": MODULE.replace("def open", "def reopen")}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("", encoding="utf-8")
        (tmp_path / name / "work.py").write_text(content, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def make(kind, **changes):
    settings = {"packages": ["boxes"], "max_characters": 4000, "val_fraction": 0.0, "test_fraction": 0.0, "seed": 0}
    return kind(**{**settings, **changes})


def train(kind, **changes):
    return list(make(kind, **changes).records("train"))


OPEN = "def open_box(box, tool='knife', *, times: int=1)"


def test_summaries(library):
    found = train(PythonSummaries)
    assert [each.target for each in found] == [
        "Open a box with care.",
        "Close a box for good.",
        "Turn a box upside down.",
        "Paint a box in red.",
    ]
    assert found[3] == TextPair(f"def paint_box(box)\n\n{REST} Then it is red.", "Paint a box in red.")
    assert train(PythonSummaries, max_characters=165) == found[3:]


def test_a_docstring_counts_once(library):
    assert train(PythonSummaries, packages=["boxes", "copies"]) == train(PythonSummaries)


def test_questions_have_answers_where_they_are_said_to_be(library):
    found = train(PythonQuestions)
    kinds = {each.id.rpartition(".")[2]: each.answers for each in found if "open_box.tool" in each.id}
    assert set(kinds.values()) <= {("What to open it with",), ("str, optional",), ("'knife'",)}
    answers = {each.id: each.answers for each in found if each.answers}
    assert len(answers) == 5 and set(answers.values()) <= {
        *kinds.values(),
        ("The thing to open",),
        ("Box",),
        ("How often",),
        ("1",),
        ("the thing to close",),
        ("the thing to turn",),
    }
    foreign = [each for each in found if not each.answers]
    assert all(each.id.split(".")[-2] not in each.context for each in foreign)
    assert all(isinstance(each, QuestionAnswer) for each in found)


def test_chat(library):
    first = train(PythonChat)[0]
    assert isinstance(first, Conversation) and first.turns[0].text.endswith(f"\n\n{OPEN}")
    assert [turn for turn in first.turns if turn.role == "assistant"] == [
        Turn("assistant", text)
        for text in ("Open a box with care.", "The thing to open.", "What to open it with.", "How often.")
    ]


def test_choices_and_preferences_take_others_of_the_module(library):
    summaries = {each.target for each in train(PythonSummaries)}
    choices = train(PythonChoices)
    assert [set(each.choices) for each in choices] == [summaries] * 4
    texts = {each.source: each.target for each in train(PythonSummaries)}
    assert all(each.choices[each.answer] == texts[each.context] for each in choices)
    preferred = train(PythonPreferences)
    assert {each.chosen for each in preferred} == summaries
    assert all(each.rejected in summaries - {each.chosen} for each in preferred)


def test_pairs_belong_together_or_not(library):
    names = {"open_box": "Open", "close_box": "Close", "turn_box": "Turn", "paint_box": "Paint"}
    found = train(PythonPairs)
    assert len(found) == 4 and all(isinstance(each, LabeledPair) for each in found)
    for each in found:
        begins = next(word for name, word in names.items() if name in each.first)
        assert each.labels == ("same" if each.second.startswith(begins) else "different",)


def test_roles(library):
    first = train(PythonRoles)[0]
    assert isinstance(first, TaggedTokens)
    shown = [(token, tag) for token, tag in zip(first.tokens, first.tags, strict=True) if tag != "O"]
    assert shown == [
        *[("open_box", "B-function"), ("box", "B-parameter"), ("tool", "B-parameter"), ("times", "B-parameter")],
        ("int", "B-type"),
        *[("os", "B-module"), (".", "I-module"), ("path", "I-module"), ("as", "I-module"), ("place", "I-module")],
        *[("found", "B-variable"), ("place", "B-global"), ("join", "B-method"), ("box", "B-parameter")],
        *[("key", "B-keyword"), ("tool", "B-parameter"), ("found", "B-variable"), ("lid", "B-attribute")],
    ]
    assert "knife" in "".join(first.tokens) and "care" not in "".join(first.tokens)


def test_topics_are_the_packages_and_are_limited(library):
    topics = {"boxes and so on": ["boxes.work"], "none": ["nowhere"]}
    settings = {"max_characters": 4000, "val_fraction": 0.0, "test_fraction": 0.0, "seed": 0}
    source = PythonTopics(topics=topics, per_topic=10, **settings)
    found = list(source.records("train"))
    assert {each.labels for each in found} == {("boxes and so on",)} and source.absent == ["nowhere"]
    assert LabeledText(f"Paint a box in red.\n{REST} Then it is red.", ("boxes and so on",)) in found
    assert len(list(PythonTopics(topics=topics, per_topic=2, **settings).records("train"))) == 2


def test_packages_that_are_not_there(library):
    source = make(PythonSummaries, packages=["boxes", "nowhere"])
    assert source.describe().endswith(", without nowhere")
    with pytest.raises(InputError, match=r"^none of data.packages \(nowhere, boxes.nothing\) is installed$"):
        make(PythonSummaries, packages=["nowhere", "boxes.nothing"])


def test_the_fingerprint_follows_sources_and_options(library):
    before = make(PythonSummaries).fingerprint()
    assert make(PythonSummaries).fingerprint() == before
    assert make(PythonChoices).fingerprint() != before and make(PythonSummaries, seed=1).fingerprint() != before
    assert make(PythonSummaries, max_characters=5).fingerprint() != before
    (library / "boxes" / "work.py").write_text("", encoding="utf-8")
    assert make(PythonSummaries).fingerprint() != before


@pytest.mark.parametrize("kind", [PythonSummaries, PythonQuestions, PythonRoles])
def test_nothing_of_train_stands_in_another_split(kind):
    source = make(kind, packages=["jinja2", "fsspec"], val_fraction=0.2, test_fraction=0.2)
    parts = {split: list(source.records(split)) for split in source.splits}
    assert all(len(part) > 5 for part in parts.values())
    inputs = Counter(record.inputs() for part in parts.values() for record in part)
    assert max(inputs.values()) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Do a thing now.\n\nMore of it.", ("Do a thing now.", "More of it.")),
        ("Do a\nthing now\n\nMore.", ("Do a thing now", "More.")),
        ("Do a thing now.", None),
        ("Thing.\n\nMore.", None),
        ("======= heading ======\n\nMore.", None),
        (f"{'very ' * 40}long.\n\nMore.", None),
    ],
)
def test_what_is_a_summary(text, expected):
    assert docstrings.summary_and_body(text) == expected


def test_prose_ends_where_lists_and_examples_begin():
    text = "One line.\n\nAnd two\nlines.\n\n>>> 1 + 1\n2\n\nMore."
    assert docstrings.prose(text) == "One line.\nAnd two lines."
    assert docstrings.prose("One.\n\nArgs:\n    x: a thing") == docstrings.prose("One.\n\n- a\n- b") == "One."
