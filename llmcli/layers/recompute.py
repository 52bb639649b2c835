"""Activation checkpointing (Chen et al. 2016): a block keeps its input alone and is computed once more in the backward
pass, with the same random numbers, so that the gradients are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from llmcli.errors import InputError

# what models call their lists of blocks
_LISTS = ("blocks", "encoder", "decoder")


def recompute_blocks(module: nn.Module) -> int:
    """Let every block inside `module` be recomputed where gradients are needed; returns how many there are.

    Blocks keep their names and parameters. Raises InputError for a module without any.
    """
    found = [block for child in module.modules() for block in _blocks(child)]
    if not found:
        raise InputError(
            "trainer.checkpoint_activations=true is for models made of blocks, and this one has none",
            "transformer, gpt2, bert, electra, xlnet, seq2seq_transformer and dpcnn have",
        )
    for block in found:
        # on the object and not around it: the names in a checkpoint and the attributes of a block stay what they are
        block.forward = partial(_recomputed, type(block).forward, block)
    return len(found)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """Those of one model. A block lives with its model, unlike the layers of others that stand in such lists too."""
    lists = [child for name, child in module.named_children() if name in _LISTS and isinstance(child, nn.ModuleList)]
    blocks = [block for child in lists for block in child]
    return blocks if all(type(block).__module__ == type(module).__module__ for block in blocks) else []


def _recomputed(forward: Callable[..., Any], block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(block, *args, **kwargs)
    return checkpoint(partial(forward, block), *args, use_reentrant=False, **kwargs)
