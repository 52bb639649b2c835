"""Every family learns: more than bigrams on real text, and all there is to learn of a source of known entropy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from llmcli import assembly, config
from llmcli.evaluation import evaluate
from llmcli.models.ngram import NGram
from llmcli.trainer import build_trainer, quiet_lightning

ALWAYS = (
    "trainer.accelerator=cpu",
    "trainer.val_every=1000000",  # the score comes after training, over the whole split
    "trainer.val_batches=1",
    "callbacks.samples.max_new_tokens=1",
)
# The documentation of this Python, by bytes; a hundredth is enough to score and leaves the rest to learn from.
REAL_TEXT = ("data=python_docs", "data.val_fraction=0.01", "tokenizer=byte", "batch.seq_len=64", "batch.size=16")
RECURRENT = ("model.d_model=96", "model.d_hidden=96", "model.n_layers=1")
FAMILIES = {
    "mlp": ("model.d_embed=32", "model.d_hidden=128", "trainer.max_steps=200"),
    "rnn": (*RECURRENT, "trainer.max_steps=150"),
    "lstm": (*RECURRENT, "trainer.max_steps=180"),
    "gru": (*RECURRENT, "trainer.max_steps=120"),
    "transformer": ("model.d_model=64", "model.n_layers=1", "model.ngram_rows=[]", "trainer.max_steps=150"),
    "gpt2": ("model.d_model=64", "model.n_layers=1", "model.dropout=0", "batch.seq_len=32", "trainer.max_steps=200"),
}


def train(folder: Path, *overrides: str) -> assembly.Parts:
    """What `llm train OVERRIDES` does between composing the config and summing up."""
    quiet_lightning()
    cfg = config.capture("train", [*ALWAYS, *overrides])
    assert cfg is not None
    config.validate(cfg)
    parts = assembly.build(cfg, config.launch().choices)
    history, callbacks, _ = assembly.callbacks(parts, folder)
    parts.task.progress = lambda step: parts.budget.progress(step, 0.0)
    build_trainer(parts.settings, callbacks=callbacks, folder=folder).fit(parts.task, datamodule=parts.data)
    assert history.now.step == parts.budget.steps
    return parts


def score(parts: assembly.Parts, stride: int | None = None) -> float:
    """Nats per token over the validation split."""
    batches = parts.data.eval_loader("val", stride)
    return evaluate(parts.task, batches, device=torch.device("cpu"), text={})["loss"]


@pytest.mark.parametrize("family", FAMILIES)
def test_beats_bigrams_on_real_text(family, tmp_path):
    """Clearly (by 0.1 nats) better than counting pairs in the very same text."""
    parts = train(tmp_path, *REAL_TEXT, f"model={family}", *FAMILIES[family])
    learned, given = (parts.prepared.split(name) for name in ("train", "val"))
    bigrams = NGram(vocab_size=parts.prepared.tokenizer.vocab_size, order=2, discounts="modified")
    bigrams.fit(learned.read(0, len(learned)))
    baseline = -float(bigrams.log_prob(given.read(0, len(given)))[1:].mean())
    assert score(parts) < baseline - 0.1


# P(next | last two) over three symbols, the last two counted as 3 * second last + last.
NEXT = np.array(
    [
        [0.80, 0.15, 0.05], [0.10, 0.10, 0.80], [0.05, 0.90, 0.05],
        [0.15, 0.80, 0.05], [0.90, 0.05, 0.05], [0.20, 0.10, 0.70],
        [0.05, 0.15, 0.80], [0.75, 0.05, 0.20], [0.10, 0.85, 0.05],
    ]
)  # fmt: skip


def entropy_rate() -> float:
    """Exact, in nats per symbol: the entropies of the rows of NEXT, weighted by how often each pair occurs."""
    pairs = np.zeros((9, 9))
    for pair, row in enumerate(NEXT):
        for symbol, p in enumerate(row):
            pairs[pair, pair % 3 * 3 + symbol] = p
    occurrence = np.linalg.matrix_power(pairs, 1000)[0]  # where the chain settles, from any start
    assert np.allclose(occurrence @ pairs, occurrence)
    return float(-(occurrence[:, None] * NEXT * np.log(NEXT)).sum())


@pytest.fixture(scope="module")
def markov(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(5)
    draws, limits = rng.random(400_000), NEXT.cumsum(axis=1)[:, :2].tolist()
    pair, symbols = 0, []
    for draw in draws.tolist():
        low, high = limits[pair]
        symbol = (draw >= low) + (draw >= high)
        symbols.append("abc"[symbol])
        pair = pair % 3 * 3 + symbol
    path = tmp_path_factory.mktemp("markov") / "abc.txt"
    path.write_text("".join(symbols), encoding="utf-8")
    return path


UNDROPPED = tuple(f"model.dropout_{place}=0" for place in ("input", "hidden", "output"))
SMALL = ("model.d_model=32", "batch.size=32", "batch.seq_len=32", "trainer.max_steps=300")


@pytest.mark.parametrize(
    ("family", "stride"),
    [
        # attention has to find the two symbols before; windows overlap, so that none is guessed without them
        (("model=transformer", "model.n_heads=2", "model.n_layers=2", "model.ngram_rows=[]"), 24),
        (("model=lstm", "model.d_hidden=32", "model.n_layers=1", *UNDROPPED), None),
    ],
    ids=["transformer", "lstm"],
)
def test_learns_a_source_of_known_entropy(family, stride, markov, tmp_path):
    """An order-2 Markov source, to within 1% of its exact entropy rate.

    The loss above the rate is taken as the loss above what the source itself would score on the same symbols: the two
    share the luck of the draw, which is half a percent here.
    """
    source = ("data=text", f"data.path={markov}", "data.split=position", "data.val_fraction=0.25", "data.eos=false")
    parts = train(tmp_path, *source, "tokenizer=char", *SMALL, *family)
    ids = parts.prepared.split("val")
    symbols = np.array(["abc".index(symbol) for symbol in parts.prepared.tokenizer.decode(ids.read(0, len(ids)))])
    ideal = -float(np.log(NEXT[3 * symbols[:-2] + symbols[1:-1], symbols[2:]]).mean())
    assert ideal == pytest.approx(entropy_rate(), rel=0.01)  # it is that source
    assert entropy_rate() + score(parts, stride) - ideal == pytest.approx(entropy_rate(), rel=0.01)
