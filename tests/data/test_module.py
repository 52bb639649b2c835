from __future__ import annotations

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from llmcli.data.module import WindowData
from llmcli.errors import InputError
from llmcli.losses import IGNORED


def make(prepared, **changes):
    settings = {"contiguous": False, "size": 4, "seq_len": 16, "eval_size": None, "num_workers": 0}
    return WindowData(prepared=prepared, seed=1, **{**settings, **changes})


def scored(loader):
    return sum(batch["n_tokens"] for batch in loader)


def test_sizes(prepared):
    data = make(prepared(1000, 100))
    assert data.batches_per_epoch(1) == len(data.train_dataloader()) == 999 // 64
    assert data.tokens_per_batch == next(iter(data.train_dataloader()))["n_tokens"] == 64
    assert len(next(iter(data.eval_loader("train")))["ids"]) == 8
    assert len(next(iter(make(prepared(1000, 100), eval_size=3).eval_loader("train")))["ids"]) == 3


@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize("size", [None, 1, 5])
def test_validation_scores_every_token_but_the_first(prepared, contiguous, size):
    data = make(prepared(1000, 333), contiguous=contiguous)
    assert scored(data.val_dataloader()) == 332
    assert scored(data.eval_loader("val", size=size)) == 332
    if not contiguous:
        assert scored(data.eval_loader("val", stride=5, size=size)) == 332


def test_one_stream_reads_the_text_from_end_to_end(prepared):
    data = make(prepared(1000, 100), contiguous=True)
    found = list(data.eval_loader("val", size=1))
    expected = data.prepared.split("val").read(1, 99).tolist()
    assert torch.cat([b["labels"][b["labels"] != IGNORED] for b in found]).tolist() == expected


class Rank:
    world_size = 2

    def __init__(self, rank, device="cpu"):
        self.global_rank = rank
        self.strategy = SimpleNamespace(root_device=torch.device(device))


@pytest.mark.parametrize("contiguous", [False, True])
def test_a_split_too_short_for_the_processes_is_refused_on_each(prepared, contiguous):
    for rank in range(2):
        data = make(prepared(1000, 2), contiguous=contiguous)
        data.trainer = Rank(rank)
        with pytest.raises(
            InputError, match=r"the val split \(2 tokens\) has nothing to score for some of the 2"
        ) as found:
            data.val_dataloader()
        assert found.value.hint == "more text, or trainer.devices=1"
        assert scored(data.eval_loader("val", alone=True)) == 1


def test_ranks_share_an_epoch(prepared):
    found = []
    for rank in range(2):
        data = make(prepared(1000))
        data.trainer = Rank(rank)
        assert data.batches_per_epoch(2) == 999 // 128
        found.append(list(data.train_dataloader()))
    assert len(found[0]) == len(found[1]) == 7
    assert not any(torch.equal(a["ids"], b["ids"]) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("contiguous", [False, True])
def test_ranks_share_a_validation_unless_one_is_alone(prepared, contiguous):
    shares = []
    for rank in range(2):
        data = make(prepared(1000, 333), contiguous=contiguous)
        data.trainer = Rank(rank)
        assert scored(data.eval_loader("val", alone=True)) == 332
        shares.append(scored(data.val_dataloader()))
    assert sum(shares) == 332 and min(shares) > 100


def test_a_text_shorter_than_a_window(prepared):
    with pytest.raises(InputError, match="the train split has 16 tokens, fewer than the 17 of one window") as caught:
        _ = make(prepared(16)).batches_per_epoch(1)
    assert "batch.seq_len=3 batch.size=4" in caught.value.hint
    assert make(prepared(16), seq_len=3, size=4).batches_per_epoch(1) == 1


def test_fewer_windows_than_rows(prepared):
    message = r"100 tokens, 6 windows of batch.seq_len \(16\), fewer than batch.size \(8\)"
    with pytest.raises(InputError, match=message) as caught:
        _ = make(prepared(100), size=8).batches_per_epoch(1)
    assert "batch.size=6" in caught.value.hint and "batch.seq_len=12" in caught.value.hint
    assert make(prepared(100), size=6).batches_per_epoch(1) == 1
    assert make(prepared(100), size=8, seq_len=12).batches_per_epoch(1) == 1


@pytest.mark.parametrize("accumulate", [1, 2, 4, 7])
def test_an_epoch_is_a_whole_number_of_steps(prepared, accumulate):
    data = make(prepared(1000), accumulate=accumulate)
    assert data.batches_per_epoch(1) == len(data.train_dataloader()) == 15 // accumulate * accumulate
    assert data.batches_per_epoch(2) == 7 // accumulate * accumulate


def test_fewer_batches_than_one_step_accumulates(prepared):
    message = r"fills 15 batches, fewer than trainer.accumulate \(16\)"
    with pytest.raises(InputError, match=message) as caught:
        make(prepared(1000), accumulate=16).batches_per_epoch(1)
    assert "trainer.accumulate=15" in caught.value.hint


def test_a_validation_split_with_nothing_to_score(prepared):
    with pytest.raises(InputError, match="the val split has 1 token, too few to score one") as caught:
        make(prepared(1000, 1)).eval_loader("val")
    assert "data.val_fraction" in caught.value.hint


def test_a_text_that_is_only_scored_may_be_short(prepared):
    assert scored(make(prepared(3, 12)).eval_loader("val")) == 11


def test_without_a_validation_split_there_is_no_validation(prepared):
    assert list(make(prepared(1000)).val_dataloader()) == []
    with pytest.raises(InputError, match="no val split; it has: train"):
        make(prepared(1000)).eval_loader("val")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("size", 0, r"batch.size \(0\) must be at least 1"),
        ("seq_len", 0, r"batch.seq_len \(0\) must be at least 1"),
        ("eval_size", 0, r"batch.eval_size \(0\) must be at least 1"),
        ("num_workers", -1, r"batch.num_workers \(-1\) must be at least 0"),
    ],
)
def test_impossible_sizes(prepared, option, value, message):
    with pytest.raises(InputError, match=message):
        make(prepared(1000), **{option: value})


def test_strides(prepared):
    with pytest.raises(InputError, match=r"stride \(17\) must be from 1 to batch.seq_len \(16\)"):
        make(prepared(1000, 100)).eval_loader("val", stride=17)
    with pytest.raises(InputError, match=r"stride \(8\) is for shuffled windows"):
        make(prepared(1000, 100), contiguous=True).eval_loader("val", stride=8)


class Bigram(pl.LightningModule):
    """Logits of the next id looked up by the last one; remembers which batches it saw."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Embedding(272, 272)
        torch.nn.init.zeros_(self.logits.weight)
        self.seen = []

    def training_step(self, batch, number):
        self.seen.append(batch["index"])
        return torch.nn.functional.cross_entropy(self.logits(batch["ids"]).flatten(0, 1), batch["labels"].flatten())

    def validation_step(self, batch, number):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.5)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's advice about validation workers and the like
@pytest.mark.parametrize("stop", [9, 15, 22])  # an epoch is 15 batches
def test_a_fit_that_is_stopped_and_resumed_equals_one_that_never_was(prepared, tmp_path, stop):
    text = prepared(1000, 100)

    def fit(steps, ckpt_path=None):
        model = Bigram()
        trainer = pl.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, datamodule=make(text), ckpt_path=ckpt_path, weights_only=True)
        return model, trainer

    whole, _ = fit(40)
    before, trainer = fit(stop)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    after, _ = fit(40, tmp_path / "stopped.ckpt")
    assert before.seen + after.seen == whole.seen == list(range(40))
    assert torch.equal(after.logits.weight, whole.logits.weight)


def test_batches_are_pinned_for_a_gpu_alone(prepared):
    data = make(prepared(1000, 300))
    assert not data.train_dataloader().pin
    for device in ("cpu", "cuda"):
        data.trainer = Rank(0, device)
        assert data.train_dataloader().pin == data.eval_loader("val").pin == (device == "cuda")


def test_the_document_of_each_token_is_for_models_that_can_keep_to_it(prepared):
    split = prepared(1000, 300)
    assert "segment_ids" not in next(iter(make(split).train_dataloader()))
    apart = make(split, across_documents=False)
    for loader in (apart.train_dataloader(), apart.eval_loader("val")):
        assert next(iter(loader))["segment_ids"].shape == next(iter(loader))["ids"].shape
    for other in ({"contiguous": True}, {"encode": lambda batch, seed: batch}):
        with pytest.raises(InputError, match=r"batch.across_documents=false goes with task=language_modeling"):
            make(split, across_documents=False, **other)
