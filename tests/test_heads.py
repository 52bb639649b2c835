"""The chunked loss equals the plain one, and heads do what their backbone asks."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from llmcli import config, heads
from llmcli.errors import InputError
from llmcli.heads import AdaptiveHead, LanguageModelHead
from llmcli.losses import linear_cross_entropy, softcapped
from llmcli.models.gpt2 import GPT2
from llmcli.models.mlp import MLP
from llmcli.models.recurrent import Recurrent
from llmcli.tasks.language_modeling import LanguageModeling

N, D, V = 23, 8, 31


def inputs(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, D, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator, dtype=dtype).requires_grad_()
    bias = torch.randn(V, generator=generator, dtype=dtype).requires_grad_()
    labels = torch.randint(V, (N,), generator=generator)
    labels[3::5] = -100
    return hidden, weight, bias, labels


def plain(hidden, weight, bias, labels, softcap, label_smoothing):
    logits = F.linear(hidden, weight, bias)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)


@pytest.mark.parametrize(
    ("softcap", "label_smoothing", "with_bias", "chunk"),
    list(itertools.product([None, 2.0], [0.0, 0.1], [True, False], [4, 23, 100])),
)
def test_chunked_loss_and_gradients_equal_the_plain_ones(softcap, label_smoothing, with_bias, chunk):
    hidden, weight, bias, labels = inputs()
    leaves = [hidden, weight, bias] if with_bias else [hidden, weight]
    args = (hidden, weight, bias if with_bias else None, labels)
    expected = plain(*args, softcap, label_smoothing)
    actual = linear_cross_entropy(*args, softcap=softcap, label_smoothing=label_smoothing, chunk=chunk)
    torch.testing.assert_close(actual, expected)
    # an upstream factor, as from a mean or a loss scale
    torch.testing.assert_close(torch.autograd.grad(0.25 * actual, leaves), torch.autograd.grad(0.25 * expected, leaves))


def test_only_the_gradients_that_are_needed():
    hidden, weight, bias, labels = inputs()
    loss = linear_cross_entropy(
        hidden, weight.detach(), bias.detach(), labels, softcap=None, label_smoothing=0.0, chunk=4
    )
    (grad,) = torch.autograd.grad(loss, hidden)
    (expected,) = torch.autograd.grad(plain(hidden, weight, bias, labels, None, 0.0), hidden)
    torch.testing.assert_close(grad, expected)
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, bias, labels, softcap=None, label_smoothing=0.0, chunk=4)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(hidden, weight, bias, labels, None, 0.0).detach())


def test_all_labels_ignored_is_zero_with_zero_gradients():
    hidden, weight, bias, labels = inputs()
    loss = linear_cross_entropy(
        hidden, weight, bias, torch.full_like(labels, -100), softcap=None, label_smoothing=0.1, chunk=4
    )
    assert loss.item() == 0
    assert not any(grad.any() for grad in torch.autograd.grad(loss, [hidden, weight, bias]))


def test_autocast_uses_its_dtype_for_the_products_and_float32_for_the_rest():
    hidden, weight, bias, labels = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, bias, labels, softcap=15.0, label_smoothing=0.0, chunk=8)
    expected = plain(hidden, weight, bias, labels, 15.0, 0.0)
    assert loss.dtype == torch.float32
    assert loss.item() != expected.item()
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
    for grad, reference in zip(
        torch.autograd.grad(loss, [hidden, weight, bias]),
        torch.autograd.grad(expected, [hidden, weight, bias]),
        strict=True,
    ):
        assert grad.dtype == torch.float32
        assert (grad - reference).norm() < 1e-2 * reference.norm()


def head(**changes):
    sizes = {
        "d_model": D,
        "vocab_size": V,
        "embedding": None,
        "bias": True,
        "softcap": None,
        "label_smoothing": 0.1,
    }
    torch.manual_seed(0)
    sizes.update(changes)
    return AdaptiveHead(**sizes) if "cutoffs" in sizes else LanguageModelHead(**sizes)


def test_the_head_takes_the_chunked_path_for_many_logits_with_the_same_result(monkeypatch):
    model = head(softcap=5.0)
    nn.init.normal_(model.bias)
    hidden = torch.randn(2, 6, D, requires_grad=True)
    labels = torch.randint(V, (2, 6))
    leaves = [hidden, *model.parameters()]
    expected = model(hidden, labels)
    calls = []
    monkeypatch.setattr(heads, "PLAIN_LOGITS", 0)
    model.chunk = 5
    monkeypatch.setattr(heads, "linear_cross_entropy", lambda *a, **k: calls.append(1) or linear_cross_entropy(*a, **k))
    actual = model.loss(hidden, labels)
    assert calls
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual, leaves), torch.autograd.grad(expected, leaves))


def largest_made(run):
    """What `run` gives, and the elements of the largest tensor that it makes on its way and back."""
    largest = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            for each in found if isinstance(found, tuple | list) else (found,):
                if isinstance(each, torch.Tensor):
                    largest[0] = max(largest[0], each.numel())
            return found

    with Watch():
        found = run()
    return found, largest[0]


def test_the_chunked_loss_never_makes_all_logits(monkeypatch):
    monkeypatch.setattr(heads, "PLAIN_LOGITS", 0)
    model = head(bias=False, softcap=5.0)
    hidden, labels = torch.randn(8 * V, D, requires_grad=True), torch.randint(V, (8 * V,))
    model.chunk = 4 * V
    _, chunked = largest_made(lambda: model(hidden, labels).backward())
    model.chunk = None
    _, plain = largest_made(lambda: model(hidden, labels).backward())
    assert (chunked, plain) == (4 * V * V, 8 * V * V)


def test_a_graph_that_is_kept_gives_its_gradients_once():
    hidden, weight, bias, labels = inputs()
    loss = linear_cross_entropy(hidden, weight, bias, labels, softcap=None, label_smoothing=0.0, chunk=4)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_chunked_gradients_of_a_tied_weight_are_the_plain_ones(monkeypatch):
    monkeypatch.setattr(heads, "PLAIN_LOGITS", 0)
    torch.manual_seed(0)
    model = GPT2(vocab_size=V, max_seq_len=9, causal=True, d_model=D, n_layers=1, n_heads=2, dropout=0.0).double()
    tied = LanguageModelHead.for_backbone(model, label_smoothing=0.1)
    ids = torch.randint(V, (2, 10))
    found = []
    for chunk in (None, 4):
        tied.chunk = chunk
        loss = tied(model(ids[:, :-1]), ids[:, 1:])
        found.append([loss, *torch.autograd.grad(loss, [*model.parameters()])])
    torch.testing.assert_close(found[1], found[0])


def test_in_bfloat16_chunks_are_as_near_the_truth_as_the_plain_loss(monkeypatch):
    monkeypatch.setattr(heads, "PLAIN_LOGITS", 0)
    model = head(softcap=5.0)
    nn.init.normal_(model.weight)
    hidden, labels = torch.randn(64, D), torch.randint(V, (64,))
    labels[::5] = -100
    errors, truth = [], None
    for chunk, autocast in ((None, False), (None, True), (7, True)):
        model.chunk = chunk
        x = hidden.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            grads = torch.autograd.grad(model(x, labels), [x, *model.parameters()])
        truth = truth or grads
        errors.append([float((one - other).norm() / other.norm()) for one, other in zip(grads, truth, strict=True)])
    for plain_error, chunked_error in zip(errors[1], errors[2], strict=True):
        assert 0 < chunked_error < max(1.5 * plain_error, 5e-3)


def test_label_smoothing_is_for_training_alone():
    model = head()
    hidden, labels = torch.randn(2, 6, D), torch.randint(V, (2, 6))
    smoothed = model.loss(hidden, labels)
    model.eval()
    logits = model.logits(hidden)
    torch.testing.assert_close(
        model.loss(hidden, labels), F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    )
    assert smoothed != model.loss(hidden, labels)


def test_loss_and_correct_counts_what_the_highest_logit_names(monkeypatch):
    monkeypatch.setattr(heads, "CHUNK", 5)
    model = head(softcap=5.0).eval()
    hidden = torch.randn(2, 6, D)
    labels = model.logits(hidden).argmax(-1)
    labels[0, 0] = (labels[0, 0] + 1) % V
    labels[1, 4:] = -100
    loss, correct = model.loss_and_correct(hidden, labels)
    assert correct.item() == 9
    torch.testing.assert_close(loss, model.loss(hidden, labels).detach())


def test_a_tied_head_shares_the_parameter():
    embedding = nn.Embedding(V, D)
    model = head(embedding=embedding, bias=False)
    assert model.weight is embedding.weight
    model.loss(torch.randn(1, 3, D), torch.tensor([[1, 2, 3]])).backward()
    assert embedding.weight.grad is not None


def test_the_backbone_decides_about_its_head():
    tied = GPT2(vocab_size=V, max_seq_len=4, causal=True, d_model=D, n_layers=1, n_heads=2, dropout=0.0)
    model = LanguageModelHead.for_backbone(tied, label_smoothing=0.0)
    assert model.weight is tied.input_embedding.weight
    assert model.bias is None
    untied = MLP(
        vocab_size=V, causal=True, window=2, d_embed=3, d_hidden=D, activation="tanh", direct=True, dropout=0.0
    )
    untied.logit_softcap = 3.0
    untied.init_head = nn.init.zeros_
    model = LanguageModelHead.for_backbone(untied, label_smoothing=0.2)
    assert model.weight.shape == (V, D + 2 * 3)
    assert not model.weight.any()
    assert model.bias is not None
    assert (model.softcap, model.label_smoothing) == (3.0, 0.2)


def test_softcap_bounds_logits_in_float32():
    logits = softcapped(torch.tensor([-1e4, 0.0, 1.0, 1e4], dtype=torch.bfloat16), 15.0)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, torch.tensor([-15.0, 0.0, 15 * torch.tanh(torch.tensor(1 / 15)), 15.0]))


def test_mistakes_are_named():
    with pytest.raises(InputError, match=r"label_smoothing \(1.0\) must be at least 0 and below 1"):
        head(label_smoothing=1.0)
    with pytest.raises(InputError, match=r"softcap \(0\) must be above 0"):
        head(softcap=0)
    with pytest.raises(InputError, match=r"head \(31, 8\) cannot share the embedding's weight \(31, 4\)"):
        head(embedding=nn.Embedding(V, 4))


def adaptive(**changes):
    model = head(**{"label_smoothing": 0.0, "cutoffs": [6, 15], **changes})
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def two_level_log_probs(model, hidden):
    """The definition, token by token: P(token) or P(class) P(token | class)."""
    scores = hidden @ model.weight.T + (0 if model.bias is None else model.bias)
    of_class = hidden @ model.class_weight.T + (0 if model.bias is None else model.class_bias)
    if model.softcap is not None:
        scores, of_class = (model.softcap * torch.tanh(each / model.softcap) for each in (scores, of_class))
    first = torch.cat([scores[:6], of_class]).softmax(0)
    return torch.stack(
        [first[w].log() for w in range(6)]
        + [(first[6] * scores[6:15].softmax(0)[w - 6]).log() for w in range(6, 15)]
        + [(first[7] * scores[15:].softmax(0)[w - 15]).log() for w in range(15, V)]
    )


@pytest.mark.parametrize(
    ("softcap", "bias", "plain_logits"), list(itertools.product([None, 2.0], [True, False], [0, 2**21]))
)
def test_the_adaptive_head_is_its_definition(monkeypatch, softcap, bias, plain_logits):
    monkeypatch.setattr(heads, "PLAIN_LOGITS", plain_logits)
    monkeypatch.setattr(heads, "CHUNK", 5)
    model = adaptive(softcap=softcap, bias=bias).double()
    model.chunk = 5
    hidden = torch.randn(3, 7, D, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(V, (3, 7))
    labels[0, 2:4] = -100
    logits = model.logits(hidden)
    expected = torch.stack([two_level_log_probs(model, x) for x in hidden.flatten(0, 1)])
    torch.testing.assert_close(logits.flatten(0, 1), expected)
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(3, 7, dtype=torch.float64))
    nll = F.nll_loss(expected, labels.flatten(), ignore_index=-100, reduction="sum")
    loss = model(hidden, labels)
    torch.testing.assert_close(loss, nll)
    leaves = [hidden, *model.parameters()]
    torch.testing.assert_close(torch.autograd.grad(loss, leaves), torch.autograd.grad(nll, leaves))
    evaluated, correct = model.loss_and_correct(hidden, labels)
    torch.testing.assert_close(evaluated, nll.detach())
    assert correct == (expected.argmax(-1) == labels.flatten()).sum()


def test_the_adaptive_head_names_the_most_probable_token_of_any_class(monkeypatch):
    monkeypatch.setattr(heads, "CHUNK", 16)
    model = adaptive()
    hidden = 3 * torch.randn(1, 200, D)
    labels = model.logits(hidden).argmax(-1)
    assert all(each.any() for each in (labels < 6, (labels >= 6) & (labels < 15), labels >= 15))
    assert model.loss_and_correct(hidden, labels)[1] == 200


def test_a_class_without_targets_learns_nothing():
    model = adaptive()
    model(torch.randn(1, 4, D), torch.tensor([[0, 5, 7, 14]])).backward()
    assert not model.weight.grad[15:].any()
    assert model.class_weight.grad[1].any()  # but that it was not called for


def test_a_tied_adaptive_head_comes_from_the_cutoffs():
    tied = GPT2(vocab_size=V, max_seq_len=4, causal=True, d_model=D, n_layers=1, n_heads=2, dropout=0.0)
    model = LanguageModelHead.for_backbone(tied, label_smoothing=0.0, cutoffs=[4])
    assert isinstance(model, AdaptiveHead)
    assert model.weight is tied.input_embedding.weight
    assert model.sizes == [4, V - 4]


def test_mistakes_of_an_adaptive_head_are_named():
    for cutoffs in ([], [0], [9, 9], [V]):
        with pytest.raises(InputError, match=r"head_cutoffs \(.*\) must rise within 1 ... 30"):
            adaptive(cutoffs=cutoffs)
    with pytest.raises(InputError, match=r"label_smoothing \(0.1\) needs the full softmax"):
        adaptive(label_smoothing=0.1)


def test_a_task_with_cutoffs_trains_and_generates_with_one_distribution():
    model = Recurrent(
        cell="lstm",
        vocab_size=V,
        causal=True,
        d_model=D,
        d_hidden=None,
        n_layers=1,
        dropout_embedding=0.0,
        dropout_input=0.0,
        dropout_hidden=0.0,
        dropout_output=0.0,
        locked_dropout=True,
        weight_drop=0.0,
        tie_embeddings=True,
    )
    task = LanguageModeling(model=model, causal=True, label_smoothing=0.0, head_cutoffs=[6, 15])
    ids = torch.randint(V, (2, 9))
    batch = {"ids": ids[:, :-1], "labels": ids[:, 1:], "n_tokens": 16, "reset": True}
    log_probs = task.step(ids[:, :-1], task.init_state(2, 8)).logits
    torch.testing.assert_close(log_probs.logsumexp(-1), torch.zeros(2, 8), rtol=0, atol=1e-5)
    for stage in ("train", "val"):
        loss = task._step(batch, stage).loss
        torch.testing.assert_close(loss, -log_probs.gather(-1, ids[:, 1:, None]).sum())


def test_the_rows_of_a_chunk_are_one_number():
    """In the YAML file because defaults stand there, and in heads for what is scored without a trainer."""
    assert config.compose("train", []).trainer.loss_chunk == heads.CHUNK
