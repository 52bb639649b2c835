"""A batch taken apart for the sake of memory gives what it gives whole; where memory runs out it is taken apart."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from llmcli.callbacks.steps import StepSeeds
from llmcli.errors import LLMError
from llmcli.models.gpt2 import GPT2
from llmcli.optim.adamw import adamw
from llmcli.tasks import micro_batches
from llmcli.tasks.base import Task
from llmcli.tasks.language_modeling import LanguageModeling
from llmcli.tasks.micro_batches import fitting, is_out_of_memory, parts
from llmcli.trainer import quiet_lightning

ROWS, T, V = 8, 6, 11


def batches(count: int, rows: int = ROWS) -> list[dict[str, Any]]:
    """Rows of very different numbers of targets."""
    generator = torch.Generator().manual_seed(4)
    found = []
    for index in range(count):
        ids = torch.randint(V, (rows, T), generator=generator)
        labels = torch.randint(V, (rows, T), generator=generator)
        for row in range(rows):
            labels[row, (row + index) % T + 1 :] = -100
        found.append({"ids": ids, "labels": labels, "n_tokens": int((labels.numpy() != -100).sum()), "index": index})
    return found


def make(dropout: float) -> LanguageModeling:
    torch.manual_seed(1)
    model = GPT2(vocab_size=V, max_seq_len=T, causal=True, d_model=8, n_layers=1, n_heads=2, dropout=dropout)
    return LanguageModeling(
        model=model, causal=True, label_smoothing=0.0, schedule=lambda p, s: 1.0,
        optimizer=lambda m: adamw(m, lr=0.01, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, l1=0.0),
    ).double()  # fmt: skip


def fit(task: Task, tmp_path: Any, *, accumulate: int = 1, steps: int = 2, rows: int = ROWS) -> Task:
    quiet_lightning()
    task.nominal_tokens = ROWS * T
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, accumulate_grad_batches=accumulate, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, gradient_clip_val=1.0,
        callbacks=[StepSeeds(seed=3)], limit_val_batches=0,
    )  # fmt: skip
    train, val = (DataLoader(found, batch_size=None) for found in (batches(steps * accumulate, rows), batches(1)))
    trainer.fit(task, train, val)
    return task


def weights(task: Task) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in task.parameters()])


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("micro", [1, 3, 8, 20])
def test_unequal_parts_give_the_gradient_of_the_whole(micro, accumulate, tmp_path):
    whole = fit(make(0.0), tmp_path, accumulate=accumulate)
    apart = make(0.0)
    apart.micro_batch = micro
    fit(apart, tmp_path, accumulate=accumulate)
    torch.testing.assert_close(weights(apart), weights(whole))
    assert apart.tokens_seen == whole.tokens_seen == sum(batch["n_tokens"] for batch in batches(2 * accumulate))
    torch.testing.assert_close(apart.take_losses(), whole.take_losses())


class Failing(torch.autograd.Function):
    """Memory runs out where the gradient comes past."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")


def running_out(task, monkeypatch, *, where: str, limit: int, after: int):
    """Passes of more than `limit` rows fail from the `after`-th on."""
    seen = [0]
    inner = task.model.forward

    def forward(ids, **more):
        seen[0] += 1
        if len(ids) <= limit or seen[0] <= after:
            return inner(ids, **more)
        if where == "forward":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        # an earlier layer's gradients are there before it fails
        return inner(None, inputs_embeds=Failing.apply(task.model.input_embedding(ids)), **more)

    monkeypatch.setattr(task.model, "forward", forward)


@pytest.mark.parametrize(("accumulate", "after"), [(1, 0), (2, 0), (2, 1), (3, 2)])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_out_of_memory_leaves_no_trace_but_the_smaller_parts(where, accumulate, after, tmp_path, monkeypatch):
    """With dropout: the random numbers are those of a run that had these parts from the start."""
    expected = make(0.2 if after == 0 else 0.0)
    expected.micro_batch = 2
    fit(expected, tmp_path, accumulate=accumulate)
    task = make(0.2 if after == 0 else 0.0)
    said = []
    task.on_micro_batch = lambda out_of_memory: said.append((task.micro_batch, out_of_memory))
    running_out(task, monkeypatch, where=where, limit=3, after=after)
    fit(task, tmp_path, accumulate=accumulate)
    assert said == [(4, True), (2, True)]
    torch.testing.assert_close(weights(task), weights(expected), rtol=1e-9, atol=1e-12)
    assert task.tokens_seen == expected.tokens_seen
    torch.testing.assert_close(task.take_losses(), expected.take_losses())


def test_not_even_one_row_fits(tmp_path, monkeypatch):
    task = make(0.0)
    running_out(task, monkeypatch, where="forward", limit=0, after=0)
    with pytest.raises(LLMError, match="not enough memory for one row of a batch"):
        fit(task, tmp_path)


def test_other_errors_stay_what_they_are(tmp_path, monkeypatch):
    task = make(0.0)
    monkeypatch.setattr(task.model, "forward", lambda *args, **more: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        fit(task, tmp_path)
    assert task.micro_batch is None


def test_what_counts_as_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("not enough memory"))


def test_parts_hold_every_row_once_and_count_as_the_whole():
    [batch] = batches(1)
    found = parts({**batch, "names": list("abcdefgh"), "n_ids": 40}, 3)
    assert [len(part["ids"]) for part in found] == [3, 3, 2]
    assert torch.equal(torch.cat([part["labels"] for part in found]), batch["labels"])
    assert [part["names"] for part in found] == [["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]
    assert [part["n_tokens"] for part in found] == [batch["n_tokens"], 0, 0]
    assert [part["n_ids"] for part in found] == [40, 0, 0]
    assert parts(batch, 8) == parts(batch, None) == [batch]
    with pytest.raises(AssertionError, match="places has 5 entries, and the batch 8 rows"):
        parts({**batch, "places": torch.zeros(5)}, 3)


@pytest.mark.parametrize(("free", "expected"), [(1_000_000, 6998), (1_000, 5), (300, 1), (10, 1), (None, None)])
def test_a_line_through_two_trials_says_how_many_rows_fit(free, expected, monkeypatch):
    class Peak:
        def __init__(self, device):
            pass

        def grown(self):
            return 50 + 100 * rows[-1]  # of a whole step

    rows: list[int] = []
    monkeypatch.setattr(micro_batches, "available", lambda device: free)
    monkeypatch.setattr(micro_batches, "Peak", Peak)
    [batch] = batches(1)
    found = fitting(batch, lambda part: rows.append(len(part["ids"])), device=torch.device("cpu"), reserved=100)
    assert found == expected
    assert not rows or max(rows) == 2  # a trial never takes more
    assert fitting(parts(batch, 1)[0], rows.append, device=torch.device("cpu"), reserved=100) is None


def of_lengths(*shapes: tuple[int, int]) -> list[dict[str, Any]]:
    """Batches of so many rows and places each."""
    generator, found = torch.Generator().manual_seed(4), []
    for index, shape in enumerate(shapes):
        ids, labels = torch.randint(V, (2, *shape), generator=generator)
        labels[0, shape[1] // 2 + 1 :] = -100
        found.append({"ids": ids, "labels": labels, "n_tokens": int((labels != -100).sum()), "index": index})
    return found


LENGTHS = ((8, 2), (4, 4), (1, 6), (5, 6))


def rows_seen(task: Task, monkeypatch: Any) -> list[int]:
    seen: list[int] = []
    inner = task.model.forward
    monkeypatch.setattr(task.model, "forward", lambda ids, **more: seen.append(len(ids)) or inner(ids, **more))
    monkeypatch.setitem(globals(), "batches", lambda count, rows=ROWS: of_lengths(*LENGTHS))
    return seen


@pytest.mark.parametrize("accumulate", [1, 2])
def test_tokens_that_go_at_a_time_are_more_rows_of_short_texts_and_the_gradient_is_the_whole_batchs(
    accumulate, tmp_path, monkeypatch
):
    whole, apart = make(0.0), make(0.0)
    monkeypatch.setitem(globals(), "batches", lambda count, rows=ROWS: of_lengths(*LENGTHS))
    fit(whole, tmp_path, accumulate=accumulate)
    seen = rows_seen(apart, monkeypatch)
    apart.micro_tokens = 13
    fit(apart, tmp_path, accumulate=accumulate)
    assert seen == [6, 2, 3, 1, 1, 2, 2, 1]
    torch.testing.assert_close(weights(apart), weights(whole))
    torch.testing.assert_close(apart.take_losses(), whole.take_losses())
    few = make(0.0)
    few.micro_tokens, few.micro_batch = 13, 2
    assert [few.rows_at_a_time(batch) for batch in of_lengths(*LENGTHS)] == [2, 2, 2, 2]
    few.micro_tokens = 1
    assert few.rows_at_a_time(of_lengths((3, 5))[0]) == 1  # a row is the least


def test_a_trial_compiles_nothing(tmp_path, monkeypatch):
    from llmcli.tasks import base

    compiled, at_trial = [], []
    monkeypatch.setattr(base, "fitting", lambda batch, run, **more: run(parts(batch, 2)[0]) or at_trial.append(1) or 4)
    task = make(0.0)
    task.micro_batch = "auto"

    def backend(graph, inputs):
        compiled.append(bool(at_trial))
        return graph.forward

    task.model.compile(backend=backend)
    fit(task, tmp_path, steps=1)
    assert compiled and all(compiled)


def test_a_pair_is_as_long_as_both_of_its_texts():
    pair = {"ids": torch.zeros(2, 3), "target": torch.zeros(2, 4), "labels": torch.zeros(2, 4)}
    assert micro_batches.width(pair) == 7


def test_of_batches_of_many_lengths_auto_finds_tokens(tmp_path, monkeypatch):
    """Not rows: those of the first batch, which may be the shortest, are too many of a longer one."""
    from llmcli.tasks import base

    trials = []
    monkeypatch.setattr(base, "fitting", lambda batch, *args, **more: trials.append(batch["ids"].shape) or 6)
    task, said = make(0.0), []
    task.micro_batch, task.one_length = "auto", False
    task.on_micro_batch = lambda out_of_memory: said.append((task.micro_batch, task.micro_tokens, out_of_memory))
    seen = rows_seen(task, monkeypatch)
    monkeypatch.setitem(globals(), "batches", lambda count, rows=ROWS: of_lengths((1, 6), *LENGTHS))
    fit(task, tmp_path)
    assert trials == [(8, 2)] and said == [(None, 12, False)]  # a batch of one row says nothing
    assert seen == [1, 6, 2, 3, 1, 1, 2, 2, 1]


def test_out_of_memory_halves_the_tokens_of_the_batch_it_came_with(tmp_path, monkeypatch):
    expected, task, said = make(0.0), make(0.0), []
    monkeypatch.setitem(globals(), "batches", lambda count, rows=ROWS: of_lengths(*LENGTHS))
    fit(expected, tmp_path)
    task.one_length = False
    task.on_micro_batch = lambda out_of_memory: said.append((task.micro_batch, task.micro_tokens, out_of_memory))
    inner = task.model.forward

    def forward(ids, **more):
        if ids.numel() > 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return inner(ids, **more)

    monkeypatch.setattr(task.model, "forward", forward)
    fit(task, tmp_path)
    assert said == [(None, 18, True)]  # three of five rows of six
    torch.testing.assert_close(weights(task), weights(expected))


def test_auto_takes_what_fits_and_trains_as_if_it_had_been_asked_for(tmp_path, monkeypatch):
    from llmcli.tasks import base

    monkeypatch.setattr(base, "fitting", lambda batch, run, **more: run(parts(batch, 1)[0]) or 3)
    asked, auto, said = make(0.2), make(0.2), []
    asked.micro_batch, auto.micro_batch = 3, "auto"
    auto.on_micro_batch = lambda out_of_memory: said.append((auto.micro_batch, out_of_memory))
    assert torch.equal(weights(fit(auto, tmp_path)), weights(fit(asked, tmp_path)))
    assert said == [(3, False)]


@pytest.mark.parametrize("found", [2, None])
def test_where_all_rows_fit_batches_with_more_of_them_stay_whole(found, tmp_path, monkeypatch):
    from llmcli.tasks import base

    monkeypatch.setattr(base, "fitting", lambda *args, **more: found)
    few_and_more = batches(1, 2) + batches(1, 8)
    monkeypatch.setitem(globals(), "batches", lambda count, rows=ROWS: few_and_more)
    task, seen, said = make(0.0), [], []
    task.on_micro_batch = lambda out_of_memory: said.append((task.micro_batch, out_of_memory))
    task.micro_batch = "auto"
    inner = task.model.forward
    monkeypatch.setattr(task.model, "forward", lambda ids, **more: seen.append(len(ids)) or inner(ids, **more))
    fit(task, tmp_path)
    assert (seen, said, task.micro_batch) == ([2, 8], [(None, False)], None)


def test_a_fit_that_ended_between_forward_and_backward_leaves_nothing(tmp_path, monkeypatch):
    expected, task = fit(make(0.0), tmp_path), make(0.0)

    class Over(pl.Callback):
        def on_before_backward(self, *given):
            raise KeyError("over")

    task.nominal_tokens = ROWS * T
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Over()], limit_val_batches=0, default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(KeyError):
        trainer.fit(task, DataLoader(batches(1, 3), batch_size=None), DataLoader(batches(1), batch_size=None))
    torch.testing.assert_close(weights(fit(task, tmp_path)), weights(expected))


def test_no_step_waits_for_a_value_of_the_device(tmp_path):
    """On a CPU each loss is read to be checked, which costs nothing there; nothing else is read at a step."""
    reads = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._local_scalar_dense.default:
                reads.append(func)
            return func(*args, **(kwargs or {}))

    counts = []
    for steps in (2, 5):
        task = make(0.1)
        task.micro_batch = 3
        reads.clear()
        with Watch():
            fit(task, tmp_path, accumulate=2, steps=steps)
        counts.append(len(reads))
    assert counts[1] - counts[0] == 3 * 2  # the losses of three more steps; what is read once is Lightning's
    reads.clear()
    with Watch():
        task.take_losses()
    assert len(reads) == 2  # at a row of the log: whether all are finite, and their mean
