from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from toy import ToyModel, penalties

from llmcli.decoding.base import StepOutput
from llmcli.decoding.contrastive import Contrastive
from llmcli.decoding.greedy import Greedy
from llmcli.errors import InputError, LLMError
from llmcli.models.recurrent import Recurrent

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8]]


class Tiny:
    """A recurrent network with a head: hidden states depend on the whole past."""

    vocab_size, max_seq_len, device = 12, None, torch.device("cpu")

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = Recurrent(
            cell="gru", vocab_size=12, causal=True, d_model=6, d_hidden=None, n_layers=1, dropout_embedding=0.0,
            dropout_input=0.0, dropout_hidden=0.0, dropout_output=0.0, locked_dropout=True, weight_drop=0.0,
            tie_embeddings=True,
        ).eval()  # fmt: skip
        for weight in self.net.parameters():
            torch.nn.init.normal_(weight)
        self.head = torch.randn(6, 12)

    def init_state(self, batch_size, capacity):
        return self.net.init_state(batch_size, capacity)

    def step(self, ids, state, lengths=None, *, last_only=False):
        hidden, state = self.net.step(ids, state, lengths)
        if last_only and lengths is not None:
            hidden = hidden[torch.arange(len(ids)), lengths - 1, None]
        return StepOutput(hidden @ self.head, hidden, None, state)


def decode(strategy, model, prompts, *, max_new_tokens, end_ids=()):
    steps = strategy.decode(
        model, prompts, end_ids=frozenset(end_ids), max_new_tokens=max_new_tokens, seeds=[0] * len(prompts)
    )
    return [list(row) for row in zip(*(step.ids for step in steps), strict=True)]


@torch.inference_mode()
def naive(model, prompt, count, k, alpha):
    """By the formula: every candidate is read anew after the whole text."""
    text = list(prompt)
    for _ in range(count):
        hidden = model.net(torch.tensor([text]))[0]
        probs = (hidden[-1] @ model.head).softmax(-1)
        scores = {}
        for token in probs.topk(k).indices.tolist():
            new = model.net(torch.tensor([[*text, token]]))[0, -1]
            scores[token] = (1 - alpha) * probs[token] - alpha * F.cosine_similarity(new, hidden, dim=-1).max()
        text.append(max(scores, key=scores.get))
    return text[len(prompt) :]


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_is_the_formula_for_every_row(alpha):
    model = Tiny()
    found = decode(Contrastive(top_k=4, alpha=alpha), model, PROMPTS, max_new_tokens=8)
    assert found == [naive(model, prompt, 8, 4, alpha) for prompt in PROMPTS]


@pytest.mark.parametrize("strategy", [Contrastive(top_k=1, alpha=0.7), Contrastive(top_k=5, alpha=0.0)])
def test_one_candidate_or_no_contrast_is_greedy(strategy):
    model = Tiny()
    assert decode(strategy, model, PROMPTS, max_new_tokens=8) == decode(
        Greedy(penalties=penalties()), model, PROMPTS, max_new_tokens=8
    )


def test_a_row_ends_and_the_others_go_on():
    model, strategy = Tiny(), Contrastive(top_k=4, alpha=0.4)
    alone = decode(strategy, model, PROMPTS, max_new_tokens=8)
    end = alone[0][0]
    found = decode(strategy, model, PROMPTS, max_new_tokens=8, end_ids=[end])
    for row, whole in zip(found, alone, strict=True):
        stop = whole.index(end) + 1 if end in whole else len(whole)
        assert [each for each in row if each is not None] == whole[:stop]


def test_what_it_cannot_do_is_refused():
    with pytest.raises(InputError, match=r"alpha \(1.5\) must be between 0 and 1"):
        Contrastive(top_k=4, alpha=1.5)
    with pytest.raises(InputError, match=r"top_k \(0\) must be at least 1"):
        Contrastive(top_k=0, alpha=0.5)
    with pytest.raises(InputError, match="8 tokens: 4 of the prompt and 5 new ones are more"):
        decode(Contrastive(top_k=2, alpha=0.5), ToyModel(max_seq_len=8), PROMPTS, max_new_tokens=5)
    model = Tiny()
    model.head[:] = float("nan")
    with pytest.raises(LLMError, match="not finite"):
        decode(Contrastive(top_k=2, alpha=0.5), model, PROMPTS, max_new_tokens=1)
