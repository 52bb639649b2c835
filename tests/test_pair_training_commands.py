"""Ways to train on pairs, through the commands: a decoder-only model, own tokens and R-Drop resumed."""

from __future__ import annotations

import json

import pytest
import torch

from llmcli import checkpoint
from llmcli.callbacks.steps import StepSeeds

PAIRS = [
    "data=reverse_copy", "data.train=500", "data.val=20", "data.test=0", "data.letters=6", "data.shortest=2",
    "data.longest=4", "batch.size=32", "batch.seq_len=16", "trainer.accelerator=cpu", "trainer.max_steps=6",
    "model.d_model=16", "callbacks.checkpoints.every=0.000001",
]  # fmt: skip
GPT2 = ["model=gpt2", "model.n_layers=1", "model.n_heads=2"]
SMALL = ["model=seq2seq_transformer", "model.n_heads=2", "model.n_encoder_layers=1", "model.n_decoder_layers=1"]


class Killed(BaseException):
    """Stands for a kill -9."""


def weights(folder):
    return checkpoint.read(folder / "checkpoints" / "last.ckpt")["state_dict"]


def test_a_decoder_only_model_begins_as_a_language_model_and_writes(llm, tmp_path):
    text, base, run = tmp_path / "text.txt", tmp_path / "base", tmp_path / "run"
    text.write_text("".join(f"abc{'def' * (n % 5)}fed cba\n" for n in range(200)), encoding="utf-8")
    common = ["trainer.accelerator=cpu", "trainer.max_steps=2", "model.d_model=16", *GPT2]
    learned = llm(
        "train", "data=text", f"data.path={text}", "tokenizer=char", "batch.seq_len=32", "batch.size=4", *common,
        f"hydra.run.dir={base}",
    )  # fmt: skip
    assert learned.code == 0, learned.err
    trained = llm("train", *PAIRS, f"init={base}", "batch.seq_len=32", f"hydra.run.dir={run}")
    assert trained.code == 0, trained.err
    config = checkpoint.read(run / "checkpoints" / "best.ckpt")["llm"]["config"]
    assert config["init"]["new"] == config["init"]["left"] == []
    assert config["decoding"]["_target_"] == "llmcli.decoding.beam.Beam"  # a translation is no sample
    scored = json.loads(llm("eval", f"ckpt={run}", "decoding=greedy", "out=none", "--json").out)
    assert scored["loss"] > 0 and 0 <= scored["exact"] <= 1
    written = llm("generate", f"ckpt={run}", "--prompt", "abc", "decoding=greedy", "max_new_tokens=5")
    assert written.code == 0, written.err
    refused = llm("generate", f"ckpt={run}", "--prompt", "abcdef" * 3)
    assert refused.code == 2 and "source 1 has 18 tokens; the model reads 15" in refused.err


def test_the_share_of_own_tokens_goes_on_where_it_was(llm, tmp_path, monkeypatch):
    options = [*PAIRS, *SMALL, "model.dropout=0.1", "task.scheduled_sampling=0.9", "task.r_drop=2"]
    whole, broken, off = tmp_path / "whole", tmp_path / "broken", tmp_path / "off"
    assert llm("train", *options, f"hydra.run.dir={whole}").code == 0
    started = StepSeeds.on_train_batch_start

    def kill(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 4:
            raise Killed
        started(self, trainer, module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(StepSeeds, "on_train_batch_start", kill)
        with pytest.raises(Killed):
            llm("train", *options, f"hydra.run.dir={broken}")
    assert llm("train", f"resume={broken}").code == 0
    one, other = weights(whole), weights(broken)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert llm("train", *options, "task.scheduled_sampling=0", f"hydra.run.dir={off}").code == 0
    assert any(not torch.equal(value, one[name]) for name, value in weights(off).items())


@pytest.mark.parametrize(
    ("german", "english", "message"),
    [
        ("ja\nnein\n", "yes\n", "x.de has 2 lines and x.en has 1: they are not parallel"),
        ("ja\n\n", "yes\nno\n", "x.de and x.en, line 2: the source is empty"),
        ("ja\nnein\n", "yes\n  \n", "x.de and x.en, line 2: the target is empty"),
    ],
)
def test_pairs_that_cannot_be_read(llm, tmp_path, monkeypatch, german, english, message):
    (tmp_path / "x.de").write_text(german, encoding="utf-8")
    (tmp_path / "x.en").write_text(english, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    files = ["data=text_pairs", "data.path=[x.de,x.en]", "data.reader.source=de", "data.reader.target=en"]
    refused = llm("train", *files, "model=seq2seq_rnn")
    assert refused.code == 2 and message in refused.err
    assert not (tmp_path / "runs").exists()
