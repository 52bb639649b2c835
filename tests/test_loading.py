"""A run made ready for use: what became of its weights is said, and why they are slower than they could be."""

from __future__ import annotations

import pytest
import torch

from llmcli import loading
from llmcli.config import build, compose
from llmcli.kernels import build as kernels
from llmcli.kernels import decoder
from llmcli.tasks.base import Task

OWN = decoder.available()


def task_of(*options: str) -> Task:
    shape = ["model.n_layers=1", "batch.seq_len=16", "model.ngram_rows=[]", "facts.vocab_size=32"]
    cfg = compose("train", [*shape, *options])
    return build(cfg.task)(model=build(cfg.model), optimizer=None, schedule=None).eval()


@pytest.mark.skipif(not OWN, reason=f"no kernel: {kernels.load('decoder')[1]}")
@pytest.mark.parametrize(
    ("precision", "said", "without"),
    [
        ("auto", "bfloat16 (AVX512-BF16)", "bfloat16 pays from width 512 on; torch's kernels, the slower ones: no)"),
        ("bf16", "", "bfloat16 (torch's kernels, the slower ones: no)"),
        ("int8", "int8: ", "; torch's kernels, the slower ones: no"),
        ("32", "", ""),
    ],
)  # fmt: skip
def test_why_weights_are_slower_than_they_could_be_is_said(monkeypatch, precision, said, without):
    def prepared():
        return loading.prepare(task_of("model.d_model=128"), precision, "cpu", generating=True)

    found = prepared()
    assert found.startswith(said) and "slower" not in found and bool(found) == bool(said)
    monkeypatch.setattr(decoder, "available", lambda: False)
    monkeypatch.setattr(kernels, "load", lambda name: (None, "no"))
    assert prepared().endswith(without) and bool(prepared()) == bool(without)


def test_nothing_is_said_where_no_kernel_could_be(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(decoder, "available", lambda: False)
    for width in (64, 128):
        task = task_of(f"model.d_model={width}")
        assert loading.prepare(task, "auto", "cpu", generating=True) == ""
        assert all(weight.dtype == torch.float32 for weight in task.parameters())
