"""Conversations and preferences in the shapes that are common."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.data.reader import Flaw
from llmcli.data.readers.chat import ChatRows
from llmcli.data.readers.preference import PreferenceRows
from llmcli.data.records import Conversation, Preference, Turn
from llmcli.errors import InputError

ROWS = {"format": "auto", "encoding": "utf-8", "delimiter": None, "quotes": None, "header": True, "root": None}
HI, HELLO = Turn("user", "Hi"), Turn("assistant", "Hello")


@pytest.fixture
def read(tmp_path):
    def call(*objects, reader=None):
        path = tmp_path / "a.jsonl"
        path.write_text("\n".join(json.dumps(each) for each in objects), encoding="utf-8")
        return list((reader or ChatRows(shape="auto", **ROWS)).read([path]))

    return call


def openai(*turns, **more):
    return {"messages": [{"role": role, "content": text} for role, text in turns], **more}


def sharegpt(*turns, **more):
    return {"conversations": [{"from": role, "value": text} for role, text in turns], **more}


def test_every_shape_is_seen(read):
    short = Conversation((HI, HELLO))
    assert (
        read(
            openai(("user", "Hi"), ("assistant", "Hello")),
            openai(("user", [{"type": "text", "text": "Hi"}]), ("assistant", "Hello")),
            sharegpt(("human", "Hi"), ("gpt", "Hello")),
            {"instruction": "Hi", "input": "", "output": "Hello"},
        )
        == [short] * 4
    )
    system = Conversation((Turn("system", "Be kind."), HI, HELLO))
    assert (
        read(
            openai(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")),
            sharegpt(("human", "Hi"), ("gpt", "Hello"), system="Be kind."),
            {"instruction": "Hi", "output": "Hello", "system": "Be kind."},
        )
        == [system] * 3
    )
    assert read({"instruction": "Add.", "input": "1 2", "output": "3", "history": [["Hi", "Hello"]]}) == [
        Conversation((HI, HELLO, Turn("user", "Add.\n\n1 2"), Turn("assistant", "3")))
    ]


@pytest.mark.parametrize(
    ("given_object", "what"),
    [
        (openai(("assistant", "Hello")), "turn 1 is the assistant's, and should be the user's"),
        (openai(("user", "Hi"), ("user", "Hi")), "turn 2 is the user's, and should be the assistant's"),
        (openai(("system", "x"), ("assistant", "Hello")), "turn 2 is the assistant's, and should be the user's"),
        (
            openai(("user", "Hi"), ("system", "x"), ("assistant", "Hello")),
            "the system's text must come first, and once",
        ),
        (openai(("user", "Hi")), "the assistant must have the last turn"),
        (openai(("system", "x")), "the assistant must have the last turn"),
        (openai(("user", "Hi"), ("assistant", " ")), "turn 2 is empty"),
        (openai(("tool", "x")), "turn 1 has the role 'tool'; the roles are system, user, assistant"),
        (openai(("user", None)), "turn 1 must be text, not None"),
        ({"messages": []}, '"messages" must be a list of turns, not []'),
        (
            {"messages": [{"role": "user"}]},
            "turn 1 must be an object with \"role\" and \"content\", not {'role': 'user'}",
        ),
        ({"instruction": "Hi"}, 'there is no column "output"; the columns are: instruction.'),
        ({"instruction": "Hi", "output": ""}, 'the column "output" is empty'),
        (
            {"instruction": "Hi", "output": "x", "history": [["a"]]},
            '"history" must hold pairs of a question and an answer',
        ),
        ({"text": "Hi"}, "no conversation: none of messages, conversations, instruction among the keys text"),
    ],
)
def test_what_is_no_conversation(read, given_object, what):
    (flaw,) = read(given_object)
    assert flaw.what.startswith(what)


def test_a_file_of_another_kind_is_told_what_is_wanted_not_to_be_left_out(read):
    (flaw,) = read({"text": "Hi"})
    assert flaw.error().hint.startswith('wanted is {"messages": [{"role": "user", "content": ...}, ...]}')
    (flaw,) = read({"messages": []})
    assert flaw.error().hint == "data.flaws=skip leaves such records out"


def test_one_shape_can_be_demanded(read):
    (flaw,) = read(openai(("user", "Hi"), ("assistant", "Hello")), reader=ChatRows(shape="sharegpt", **ROWS))
    assert flaw.what.startswith('there is no column "conversations"')
    with pytest.raises(
        InputError, match=r"^data.reader.shape \(chatml\) must be one of auto, openai, sharegpt, alpaca$"
    ):
        ChatRows(shape="chatml", **ROWS)


def preferences(read, *objects):
    return read(*objects, reader=PreferenceRows(**ROWS))


def test_preferences_in_every_shape(read):
    hi, asked = [{"role": "user", "content": "Hi"}], "\n\nHuman: Hi\n\nAssistant:"
    answers = [{"role": "assistant", "content": text} for text in ("Hello", "Go")]
    found = preferences(
        read,
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"},
        {"prompt": hi, "chosen": answers[:1], "rejected": answers[1:]},
        {"prompt": hi, "chosen": [*hi, answers[0]], "rejected": [*hi, answers[1]]},
        {"chosen": [*hi, answers[0]], "rejected": [*hi, answers[1]]},
        {"messages": hi, "chosen": answers[0], "rejected": answers[1]},
        {**sharegpt(("human", "Hi")), "chosen": {"from": "gpt", "value": "Hello"}, "rejected": "Go"},
        {"instruction": "Hi", "input": "", "output": "Hello", "chosen": "Hello", "rejected": "Go"},
        {"prompt": asked.removesuffix("\n\nAssistant:"), "chosen": "Hello", "rejected": "Go"},
        {"chosen": f"{asked} Hello", "rejected": f"{asked} Go"},
    )
    assert found == [Preference((HI,), "Hello", "Go")] * 9
    assert preferences(read, {"system": "S", "prompt": "Hi", "chosen": "Hello", "rejected": "Go"}) == [
        Preference((Turn("system", "S"), HI), "Hello", "Go")
    ]


@pytest.mark.parametrize(
    ("given_object", "what"),
    [
        ({"prompt": "Hi", "chosen": "Go", "rejected": "Go"}, "chosen and rejected are the same"),
        ({"prompt": "Hi", "chosen": "Go"}, 'there is no column "rejected"'),
        ({"prompt": "Hi", "chosen": "", "rejected": "Go"}, "chosen has no answer of the assistant"),
        ({"prompt": "Hi", "chosen": 1, "rejected": "Go"}, '"chosen" must be text or turns, not 1'),
        ({"chosen": "Hello", "rejected": "Go"}, "the user must have the last turn"),
        (
            {"chosen": "\n\nHuman: A\n\nAssistant: x", "rejected": "\n\nHuman: B\n\nAssistant: y"},
            "chosen and rejected part before their last turn",
        ),
    ],
)
def test_what_is_no_preference(read, given_object, what):
    (flaw,) = preferences(read, given_object)
    assert flaw.what.startswith(what)


QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
shape_keys = ["messages", "conversations", "instruction", "input", "output", "history", "system"]
answer_keys = ["prompt", "chosen", "rejected", "role", "content", "from", "value"]
keys = st.sampled_from([*shape_keys, *answer_keys])
anything = st.recursive(
    st.none()
    | st.integers()
    | st.sampled_from(["user", "gpt", "[1]", "{'a': 1}", "\n\nHuman: a"])
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@QUICK
@given(st.dictionaries(keys, anything, max_size=4))
def test_any_object_gives_a_record_or_a_flaw(read, value):
    for reader in (ChatRows(shape="auto", **ROWS), PreferenceRows(**ROWS)):
        assert all(isinstance(each, Conversation | Preference | Flaw) for each in read(value, reader=reader))
