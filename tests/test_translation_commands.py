"""Texts to other texts through the commands: learned, scored, written, and the mistakes on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import llmcli
from llmcli import translators
from llmcli.data.back_translation import synthetic_pairs
from llmcli.data.records import TextPair
from llmcli.decoding.penalties import Penalties
from llmcli.decoding.sample import Sample
from llmcli.errors import InputError

TOY = [
    "data=reverse_copy", "data.train=2000", "data.val=60", "data.test=0", "data.letters=6", "data.shortest=2",
    "data.longest=4", "model=seq2seq_transformer", "model.d_model=32", "model.n_encoder_layers=1",
    "model.n_decoder_layers=1", "model.n_heads=2", "model.dropout=0", "task.label_smoothing=0", "batch.size=64",
    "batch.seq_len=16", "optimizer.embedding_lr=0.01", "trainer.accelerator=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory, cache):
    """A run that has learned to turn texts of two to four letters round."""
    from llmcli import cli

    folder = tmp_path_factory.mktemp("toy") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_CACHE", str(cache))
        patch.setenv("LLM_RUN_DIR", "")
        assert (
            cli.main(["train", *TOY, "trainer.max_steps=150", "trainer.val_every=150", f"hydra.run.dir={folder}"]) == 0
        )
    return folder


def lines(scored):
    return [json.loads(line) for line in Path(scored["predictions"]).read_text("utf-8").splitlines()]


def test_a_toy_is_learned_and_scored(llm, toy):
    scored = json.loads(llm("eval", f"ckpt={toy}", "--json").out)
    assert scored["exact"] > 0.9 and scored["chrf"] > 90 and scored["loss"] < 0.3
    assert scored["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|")
    rows = lines(scored)
    assert len(rows) == 60
    right = [row["text"] == row["reference"] == row["source"][::-1] for row in rows]
    assert sum(right) / 60 == pytest.approx(scored["exact"])
    greedy = json.loads(llm("eval", f"ckpt={toy}", "decoding=greedy", "out=none", "--json").out)
    assert greedy["exact"] > 0.9 and "predictions" not in greedy
    short = json.loads(llm("eval", f"ckpt={toy}", "max_new_tokens=1", "out=none", "--json").out)
    assert short["exact"] == 0 and short["length_ratio"] <= 1


def test_every_line_is_turned_into_its_text(llm, toy, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("abcd\nfe\nbad\n", encoding="utf-8")
    written = llm("generate", f"ckpt={toy}", "--prompt-file", str(lines))
    assert written.out == "dcba\nef\ndab\n" and written.code == 0
    found = json.loads(
        llm("generate", f"ckpt={toy}", "--prompt", "abcd", "decoding=beam", "decoding.n_best=2", "--json").out
    )
    [result] = found["results"]
    assert result["text"] == "dcba" and result["finish_reason"] == "end"
    said = {"text", "ids", "tokens", "logprobs", "finish_reason", "score"}
    assert [set(each) for each in result["n_best"]] == [said] * 2
    assert result["n_best"][0]["score"] > result["n_best"][1]["score"]
    assert llm("generate", f"ckpt={toy}", "--prompt", "fed", "decoding=greedy").out == "def\n"


def test_every_line_has_its_line_also_an_empty_one(llm, toy, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("\nabcd\r\n\n \nfe\n\n", encoding="utf-8")
    assert llm("generate", f"ckpt={toy}", "--prompt-file", str(lines)).out == "\ndcba\n\n\nef\n\n"
    found = json.loads(llm("generate", f"ckpt={toy}", "--prompt-file", str(lines), "--json").out)["results"]
    assert [each["text"] for each in found] == ["", "dcba", "", "", "ef", ""]
    lines.write_text("ab\n\nabcdefabcdefabcdef\n", encoding="utf-8")
    assert "source 3 has 18 tokens" in llm("generate", f"ckpt={toy}", "--prompt-file", str(lines)).err


def test_a_key_of_decoding_changes_the_runs_own_way(llm, toy):
    shown = ["generate", f"ckpt={toy}", "--prompt", "abcd", "--json"]
    [found] = json.loads(llm(*shown, "decoding.beams=7", "decoding.n_best=7").out)["results"]
    assert len(found["n_best"]) == 7 and found["text"] == "dcba"
    scored = json.loads(llm("eval", f"ckpt={toy}", "decoding.beams=2", "out=none", "--json").out)
    assert scored["exact"] > 0.9
    [short] = json.loads(llm(*shown, "decoding.penalties.no_repeat_ngram=1", "--prefix", "dc").out)["results"]
    assert short["text"].startswith("dc") and len(set(short["text"])) == len(short["text"])


def test_json_tells_tokens_and_what_they_looked_at(llm, toy):
    [found] = json.loads(llm("generate", f"ckpt={toy}", "--prompt", "abcd", "--json").out)["results"]
    assert "".join(found["tokens"]) == "dcba<eos>" and len(found["alignment"]) == len(found["ids"])
    for each in found["alignment"]:
        assert each["token"] == "abcd"[each["source"]] and 0 < each["weight"] <= 1


def test_other_pairs_can_be_scored(llm, toy, tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("source\ttarget\nabc\tcba\nfa\tno\n", encoding="utf-8")
    scored = json.loads(llm("eval", f"ckpt={toy}", "data=text_pairs", f"data.path={path}", "--json").out)
    assert scored["exact"] == 0.5 and scored["split"] == "all"


def test_from_python_also_as_what_back_translation_needs(toy, trained):
    run = llmcli.load(toy)
    assert run.translate("abcd") == ["dcba"] and run.translate(["fe", "bad"]) == ["ef", "dab"]
    assert list(synthetic_pairs(["fed"], translate=run.translate)) == [TextPair("def", "fed")]
    with pytest.raises(InputError, match="is a LanguageModeling run, which turns no text into another"):
        llmcli.load(trained).translate("abcd")


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--prompt", ""], "source 1 is empty", ""),
        (["--prompt", "abcdefabcdefabcdef"], "source 1 has 18 tokens; the model reads 15", "batch.seq_len"),
        (["--prompt", "ab", "decoding.beams=50"], "decoding.beams (50) is above the 22 ids", ""),
        (["--prompt", "ab", "decoding.temperature=2"], "decoding.temperature is no key of the run's own decoding=", ""),
        (["--prompt", "ab", "decoding.beems=2"], "Did you mean decoding.beams=2?", ""),
        (["--prompt", "ab", "decoding.beams=two"], "decoding.beams: expected int, got 'two'", ""),
        (["--prompt", "ab", "--prefix", "abcdefabcdefabc"], "prefix has 15 tokens; the model writes 15", ""),
        (["--prompt", "ab", "--prefix", "a", "constraint.banned=[b]"], "prefix and constraint exclude each other", ""),
        (
            ["--prompt", "ab", "decoding=beam", "num_samples=2"],
            "num_samples (2) is for texts drawn",
            "decoding.n_best=2",
        ),
        (["--prompt", "xyz"], "the vocabulary lacks", "unknown=replace"),
    ],
)
def test_what_cannot_be_written(llm, toy, arguments, message, hint):
    refused = llm("generate", f"ckpt={toy}", *arguments)
    assert refused.code == 2 and message in refused.err and hint in refused.err


def test_data_of_pairs_says_which_model(llm, tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("source\ttarget\nabc\tcba\n", encoding="utf-8")
    refused = llm("train", "data=text_pairs", f"data.path={path}", "model=textcnn")
    assert refused.code == 2 and "is of kind 'convolution'" in refused.err
    assert "task=sequence_to_sequence, which takes: encoder_decoder, attention, recurrent, window" in refused.err
    refused = llm("train", "data=text_pairs", f"data.path={path}", "model=bert")
    assert refused.code == 2 and "model=bert looks both ways and cannot be trained" in refused.err


def test_resumed_it_ends_with_the_same_figures(llm, tmp_path):
    options = [*TOY, "--json", "model.dropout=0.2", "trainer.max_steps=16", "schedule=constant", "schedule.warmup=0"]
    expected = json.loads(llm("train", *options, f"hydra.run.dir={tmp_path / 'whole'}").out)
    cut = tmp_path / "cut"
    assert llm("train", *options, "trainer.max_steps=7", "trainer.val_every=3", f"hydra.run.dir={cut}").code == 0
    found = json.loads(llm("train", f"resume={cut}", "trainer.max_steps=16", "--json").out)
    assert found["val_loss"] == pytest.approx(expected["val_loss"], abs=1e-6)


def test_a_run_that_generates_nothing_says_what_it_can(llm, tmp_path):
    path, run = tmp_path / "labels.csv", tmp_path / "run"
    path.write_text(
        "text,label\n" + "".join(f"day {n} was fine,good\nday {n} was dull,bad\n" for n in range(20)), encoding="utf-8"
    )
    options = ["data=labeled_text", f"data.path={path}", "data.val_fraction=0.3", "model=dan", "trainer.max_steps=2"]
    assert llm("train", *options, "trainer.accelerator=cpu", f"hydra.run.dir={run}").code == 0
    refused = llm("generate", f"ckpt={run}", "--prompt", "a")
    assert refused.code == 2 and "is a Classification run, which does not generate text" in refused.err
    assert f"llm predict ckpt={run}" in refused.err


def test_what_a_translator_draws_follows_from_the_text_alone(toy, monkeypatch):
    off = Penalties(repetition=1.0, frequency=0.0, presence=0.0, no_repeat_ngram=0)
    wild = Sample(temperature=2.0, top_k=None, top_p=None, min_p=None, typical_p=None, penalties=off)
    monkeypatch.setattr(translators, "strategy_of", lambda loaded, asked: wild)
    translate = translators.translator(toy / "checkpoints" / "best.ckpt", named="here")
    texts = ["abcd", "", "fe", "bad", "fed"]
    found = translate(texts)
    assert found[1] == "" and translate(texts[::-1]) == found[::-1]
    assert [text for each in texts for text in translate([each])] == found
