from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.data.reader import Flaw
from llmcli.data.readers.choices import ChoiceRows
from llmcli.data.records import MultipleChoice, from_plain, to_plain
from llmcli.errors import InputError

ROWS = {"format": "auto", "encoding": "utf-8", "delimiter": None, "quotes": None, "header": True, "root": None}


def reader(**changes):
    options = {"context": None, "question": "q", "choices": "c", "answer": "a", "first": 0, "group": None}
    return ChoiceRows(**{**options, **ROWS, **changes})


@pytest.fixture
def read(tmp_path):
    def call(*objects, **changes):
        path = tmp_path / "a.jsonl"
        path.write_text("\n".join(json.dumps(each) for each in objects), encoding="utf-8")
        return list(reader(**changes).read([path]))

    return call


def test_answers_as_number_letter_label_or_text(read):
    expected = MultipleChoice("", "Which is red?", ("grass", "blood", "snow"), 1)
    question = {"q": "Which is red?", "c": ["grass", "blood", "snow"]}
    assert read(*({**question, "a": answer} for answer in (1, "1", "B", "b", "blood"))) == [expected] * 5
    assert read({**question, "a": 2}, first=1) == [expected]
    labelled = {"text": question["c"], "label": ["x", "y", "z"]}
    assert read({**question, "c": labelled, "a": "y"}, {**question, "c": str(labelled), "a": "y"}) == [expected] * 2
    columns = {
        "q": "Which is red?",
        "c1": "grass",
        "c2": "blood",
        "c3": "snow",
        "a": "B",
        "t": "A text.",
        "g": "colours",
    }
    (found,) = read(columns, choices=["c1", "c2", "c3"], context="t", group="g")
    assert found == MultipleChoice("A text.", "Which is red?", ("grass", "blood", "snow"), 1, "colours")
    assert from_plain(MultipleChoice, to_plain(found)) == found


def test_where_the_first_is_right_its_place_is_drawn_by_the_texts(read):
    pairs = [{"good": f"Cats {number} sleep.", "bad": f"Cats {number} sleeps."} for number in range(40)]
    found = read(*pairs, question=None, choices=["good", "bad"], answer=None)
    assert [each.choices[each.answer] for each in found] == [pair["good"] for pair in pairs]
    assert 10 < sum(each.answer for each in found) < 30
    assert read(*pairs, question=None, choices=["good", "bad"], answer=None) == found


@pytest.mark.parametrize(
    ("given_object", "what"),
    [
        ({"c": ["a", "b"], "a": 2}, "the answer '2' is none of 2 choices"),
        ({"c": ["a", "b"], "a": "C"}, "the answer 'C' is none of 2 choices"),
        ({"c": ["a", "b"], "a": "中"}, "the answer '中' is none of 2 choices"),
        ({"c": ["a"], "a": 0}, "a question needs two choices, not 1"),
        ({"c": "a b", "a": 0}, "the choices must be a list of texts, not a b"),
        ({"c": ["a", "b"]}, 'there is no column "a"; the columns are: q, c.'),
    ],
)
def test_what_is_no_question(read, given_object, what):
    (flaw,) = read({"q": "Which?", **given_object})
    assert flaw.what.startswith(what)


def test_one_column_is_no_list_of_choices():
    with pytest.raises(InputError, match=r"^data.reader.choices must be one column with all choices"):
        reader(choices=["a"])


QUICK = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
values = st.none() | st.integers() | st.floats() | st.text(max_size=4)


@QUICK
@given(
    values | st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(["text", "label"]), st.lists(values)),
    values,
)
def test_any_row_gives_a_question_or_a_flaw(read, choices, answer):
    assert all(isinstance(each, MultipleChoice | Flaw) for each in read({"q": "Which?", "c": choices, "a": answer}))
