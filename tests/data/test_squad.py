from __future__ import annotations

import csv
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.data.reader import Flaw
from llmcli.data.readers.squad import QuestionRows, SquadJson
from llmcli.data.records import QuestionAnswer
from llmcli.errors import InputError

CONTEXT = "The bridge was built in 1901 and painted in 1950."
ROWS = {"format": "auto", "encoding": "utf-8", "delimiter": None, "quotes": None, "header": True, "root": None}


@pytest.fixture
def read(tmp_path):
    def call(*questions, context=CONTEXT, offsets="check"):
        path = tmp_path / "a.json"
        paragraphs = [{"context": context, "qas": list(questions)}]
        path.write_text(json.dumps({"version": "1", "data": [{"title": "Bridges", "paragraphs": paragraphs}]}))
        return list(SquadJson(offsets=offsets, encoding="utf-8").read([path]))

    return call


@pytest.fixture
def read_rows(tmp_path):
    def call(*rows, **changes):
        path = tmp_path / "a.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        options = {"question": "q", "context": "c", "answers": "a", "starts": "s", "id": None, "unanswerable": "NONE"}
        return list(QuestionRows(**{**options, **ROWS, "offsets": "check", **changes}).read([path]))

    return call


def asked(*answers, question="When?", **more):
    given_answers = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": "7", "question": question, "answers": given_answers, **more}


def test_answers_and_their_places(read):
    assert read(asked(("1901", 24), ("in 1901", 21), ("1901", 24))) == [
        QuestionAnswer("When?", CONTEXT, ("1901", "in 1901"), (24, 21), "7")
    ]
    unanswerable = [QuestionAnswer("When?", CONTEXT, (), (), "7")]
    assert read(asked(is_impossible=True)) == read(asked(("1901", 24), is_impossible=True)) == unanswerable
    assert read({"id": 7, "question": "When?", "is_impossible": True}) == unanswerable


def test_wrong_places_are_flaws_or_looked_for(read, tmp_path):
    (flaw,) = read(asked(("1950", 24)))
    assert (flaw.where, flaw.what) == (
        f"{tmp_path / 'a.json'}, record 1, paragraph 1, question 1 (7)",
        "the answer '1950' does not stand at character 24 of its context",
    )
    assert flaw.error().hint.startswith("data.reader.offsets=find looks for the answer in the text")
    assert read(asked(("1950", 24), ("1999", -1), ("in", -1)), offsets="find") == [
        QuestionAnswer("When?", CONTEXT, ("1950", "in"), (44, 21), "7")
    ]
    (found,) = read(asked(("in", 40)), offsets="find")
    assert found.starts == (41,)  # the nearer of two
    (flaw,) = read(asked(("1999", 3)), offsets="find")
    assert flaw.what == "the answer '1999' stands nowhere in its context"


@pytest.mark.parametrize(
    ("question", "what"),
    [
        (asked(question=" "), 'the column "question" is empty'),
        (asked((" ", 3)), "an answer is empty"),
        ({"question": "When?", "answers": "1901"}, 'an answer must have "text" and a number "answer_start", not None'),
        ({"question": "When?", "answers": [{"text": "a"}]}, 'an answer must have "text" and a number "answer_start"'),
        ("When?", "a question must be an object"),
    ],
)
def test_questions_that_are_none(read, question, what):
    flaw, sound = read(question, asked(("1901", 24)))
    assert flaw.what.startswith(what) and sound.answers == ("1901",)


def test_tables_with_answers_as_text_or_lists(read_rows):
    def row(answers, starts):
        return {"q": "When?", "c": CONTEXT, "a": answers, "s": starts}

    one = QuestionAnswer("When?", CONTEXT, ("1901",), (24,))
    assert (
        read_rows(row("1901", "24"), row("['1901']", "[24]"), row('["1901"]', "24"), row("1901", "(24, 28)"))
        == [one] * 4
    )
    both = {"text": ["1901", "1950"], "answer_start": [24, 44]}
    assert (
        read_rows(row(str(both), ""), row(json.dumps(both), ""))
        == [QuestionAnswer("When?", CONTEXT, ("1901", "1950"), (24, 44))] * 2
    )
    assert read_rows(row("in  1901", "(21, 28)"))[0].answers == ("in 1901",)
    assert read_rows(row("(in 1901)", "[1]"))[0].what.startswith("the answer '(in 1901)' does not stand at character 1")
    assert [each.what for each in read_rows(row("1901", "soon"), row("1901", "[1, 2, 3]"))] == [
        "the starts of the answers must be numbers, not soon",
        "1 answers but 3 starts",
    ]


def test_tables_say_what_has_no_answer(read_rows):
    rows = [{"q": "Why?", "c": f"{CONTEXT} NONE", "a": answer, "s": "(50, 54)"} for answer in ("NONE", "", "[]")]
    assert read_rows(*rows) == [QuestionAnswer("Why?", CONTEXT)] * 3


def test_answers_without_places_are_looked_for(read_rows):
    row = {"q": "When?", "c": CONTEXT, "a": "1901", "s": "", "n": "x7"}
    assert read_rows(row, starts=None, id="n") == [QuestionAnswer("When?", CONTEXT, ("1901",), (24,), "x7")]


def test_unknown_options():
    with pytest.raises(InputError, match=r"^data.reader.offsets \(guess\) must be one of check, find$"):
        SquadJson(offsets="guess", encoding="utf-8")


QUICK = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["text", "answer_start", "answers", "question", "id"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@QUICK
@given(anything, st.one_of(st.text(), anything), st.sampled_from(["check", "find"]))
def test_any_question_gives_a_record_or_a_flaw(read, question, context, offsets):
    assert all(isinstance(each, QuestionAnswer | Flaw) for each in read(question, context=context, offsets=offsets))


@QUICK
@given(st.text(max_size=20), st.text(max_size=20))
def test_any_row_gives_a_record_or_a_flaw(read_rows, answers, starts):
    row = {"q": "When?", "c": CONTEXT, "a": answers, "s": starts}
    try:
        assert all(isinstance(each, QuestionAnswer | Flaw) for each in read_rows(row))
    except InputError as err:
        assert "a.csv" in str(err)
