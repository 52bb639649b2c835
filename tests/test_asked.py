"""What a task is asked, from flags, lines and dicts, and what is refused with the names that are missing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.asked import of_flags, of_line, of_mapping
from llmcli.errors import InputError

TEXT = (("text",),)
ANSWER = (("question", "context"),)
CLASSES = (("text",), ("first", "second"))
CHOICE = (("question", "choices"), ("context", "question", "choices"), ("choices",))


def flags(ways, **given):
    return list(of_flags(given, ways))


def test_flags_become_what_the_task_is_asked():
    assert flags(TEXT, text=["a", "b"]) == ["a", "b"]
    assert flags(TEXT, text=[]) == []
    pair = {"question": "who?", "context": "Ann"}
    assert flags(ANSWER, question=["who?"], context=["Ann"], text=[]) == [pair]
    assert flags(CLASSES, text=["a"]) == ["a"]
    assert flags(CLASSES, second=["b"], first=["a"]) == [{"first": "a", "second": "b"}]
    asked = {"question": "who?", "choices": ["Ann", "Bob"]}
    assert flags(CHOICE, question=["who?"], choice=["Ann", "Bob"]) == [asked]
    assert flags(CHOICE, question=["who?"], choice=["Ann", "Bob"], context=["x"]) == [{"context": "x", **asked}]


def test_one_context_is_for_all_questions_and_others_are_for_one_each():
    found = flags(ANSWER, question=["a", "b"], context=["x"])
    assert found == [{"question": "a", "context": "x"}, {"question": "b", "context": "x"}]
    found = flags(ANSWER, question=["a", "b"], context=["x", "y"])
    assert [each["context"] for each in found] == ["x", "y"]


@pytest.mark.parametrize(
    ("ways", "given", "message", "hint"),
    [
        (ANSWER, {"question": ["a"]}, "--question alone is not enough: this run is asked with question and context",
         "--question \"...\" --context \"...\""),
        (ANSWER, {"text": ["a"]}, "--text is not what this run is asked with: question and context",
         "--question \"...\" --context \"...\""),
        (TEXT, {"question": ["a"], "context": ["b"]},
         "--question and --context is not what this run is asked with: text", "--text \"...\""),
        (CLASSES, {"first": ["a"]}, "--first alone is not enough: this run is asked with text, or first and second",
         "--first \"...\" --second \"...\""),
        (ANSWER, {"question": ["a"] * 3, "context": ["b"] * 2},
         "--context stands there 2 times, other texts 3 times", ""),
        (CHOICE, {"question": ["a"], "choice": ["b"]}, "a question needs two choices or more", "--choice TEXT"),
    ],
)  # fmt: skip
def test_flags_that_do_not_go_together(ways, given, message, hint):
    with pytest.raises(InputError) as caught:
        flags(ways, **given)
    assert str(caught.value) == message and caught.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("ways", "line", "asked"),
    [
        (TEXT, "a\tb", "a\tb"),
        (TEXT, "", ""),
        (TEXT, "{not json", "{not json"),
        (TEXT, '{"text": "{}", "id": 3}', "{}"),
        (ANSWER, '{"id": 1, "context": "Ann", "question": "who?"}', {"question": "who?", "context": "Ann"}),
        (ANSWER, "who?\tAnn", {"question": "who?", "context": "Ann"}),
        (ANSWER, " ", None),
        (CLASSES, '{"first": "a", "second": "b"}', {"first": "a", "second": "b"}),
        (CLASSES, "a\tb", "a\tb"),
        (CHOICE, "who?\tAnn\tBob", {"question": "who?", "choices": ["Ann", "Bob"]}),
        (CHOICE, '{"choices": ["Ann", "Bob"]}', {"choices": ["Ann", "Bob"]}),
        (CHOICE, '{"choices": ["A", "B"], "question": "q", "context": "c"}',
         {"context": "c", "question": "q", "choices": ["A", "B"]}),
    ],
)  # fmt: skip
def test_lines(ways, line, asked):
    assert of_line(line, ways, "line 1") == asked


@pytest.mark.parametrize(
    ("ways", "line", "message", "hint"),
    [
        (ANSWER, '{"question": "who?"}', 'line 7 has no "context": this run is asked with question and context',
         '{"question": "...", "context": "..."}'),
        (ANSWER, "who?", "line 7 has 1 text where this run is asked with question and context", "a tab between them"),
        (ANSWER, "{who?", "line 7 is not JSON: Expecting", ""),
        (ANSWER, '{"question": "who?", "context": 3}', 'line 7: "context" must be a text, not 3', ""),
        (TEXT, '{"txt": "a"}', 'line 7 has no "text": this run is asked with text', '{"text": "..."}'),
        (CHOICE, '{"choices": ["a"]}', 'line 7: "choices" must be a list of two texts or more, not ["a"]', ""),
        (CHOICE, '{"choices": "ab"}', 'line 7: "choices" must be a list', ""),
    ],
)  # fmt: skip
def test_lines_that_ask_nothing(ways, line, message, hint):
    with pytest.raises(InputError) as caught:
        of_line(line, ways, "line 7")
    assert str(caught.value).startswith(message) and caught.value.hint.startswith(hint)


@given(question=st.text(), context=st.text())
def test_json_carries_any_text(question, context):
    asked = {"question": question, "context": context}
    assert of_line(json.dumps(asked), ANSWER, "") == asked == of_mapping({**asked, "id": 1}, ANSWER, "")


def test_choices_may_come_as_a_tuple():
    ways = (("question", "choices"),)
    asked = of_mapping({"question": "which?", "choices": ("this", "that")}, ways, "the call")
    assert list(asked["choices"]) == ["this", "that"]
