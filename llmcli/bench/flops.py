"""How much arithmetic training takes, and how many bytes of weights a decoded token reads.

Counted as in the PaLM paper (Chowdhery et al. 2022, appendix B): a weight of a matrix costs 2 operations a token
forward and 4 backward; attention costs 12 L T D a token, in L layers of width D over a context of T, whether or not a
causal kernel skips half of it. Look-ups, norms and activations count nothing, and no recomputation does.
"""

from __future__ import annotations

import torch
from torch import nn

from llmcli.heads import LanguageModelHead
from llmcli.layers.packed import PackedLinear
from llmcli.models.base import Backbone
from llmcli.tasks.base import Task


def matmul_weights(task: nn.Module) -> tuple[int, int]:
    """Weights that take part in matrix products: (of the output layer over the vocabulary, of all else).

    An embedding that the output layer shares is a matrix there; any other is a table, where nothing is multiplied.
    """
    outputs, tables = _outputs_and_tables(task)
    head = other = 0
    for weight in task.parameters():
        if id(weight) in outputs:
            head += weight.numel()
        elif weight.ndim >= 2 and id(weight) not in tables:
            other += weight.numel()
    return head, other


def of_step(task: Task, *, tokens: int, targets: int, seq_len: int) -> float:
    """Floating-point operations of one optimizer step over so many tokens, of which `targets` go through the head."""
    head, other = matmul_weights(task)
    attention = 0
    for model in task.modules():
        if isinstance(model, Backbone) and model.kind == "attention":
            blocks = getattr(model, "blocks", ())
            attention += 12 * len(blocks) * seq_len * model.d_model
    return float(6 * (other * tokens + head * targets) + attention * tokens)


def streamed_bytes(task: nn.Module) -> int:
    """Bytes of all weights that one step of decoding reads: all but tables, of which it reads a row a token.

    Each weight once, whatever the batch; the key-value cache comes on top. Packed and quantised layers count as they
    lie in memory.
    """
    _, tables = _outputs_and_tables(task)
    held: dict[int, torch.Tensor] = {id(each): each for each in (*task.parameters(), *task.buffers())}
    plain = sum(each.numel() * each.element_size() for key, each in held.items() if key not in tables)
    packed = (layer for layer in task.modules() if isinstance(layer, PackedLinear))  # whose weights are no parameters
    return plain + sum(layer.in_features * layer.out_features * torch.bfloat16.itemsize for layer in packed)


def _outputs_and_tables(task: nn.Module) -> tuple[set[int], set[int]]:
    """The weights, by `id`, of the output layers, and of the embeddings that are none.

    An output layer that was packed or quantised has a copy, so that an embedding which it shared is a table then.
    """
    heads = [module for module in task.modules() if isinstance(module, LanguageModelHead)]
    outputs = {id(head.weight) for head in heads if getattr(head, "output", None) is None and hasattr(head, "weight")}
    return outputs, {id(m.weight) for m in task.modules() if isinstance(m, nn.Embedding)} - outputs
