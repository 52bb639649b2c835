from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.data.reader import Flaw
from llmcli.data.readers.dailydialog import DialogueLabels, Dialogues
from llmcli.data.records import Conversation, LabeledText, Turn
from llmcli.errors import InputError

NAMES = {0: "calm", 1: "glad"}


@pytest.fixture
def read(tmp_path):
    def call(dialogues, labels=None):
        paths = [tmp_path / "dialogues.txt", tmp_path / "labels.txt"]
        for path, content in zip(paths, (dialogues, labels), strict=True):
            path.write_bytes((content or "").encode("utf-8", "surrogatepass"))
        reader = Dialogues(encoding="utf-8") if labels is None else DialogueLabels(names=NAMES, encoding="utf-8")
        return list(reader.read(paths[:1] if labels is None else paths))

    return call


def test_speakers_take_turns(read):
    assert read("Hi . __eou__ Oh , hi ! __eou__\n\nBye __eou__\n") == [
        Conversation((Turn("user", "Hi ."), Turn("assistant", "Oh , hi !"))),
        Conversation((Turn("user", "Bye"),)),
    ]


def test_labels_stand_in_a_file_beside(read):
    assert read("Hi . __eou__ Oh , hi ! __eou__\nBye __eou__\n", "0 1 \n1 \n") == [
        LabeledText("Hi .", ("calm",)),
        LabeledText("Oh , hi !", ("glad",)),
        LabeledText("Bye", ("glad",)),
    ]


def test_flaws_name_the_line(read, tmp_path):
    at, beside = f"{tmp_path / 'dialogues.txt'}, line 1", tmp_path / "labels.txt"
    assert read("Hi . __eou__ Oh") == [Flaw(at, "the last turn does not end with __eou__")]
    assert read("Hi . __eou__ __eou__") == [Flaw(at, "turn 2 is empty")]
    assert read("Hi . __eou__", "0 1") == [Flaw(at, f"1 turns, but 2 labels in {beside}")]
    assert read("Hi . __eou__", "7") == [Flaw(at, "there is no name for the label '7'; data.reader.names has: 0, 1")]


def test_files_that_do_not_go_together(read, tmp_path):
    with pytest.raises(InputError, match=r"^.*dialogues.txt has more lines than .*labels.txt$"):
        read("Hi __eou__\nHi __eou__", "0")
    with pytest.raises(InputError, match=r"^.*labels.txt has more lines than .*dialogues.txt$"):
        read("Hi __eou__", "0\n0")
    with pytest.raises(InputError, match=r"^dialogues and their labels are files in pairs, not 1$"):
        list(DialogueLabels(names=NAMES, encoding="utf-8").read([tmp_path / "dialogues.txt"]))


QUICK = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.lists(st.sampled_from(["__eou__", "\n", " ", "a"]) | st.text(max_size=3)).map("".join)


@QUICK
@given(texts, st.none() | texts)
def test_any_text_gives_records_flaws_or_an_error(read, dialogues, labels):
    try:
        assert all(isinstance(each, Conversation | LabeledText | Flaw) for each in read(dialogues, labels))
    except InputError as err:
        assert ".txt" in str(err)
