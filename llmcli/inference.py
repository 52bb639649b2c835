"""The form of a trained model in which it generates fastest: fewer and larger products, of packed bfloat16 weights.

The change is one way: what was prepared is used, and neither trained nor saved.
"""

from __future__ import annotations

import torch
from torch import nn

from llmcli.heads import LanguageModelHead
from llmcli.layers.packed import PackedLinear, can_pack, pack_linears
from llmcli.models.base import Backbone


def prepare_for_generation(task: nn.Module, dtype: torch.dtype) -> None:
    """Weights of this type on the device where the task is, in the form that is fastest there."""
    task.to(dtype).requires_grad_(False)
    fuse(task)
    if dtype == torch.bfloat16 and next(task.parameters()).device.type == "cpu" and can_pack():
        pack_heads(task)
        pack_linears(task)
    settle(task)


def fuse(task: nn.Module) -> None:
    """Every backbone in the form that computes the same with fewer and larger products."""
    for module in list(task.modules()):
        if isinstance(module, Backbone):
            module.fuse()


def settle(task: nn.Module) -> None:
    """No weight changes its place or type any more."""
    for module in task.modules():
        if isinstance(module, Backbone):
            module.settle()


def pack_heads(task: nn.Module) -> None:
    """Heads over a vocabulary get a packed output layer, and let their weight go unless it is an embedding as well."""
    embeddings = {id(module.weight) for module in task.modules() if isinstance(module, nn.Embedding)}
    for head in task.modules():
        if type(head) is LanguageModelHead:  # an adaptive one has a weight for each of its levels
            head.output = PackedLinear(head.weight, head.bias, wide=True)
            if id(head.weight) not in embeddings:
                head.register_parameter("weight", None)
