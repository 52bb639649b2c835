"""Running text as single examples: sentences, lines or documents, whatever pieces it comes in, and only where asked."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from llmcli import config
from llmcli.data.records import LabeledText, Text
from llmcli.data.singles import Singles
from llmcli.data.source import TextSource
from llmcli.errors import InputError
from llmcli.preparation import prepare_data
from llmcli.text.segment.sentences import Sentences


class Given(TextSource):
    """The pieces it was given."""

    splits = ("train",)

    def __init__(self, *pieces: Text) -> None:
        super().__init__(eos=True)
        self.pieces = pieces

    def fingerprint(self):
        return {"files": ["a"]}

    def describe(self):
        return "given"

    def records(self, split):
        return iter(self.pieces)


def texts(unit, *pieces):
    return [record.text for record in Singles(Given(*pieces), unit).records("train")]


TEXT = Text("It was late. Dr. Bell came\nhome.\n\n \nWho knew? 他来了。没有人知道。")


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("sentence", ["It was late.", "Dr. Bell came\nhome.", "Who knew?", "他来了。", "没有人知道。"]),
        ("line", ["It was late. Dr. Bell came", "home.", "Who knew? 他来了。没有人知道。"]),
        ("document", ["It was late. Dr. Bell came\nhome.\n\n \nWho knew? 他来了。没有人知道。"]),
    ],
)
def test_the_units(unit, expected):
    assert texts(unit, TEXT) == expected
    assert texts(unit, TEXT, Text(" "), TEXT) == 2 * expected  # no unit lies in two documents


@given(
    st.lists(st.sampled_from(["Ann left. ", "So did he! ", "line\n", "\n\n", "a b", ", ", "他来了。"]), max_size=30),
    st.data(),
)
def test_pieces_change_nothing(parts, data):
    whole = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    bounds = [0, *cuts, len(whole)]
    pieces = [Text(whole[a:b], end=False) for a, b in pairwise(bounds)]
    for unit in ("line", "document"):
        assert texts(unit, *pieces, Text("")) == texts(unit, Text(whole))
    # where a sentence ends may depend on what comes next, so only what lies between the ends is certain
    assert "".join("".join(texts("sentence", *pieces, Text(""))).split()) == "".join(whole.split())


def test_sentences_are_those_of_the_segmenter():
    assert texts("sentence", TEXT) == Sentences()(TEXT.text)


def test_the_records_have_no_labels_and_the_fingerprint_says_the_unit():
    source = Singles(Given(TEXT), "line")
    assert source.record is LabeledText and {record.labels for record in source.records("train")} == {()}
    assert source.fingerprint() == {"files": ["a"], "unit": "line"}


def test_an_unknown_unit():
    with pytest.raises(InputError, match=r"prepare.unit \(word\) must be one of sentence, line, document"):
        Singles(Given(TEXT), "word")


def test_only_a_task_of_single_texts_cuts(corpus):
    options = ["data=text", f"data.path={corpus}", "tokenizer=byte", "prepare.workers=1", "duplicates=report"]
    whole = prepare_data(config.compose("train", options))
    cut = prepare_data(config.compose("train", [*options, "model=vae"]))
    lines = prepare_data(config.compose("train", [*options, "model=vae", "prepare.unit=line"]))
    assert (whole.record, cut.record, lines.record) == ("Text", "LabeledText", "LabeledText")
    first = corpus.read_text("utf-8").splitlines()[0]
    assert lines.examples("train")[0] == LabeledText(first)
    assert cut.examples("train")[0].text.startswith(first)  # no sentence of it begins with a capital letter
    assert whole.path != cut.path != lines.path
    given = OmegaConf.create({"data": config.compose("train", options).data})
    again = prepare_data(config.compose("train", [*options, "model=vae"]), source=config.build(given.data))
    assert again.path == cut.path
