"""Decoded text through the commands: scored while training, sampled, scored and compared by llm eval, and drawn."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmcli.answers import Answers
from llmcli.checkpoint import load
from llmcli.errors import InputError
from llmcli.metrics.decoded import GROUPS, TextScorer
from llmcli.tasks.decoded_validation import DecodedValidation
from llmcli.tokenizers.char import CharTokenizer

TOY = [
    "data=reverse_copy", "data.train=600", "data.val=40", "data.test=0", "data.letters=5", "data.shortest=2",
    "data.longest=3", "model=seq2seq_transformer", "model.d_model=16", "model.n_encoder_layers=1",
    "model.n_decoder_layers=1", "model.n_heads=2", "model.d_ff=32", "model.dropout=0", "task.label_smoothing=0",
    "batch.size=32", "batch.seq_len=8", "optimizer.embedding_lr=0.01", "trainer.accelerator=cpu",
]  # fmt: skip
VALIDATED = ["task.decode_val=12", "task.monitor=val_chrf", "trainer.val_every=10", "trainer.val_batches=1"]


@pytest.fixture(scope="module")
def toys(tmp_path_factory, cache):
    """Two runs: one whose validations decode, and one of fewer steps."""
    from llmcli import cli

    folder = tmp_path_factory.mktemp("toys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_CACHE", str(cache))
        patch.setenv("LLM_RUN_DIR", "")
        for name, options in {"long": ["trainer.max_steps=30", *VALIDATED], "short": ["trainer.max_steps=3"]}.items():
            assert cli.main(["train", *TOY, *options, f"hydra.run.dir={folder / name}"]) == 0
    return folder


def scored(llm, *options):
    result = llm("eval", "bootstrap=200", *options, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def jsonl(path):
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


# -- while training ---------------------------------------------------------------------------------------------------


def test_validations_score_texts_and_one_of_the_figures_decides_what_is_best(toys):
    with (toys / "long" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["val_loss"]]
    assert [row["step"] for row in rows] == ["10", "20", "30"]
    scores = [float(row["val_chrf"]) for row in rows]
    assert all(0 <= float(row[f"val_{name}"]) <= 100 for row in rows for name in ("bleu", "rouge1", "exact"))
    summary = json.loads((toys / "long" / "metrics.json").read_text("utf-8"))
    assert summary["monitor"] == "val_chrf" and summary["higher_is_better"] is True
    assert summary["best"] == summary["val_chrf"] == pytest.approx(max(scores))
    assert summary["best_step"] == 10 * (1 + scores.index(max(scores)))


def test_samples_of_the_same_sources_are_kept_with_their_references(toys):
    rows = jsonl(toys / "long" / "samples.jsonl")
    assert [row["step"] for row in rows] == [step for step in (10, 20, 30) for _ in range(5)]
    assert all(row["reference"] == row["prompt"][::-1] and isinstance(row["text"], str) for row in rows)
    sources = [[row["prompt"] for row in rows if row["step"] == step] for step in (10, 20, 30)]
    assert sources[0] == sources[1] == sources[2] and len(set(sources[0])) > 1


def test_resumed_it_repeats_no_sample_and_ends_with_the_same_scores(llm, toys, tmp_path):
    cut = tmp_path / "cut"
    options = [*TOY, *VALIDATED, f"hydra.run.dir={cut}"]
    assert llm("train", *options, "trainer.max_steps=30", "callbacks.checkpoints.every=0.001").code == 0
    assert llm("train", f"resume={cut}", "trainer.max_steps=40").code == 0
    steps = [row["step"] for row in jsonl(cut / "samples.jsonl")]
    assert steps == [step for step in (10, 20, 30, 40) for _ in range(5)]
    assert jsonl(cut / "samples.jsonl")[:15] == jsonl(toys / "long" / "samples.jsonl")


@pytest.mark.parametrize(
    ("option", "message", "hint"),
    [
        ("task.monitor=val_bleu", "task.monitor (val_bleu) must be one of val_loss", "task.decode_val=100"),
        ("task.decode_val=-1", "task.decode_val (-1) must be at least 0", ""),
    ],
)
def test_what_cannot_be_monitored(llm, option, message, hint):
    refused = llm("train", *TOY, option)
    assert refused.code == 2 and message in refused.err and hint in refused.err


# -- llm eval ---------------------------------------------------------------------------------------------------------


def test_all_figures_are_given_with_intervals_lines_and_a_page(llm, toys):
    found = scored(llm, f"ckpt={toys / 'long'}")
    names = [name for group in GROUPS.values() for name in group]
    assert [name for name in found if name in names] == names
    assert {"loss", "accuracy", "bleu", "chrf", "ter", "rougeL", "exact"} <= set(found["intervals"])
    for name, (low, high) in found["intervals"].items():
        assert low <= found[name] <= high, name
    rows = jsonl(found["predictions"])
    assert Path(found["predictions"]).parent == toys / "long" / "eval" / "val" and len(rows) == 40
    scorer = TextScorer([row["reference"] for row in rows])
    texts = [row["text"] for row in rows]
    again = scorer.figures(texts, scorer.each(texts))
    assert {name: found[name] for name in again} == pytest.approx(again)
    assert found["exact"] == pytest.approx(sum(row["right"] for row in rows) / 40)
    assert [row["chrf"] for row in rows] == pytest.approx(scorer.sentences(scorer.each(texts))["chrf"], abs=1e-5)
    page = Path(found["report"]).read_text("utf-8")
    worst = min(rows, key=lambda row: row["chrf"])
    assert worst["source"] in page and "rougeL" in page and "http" not in page and "<script" not in page


def test_the_table_has_a_place_for_translations_and_one_for_summaries(llm, toys):
    shown = llm("eval", f"ckpt={toys / 'long'}", "bootstrap=0", "out=none").out.splitlines()
    titles = [shown.index(title) for title in GROUPS]
    assert titles == sorted(titles)
    assert shown[titles[1] + 1].startswith("  bleu ") and shown[titles[2] + 1].startswith("  rouge1 ")
    assert any(line.startswith("bleu_signature  ") and "tok:13a" in line for line in shown)


def test_two_runs_are_compared_on_their_texts(llm, toys):
    found = scored(llm, f"ckpt={toys / 'long'}", f"baseline={toys / 'short'}", "out=none")
    apart = found["baseline"]["differences"]
    assert {"loss", "bleu", "chrf", "ter", "rouge1", "exact"} <= set(apart)
    assert apart["chrf"]["measured"] == pytest.approx(found["chrf"] - found["baseline"]["figures"]["chrf"])
    assert apart["loss"]["measured"] < 0 and apart["loss"]["p"] == pytest.approx(2 / 201)
    same = scored(llm, f"ckpt={toys / 'long'}", f"baseline={toys / 'long'}", "out=none")["baseline"]["differences"]
    assert all(each["measured"] == 0 and each["p"] == 1 for each in same.values())


def test_texts_of_other_data_are_not_written_over(llm, toys, tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("source\ttarget\nabc\tcba\nba\tab\n", encoding="utf-8")
    other = ["data=text_pairs", f"data.path={path}"]
    own, others = scored(llm, f"ckpt={toys / 'short'}"), scored(llm, f"ckpt={toys / 'short'}", *other)
    assert others["predictions"] != own["predictions"] and len(jsonl(own["predictions"])) == 40
    refused = llm("eval", f"ckpt={toys / 'short'}", *other, f"out={Path(own['predictions']).parent}")
    assert refused.code == 2 and "holds predictions for" in refused.err


def test_what_the_language_needs_is_missing_before_anything_is_decoded(llm, toys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "MeCab", None)
    monkeypatch.setattr("llmcli.evaluation.decode", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr("llmcli.evaluation.evaluate", lambda *_, **__: pytest.fail("evaluated"))
    path = tmp_path / "pairs.tsv"
    path.write_text("source\ttarget\nabc\t今日は学校へ行きました。\n", encoding="utf-8")
    refused = llm("eval", f"ckpt={toys / 'short'}", "data=text_pairs", f"data.path={path}")
    assert refused.code == 2 and "BLEU of Japanese needs the package MeCab" in refused.err


# -- attention --------------------------------------------------------------------------------------------------------


def test_what_a_text_looked_at_is_drawn(llm, toys, tmp_path):
    page = tmp_path / "map.html"
    drawn = llm("generate", f"ckpt={toys / 'long'}", "--prompt", "abc", "--prompt", "ba", f"attention={page}")
    assert drawn.code == 0 and str(page) in drawn.err
    assert page.read_text("utf-8").count("<section>") == 2 and "layer 1, head 2" in page.read_text("utf-8")
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["map.txt", "nowhere/map.html"])
def test_a_page_that_cannot_be_written_is_refused_before_anything_is_decoded(llm, toys, name):
    refused = llm("generate", f"ckpt={toys / 'long'}", "--prompt", "abc", f"attention={name}")
    assert refused.code == 2 and f"attention={name}" in refused.err and refused.out == ""


def test_a_model_that_looks_nowhere_says_so(llm, trained):
    refused = llm("generate", f"ckpt={trained}", "--prompt", "a", "attention=map.html", "max_new_tokens=2")
    assert refused.code == 2 and "does not say where it looks" in refused.err and refused.out == ""


def test_quantised_weights_stand_beside_float32_and_write_elsewhere(llm, toys):
    run = f"ckpt={toys / 'long'}"
    exact = scored(llm, run)
    before = {name: Path(exact[name]).read_bytes() for name in ("predictions", "report")}
    found = scored(llm, run, "precision=int8", f"baseline={toys / 'long'}")
    assert {name: Path(exact[name]).read_bytes() for name in before} == before
    assert Path(found["report"]).parent == toys / "long" / "eval" / "val-int8"
    assert found["float32"] == {name: pytest.approx(exact[name]) for name in ("loss", "perplexity", "accuracy")}
    page = Path(found["report"]).read_text("utf-8")
    assert "in float32" in page and "Weights: int8: " in page and "in float32" not in before["report"].decode()
    # what the float32 weights write is scored where it is asked for
    assert found["baseline"]["figures"]["chrf"] == pytest.approx(exact["chrf"])
    assert found["baseline"]["differences"]["loss"]["measured"] == pytest.approx(
        found["loss"] - exact["loss"], abs=1e-6
    )


def test_no_tokens_are_refused_before_anything_is_scored(llm, toys, monkeypatch):
    monkeypatch.setattr("llmcli.evaluation.find_data", lambda *_: pytest.fail("data was read"))
    refused = llm("eval", f"ckpt={toys / 'short'}", "max_new_tokens=0")
    assert refused.code == 2 and "max_new_tokens (0) must be at least 1" in refused.err


def test_a_value_of_a_wrong_kind_is_named(toys, llm):
    result = llm("eval", f"ckpt={toys / 'long'}", "decoding=beam", "decoding.beams=abc")
    assert result.code == 2 and "decoding.beams: expected int, got 'abc'" in result.err


def test_a_figure_that_validations_have_too_is_resampled_once(toys):
    answers = Answers(load(toys / "long" / "checkpoints" / "best.ckpt").task, [], folder=None)
    answers.decoded = SimpleNamespace(scorer=TextScorer(["ab", "ba"]))
    names = [metric.name for metric in answers._metrics()]
    assert len(names) == len(set(names)) and {"loss", "bleu", "chrf", "rouge1", "exact"} <= set(names)


def test_there_must_be_pairs_to_decode():
    with pytest.raises(InputError, match="decodes pairs of the val split, which has none"):
        DecodedValidation([], [], tokenizer=CharTokenizer("ab"), rank=0, world=1)
