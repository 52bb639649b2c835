"""prepare.separate=true: sources and targets have a vocabulary each, from training to the attention map."""

from __future__ import annotations

import json
import random

import pytest
import torch

from llmcli import checkpoint
from llmcli.data.augment import Augmentation
from llmcli.data.records import TextPair
from llmcli.text.augment.base import WordStep
from llmcli.tokenizers import store
from llmcli.tokenizers.char import CharTokenizer
from llmcli.tokenizers.sides import SidesTokenizer

SOURCE, TARGET = "abcdef", "一二三四"  # each letter has a numeral; two of them have none of their own
SIDES = SidesTokenizer(source=CharTokenizer(SOURCE), target=CharTokenizer(TARGET))
MODELS = {
    "seq2seq_transformer": ["model.n_heads=2", "model.d_ff=32"],
    "seq2seq_rnn": [],
    "seq2seq_cnn": [],
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    draw, path = random.Random(4), tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    sources = ["".join(draw.choice(SOURCE) for _ in range(draw.randint(2, 5))) for _ in range(150)]
    targets = ["".join(TARGET[SOURCE.index(letter) % 4] for letter in source) for source in sources]
    rows = "".join(f"{source}\t{target}\n" for source, target in zip(sources, targets, strict=True))
    path.write_text("source\ttarget\n" + rows, encoding="utf-8")
    return path


def options(pairs, model="seq2seq_transformer"):
    return [
        "data=text_pairs", f"data.path={pairs}", "data.val_fraction=0.1", "tokenizer=char", "prepare.separate=true",
        "prepare.workers=1", f"model={model}", "model.d_model=16", "model.n_encoder_layers=1",
        "model.n_decoder_layers=1", *MODELS[model], "batch.size=32", "batch.seq_len=8", "trainer.accelerator=cpu",
        "optimizer=adam", "optimizer.lr=0.01", "schedule=constant", "schedule.warmup=0", "callbacks.samples=null",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache, pairs):
    from llmcli import cli

    folder = tmp_path_factory.mktemp("separate") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_CACHE", str(cache))
        patch.setenv("LLM_RUN_DIR", "")
        steps = ["trainer.max_steps=12", "trainer.val_every=12", "task.decode_val=3"]
        assert cli.main(["train", *options(pairs), *steps, f"hydra.run.dir={folder}"]) == 0
    return folder


# -- the tokenizer ------------------------------------------------------------------------------------------------


def test_it_is_that_of_the_targets_but_for_what_reads_sources():
    assert SIDES.encode("二四") == CharTokenizer(TARGET).encode("二四") and SIDES.decode(SIDES.encode("二")) == "二"
    assert SIDES.vocab_size == 16 + 4 and SIDES.of_sources.vocab_size == 16 + 6
    assert SIDES.unknown("a一") == ["a"] and SIDES.of_sources.unknown("a一") == ["一"]
    assert CharTokenizer("ab").of_sources.encode("b") == CharTokenizer("ab").encode("b")


def test_its_files_bring_both_back(tmp_path):
    store.save(SIDES, tmp_path / "tokenizer")
    again = store.load(tmp_path / "tokenizer")
    assert again.of_sources.encode("fab") == SIDES.of_sources.encode("fab") and again.encode("三") == SIDES.encode("三")
    assert store.fingerprint(again) == store.fingerprint(SIDES)
    swapped = SidesTokenizer(source=CharTokenizer(TARGET), target=CharTokenizer(SOURCE))
    assert store.fingerprint(swapped) != store.fingerprint(SIDES)


def test_changed_sources_are_read_by_the_tokenizer_of_sources():
    reverse = Augmentation(
        {"backwards": _Backwards(rate=1.0)}, tokenizer=SIDES, record=TextPair, words="rule", share=1.0, seed=0
    )
    ids = [torch.tensor(SIDES.of_sources.encode("abc")).numpy(), torch.tensor(SIDES.encode("一二三")).numpy()]
    record, found = reverse(TextPair("abc", "一二三"), ids, number=0, showing=0, epoch=0)
    assert found[0].tolist() == SIDES.of_sources.encode(record.source) and record.source == "cba"
    assert found[1].tolist() == SIDES.encode("一二三")


class _Backwards(WordStep):
    """Turns every word round."""

    def changed(self, word, rng):
        return word[::-1]


# -- a run --------------------------------------------------------------------------------------------------------


def test_a_run_has_both_vocabularies_and_a_table_for_each(run):
    loaded = checkpoint.load(run / "checkpoints" / "best.ckpt")
    tokenizer, model = loaded.tokenizer, loaded.task.model
    assert set(tokenizer.of_sources.decode(range(16, 22))) == set(SOURCE) and tokenizer.of_sources.vocab_size == 22
    assert set(tokenizer.decode(range(16, 20))) == set(TARGET) and tokenizer.vocab_size == 20
    assert loaded.config["facts"]["source_vocab_size"] == 22 and loaded.config["facts"]["vocab_size"] == 20
    assert model.input_embedding.weight.shape == (22, 16) and model.target_embedding.weight.shape == (20, 16)
    assert loaded.task.head.weight is model.target_embedding.weight
    assert store.fingerprint(store.load(run / "tokenizer")) == store.fingerprint(tokenizer)


def test_it_is_scored_written_with_and_drawn(llm, run, tmp_path):
    scored = json.loads(llm("eval", f"ckpt={run}", "bootstrap=0", "out=none", "--json").out)
    assert 0 < scored["loss"] < 4 and scored["unknown"] == 0
    page = tmp_path / "map.html"
    written = llm("generate", f"ckpt={run}", "--prompt", "fade", f"attention={page}", "--json", "decoding=greedy")
    [result] = json.loads(written.out)["results"]
    assert set(result["text"]) <= set(TARGET) and result["tokens"][0] in [*TARGET, "<eos>"]
    assert {each["token"] for each in result["alignment"]} <= set("fade")
    drawn = page.read_text("utf-8")
    assert all(f'"{letter}"' in drawn or f">{letter}<" in drawn for letter in "fade")
    unknown = llm("generate", f"ckpt={run}", "--prompt", "f一")
    assert unknown.code == 2 and "the prompt has what the vocabulary lacks: '一' at 1" in unknown.err


def test_a_resumed_run_ends_with_the_same_weights(llm, run, pairs, tmp_path):
    cut = tmp_path / "cut"
    steps = ["trainer.val_every=12", "task.decode_val=3", f"hydra.run.dir={cut}"]
    assert llm("train", *options(pairs), *steps, "trainer.max_steps=7").code == 0
    resumed = llm("train", f"resume={cut}", "trainer.max_steps=12")
    assert resumed.code == 0, resumed.err
    ours, whole = (checkpoint.load(each / "checkpoints" / "last.ckpt").task.state_dict() for each in (cut, run))
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_another_run_can_begin_with_it(llm, run, pairs):
    begun = llm("train", "data=text_pairs", f"data.path={pairs}", "data.val_fraction=0.1", f"init={run}", "--dry-run")
    assert begun.code == 0 and "new:" not in begun.err and "22 ids for sources, 20 ids for targets" in begun.err
    other = llm("train", "data=text_pairs", f"data.path={pairs}", f"init={run}", "prepare.separate=false", "--dry-run")
    assert other.code == 2 and "has one vocabulary for sources and one for targets" in other.err


@pytest.mark.parametrize("model", ["seq2seq_rnn", "seq2seq_cnn"])
def test_every_encoder_decoder_has_a_table_for_sources(llm, pairs, model):
    dry = llm("train", *options(pairs, model), "--dry-run")
    assert dry.code == 0 and "22 ids for sources, 20 ids for targets" in dry.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model=transformer"], "prepare.separate=true gives sources and targets a vocabulary each"),
        (["model.source_vocab_size=null"], "Seq2SeqTransformer has no table for the 22 ids that sources have"),
        (["prepare.separate=3"], "prepare.separate (3) must be true or false"),
    ],
)
def test_models_that_read_both_as_one_text_are_refused(llm, pairs, changes, message):
    drop = ("model.n_", "model.d_") if changes == ["model=transformer"] else ()
    kept = [each for each in options(pairs) if not each.startswith(drop)] if drop else options(pairs)
    refused = llm("train", *kept, *changes)
    assert refused.code == 2 and message in refused.err


def test_what_is_no_pair_has_one_vocabulary(llm, small):
    refused = llm("prepare", *[each for each in small if each.startswith("data")], "prepare.separate=true")
    assert refused.code == 2 and "sources and targets of pairs can have a vocabulary each" in refused.err
