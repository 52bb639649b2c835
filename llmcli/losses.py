"""Losses over large vocabularies, and over classes of unequal size.

Shapes: N tokens or examples, D model width, V vocabulary, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -100  # the label of a position that counts for nothing, as in torch.nn.functional.cross_entropy


def softcapped(logits: Tensor, softcap: float | None) -> Tensor:
    """Bend logits smoothly into (-softcap, softcap), in float32 or wider (Gemma Team 2024, section 2)."""
    if softcap is None:
        return logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return softcap * torch.tanh(logits / softcap)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    *,
    softcap: float | None,
    label_smoothing: float,
    chunk: int,
) -> Tensor:
    """Cross-entropy of `softcapped(hidden @ weight.T + bias)`, in nats, summed over labels other than -100.

    hidden (N, D), weight (V, D), bias (V,), labels (N,) -> scalar in float32 or wider. Only `chunk` rows of
    logits exist at a time: their gradients are computed with the loss, so backward is one multiplication.
    Under autocast the matrix products are in its dtype, the softmax and the weight's gradient in float32.
    """
    device = hidden.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
    with torch.autocast(device, enabled=False):
        loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden, weight, bias, labels, softcap, label_smoothing, chunk, dtype, torch.is_grad_enabled()
        )
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        softcap: float | None,
        label_smoothing: float,
        chunk: int,
        dtype: torch.dtype,
        with_grad: bool,
    ) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        vocab_size = len(weight)
        low_weight = weight.to(dtype)
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        needs_hidden, needs_weight, needs_bias = (with_grad and needed for needed in ctx.needs_input_grad[:3])
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if needs_weight else None
        grad_bias = torch.zeros(vocab_size, dtype=wide, device=hidden.device) if needs_bias else None
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            x, target = hidden[rows].to(dtype), labels[rows]
            logits = (x @ low_weight.T).to(wide)  # (n, V); from here on in place: nothing else is as large
            if bias is not None:
                logits += bias
            slope = None
            if softcap is not None:
                logits.div_(softcap).tanh_()
                slope = logits.square().neg_().add_(1) if with_grad else None
                logits.mul_(softcap)
            real = (target != IGNORED)[:, None]
            target = target[:, None].clamp(min=0)
            top = logits.amax(dim=1, keepdim=True)
            nll = top - logits.gather(1, target)
            if label_smoothing:
                nll = (1 - label_smoothing) * nll + label_smoothing * (top - logits.mean(dim=1, keepdim=True))
            grad = logits.sub_(top).exp_()
            z = grad.sum(dim=1, keepdim=True)
            loss += (nll + z.log()).masked_fill(~real, 0).sum()
            if not with_grad:
                continue
            grad /= z  # softmax; the gradient of the logits is softmax - target
            if label_smoothing:
                grad -= label_smoothing / vocab_size
            grad.scatter_add_(1, target, torch.full_like(z, label_smoothing - 1))
            if slope is not None:
                grad *= slope
                del slope
            # What is ignored is left out on the products' other sides, which are D wide and not V.
            if grad_bias is not None:
                grad_bias += (real.to(wide).T @ grad)[0]
            grad = grad.to(dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = (grad @ low_weight) * real
            if grad_weight is not None:
                grad_weight += grad.T @ (x * real)
            del grad, logits  # before the next chunk's are made
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        # in place: a copy of the weight's gradient would be as large as the weight. A second pass backwards, through
        # a graph that was retained, is then refused by torch, as the saved tensors have changed.
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden.mul_(grad_loss.to(grad_hidden.dtype)),
            None if grad_weight is None else grad_weight.mul_(grad_loss).to(ctx.weight_dtype),
            None if grad_bias is None else grad_bias.mul_(grad_loss).to(ctx.weight_dtype),
            *(None,) * 6,
        )


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
    """Cross-entropy in nats of logits (N, V), summed over the labels (N,) that are not -100."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide, labels, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing)


def r_drop(first: Tensor, second: Tensor, labels: Tensor, *, weight: float, label_smoothing: float) -> Tensor:
    """Half of the loss of R-Drop (Liang et al. 2021), so that two equal passes have the cross-entropy of one.

    first, second: logits (N, V) of two passes with other dropout, labels (N,). In nats, summed: the mean of both
    cross-entropies, and `weight` (alpha of the paper) times half of the mean of KL(P1 || P2) and KL(P2 || P1).
    """
    losses = [cross_entropy(logits, labels, label_smoothing=label_smoothing) for logits in (first, second)]
    one, other = first.log_softmax(-1), second.log_softmax(-1)
    apart = ((one.exp() - other.exp()) * (one - other)).sum()  # both divergences together
    return (losses[0] + losses[1]) / 2 + weight * apart / 4


def class_weights(counts: Sequence[int], *, how: Literal["inverse", "effective"], beta: float = 0.999) -> Tensor:
    """How much an example of each class counts in the loss, by how many of `counts` (C,) there are -> (C,).

    "inverse": 1 / n. "effective": (1 - beta) / (1 - beta^n), one over the effective number of examples, which grows
    ever more slowly with n (Cui et al. 2019). Scaled so that the mean over all examples is 1. Raises ValueError for a
    class without examples.
    """
    if min(counts) < 1:
        raise ValueError(f"class {counts.index(min(counts))} has no examples to weigh")
    n = torch.tensor(counts, dtype=torch.float64)
    weights = 1 / n if how == "inverse" else (1 - beta) / (1 - beta**n)
    return (weights * n.sum() / (weights * n).sum()).float()


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float,
    weights: Tensor | None = None,
    reduction: Literal["sum", "none"] = "sum",
) -> Tensor:
    """Cross-entropy of which each term is multiplied by (1 - p)^gamma (Lin et al. 2017), in nats, summed or (N, ...).

    p is the probability of what is right, so what is learned already counts for little. labels (N,): one class each, by
    softmax; -100 is left out. labels (N, C) of 0 and 1: any number of classes, a sigmoid for each. weights (C,): of the
    classes.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if labels.ndim == logits.ndim:
        log_p = F.logsigmoid(torch.where(labels.bool(), wide, -wide))  # (N, C)
    else:
        real = labels != IGNORED
        wide, labels = wide[real], labels[real]
        log_p = wide.log_softmax(1).gather(1, labels[:, None])[:, 0]  # (N,)
        weights = None if weights is None else weights[labels]
    # away from 0, where the gradient of a power below 1 is infinite
    wrong = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    terms = -log_p * wrong**gamma
    terms = terms if weights is None else terms * weights
    return terms.sum() if reduction == "sum" else terms
