"""The floor of texts made of sources: copied where they are translations, the gist of the source where summaries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmcli.data.records import TextPair
from llmcli.metrics.decoded import TextScorer
from llmcli.metrics.overlap import rouge
from llmcli.text_floor import FIGURES, TextFloor, first_sentences, kind_of, longest_turns

CHAT = (
    "Ann: Hi\nBen: Shall we meet at the old bridge now?\nAnn: Yes, at five, and bring the map.\nBen: ok\nAnn: Bye now"
)
NEWS = "The bridge was closed on Monday. Rain had washed away a pillar. Repairs begin soon. Nobody was hurt. It is old."
NEWS_ZH = "大桥星期一关闭了。大雨冲走了一根桥墩。修理很快开始。没有人受伤。"


@pytest.mark.parametrize(
    ("pairs", "name"),
    [
        ([TextPair("Ein Hund läuft.", "A dog runs.")], "the source as it is"),
        ([TextPair(NEWS, "桥关了。")], "the source as it is"),  # in another script, however short
        ([TextPair(CHAT, "They meet at the bridge.")], "the 3 longest turns of the source"),
        ([TextPair(NEWS, "A bridge was closed.")], "the first 3 sentences of the source"),
        ([TextPair(NEWS_ZH, "大桥关闭")], "the first 3 sentences of the source"),
        ([TextPair(CHAT, "They."), *[TextPair(NEWS, "It was closed.")] * 9], "the first 3 sentences of the source"),
        ([TextPair("12 + 3", "15")], "the source as it is"),
    ],
)  # fmt: skip
def test_what_is_a_summary_and_of_what(pairs, name):
    assert kind_of(pairs)[0] == name


def test_parts_of_a_source():
    assert longest_turns(CHAT) == (
        "Ben: Shall we meet at the old bridge now? Ann: Yes, at five, and bring the map. Ann: Bye now"
    )
    assert longest_turns("Ann: Hi") == "Ann: Hi"
    assert first_sentences(NEWS).endswith("Repairs begin soon.") and first_sentences(NEWS) in NEWS
    assert first_sentences(NEWS_ZH) == "大桥星期一关闭了。大雨冲走了一根桥墩。修理很快开始。"
    assert first_sentences("") == longest_turns("") == ""


def test_it_is_scored_beside_the_references_of_the_texts():
    pairs = [TextPair(CHAT, "They meet at the bridge."), TextPair(CHAT.replace("five", "six"), "Ben brings a map.")]
    floor = TextFloor(pairs, TextScorer([pair.target for pair in pairs]))
    found = floor.figures()
    assert set(found) == FIGURES
    each = [rouge(longest_turns(pair.source), pair.target)["rouge1"].f1 for pair in pairs]
    assert found["rouge1"] == pytest.approx(50 * sum(each))
    assert floor.figures(without=[0])["rouge1"] == pytest.approx(100 * each[1])


def test_llm_eval_shows_it(llm, tmp_path):
    data = ["data=reverse_copy", "data.train=60", "data.val=10", "data.test=0", "data.letters=2", "data.longest=2"]
    tiny = ["model=seq2seq_rnn", "model.d_model=8", "trainer.max_steps=1", "trainer.accelerator=cpu", "batch.size=8"]
    run = tmp_path / "run"
    assert llm("train", *data, "data.shortest=1", *tiny, f"hydra.run.dir={run}").code == 0
    found = json.loads(llm("eval", f"ckpt={run}", "decoding=greedy", "bootstrap=20", "--json").out)
    assert found["floor"] == "the source as it is" and {f"floor_{name}" for name in FIGURES} <= set(found)
    rows = [json.loads(line) for line in Path(found["predictions"]).read_text("utf-8").splitlines()]
    copied = [row["source"] == row["reference"] for row in rows]
    assert found["floor_rouge1"] == pytest.approx(100 * sum(copied) / len(copied))
    left = found["without_leaks"]
    assert left["examples"] == 0 or "floor_rouge1" in left
