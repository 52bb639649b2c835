"""Weight-only quantisation of a trained task, in place: `precision=int8|int4`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.heads import LanguageModelHead
from llmcli.layers.quantised import GROUP_SIZES, Bits, Int4Linear, Int8Linear, QuantisedLinear

Matrix = nn.Linear | LanguageModelHead

LEAST_OUTPUTS = 16  # a layer of fewer has little to save
GROUP_SIZE = 32  # 5 bits a weight with scale and zero; 64 would be 4.5, 4 % faster and a seventh further off


@dataclass(slots=True)
class Report:
    """What became of the weights; bytes are of all parameters and buffers of the module."""

    bits: Bits
    before: int
    after: int = 0
    layers: int = 0
    weights: int = 0  # in quantised layers
    left: dict[str, int] = field(default_factory=dict)  # why -> weights of matrices that stay as they were

    def __str__(self) -> str:
        kept = "".join(f"; {count:,} left as they are: {why}" for why, count in self.left.items())
        return (
            f"int{self.bits}: {self.weights:,} weights of {self.layers} layers, "
            f"{self.before / 2**20:,.1f} MiB have become {self.after / 2**20:,.1f}{kept}"
        )


@torch.no_grad()
def quantise(module: nn.Module, *, bits: Bits, group_size: int = GROUP_SIZE) -> Report:
    """Replace the layers of backbone and output of a task, on its device, by `QuantisedLinear` -> what became of it.

    Every `nn.Linear` of the right size below `module.model`, and the `LanguageModelHead` that `module.head` is or has;
    what stays as it is, such as recurrent and convolutional layers and adaptive heads, is in `left`. An embedding that
    shares the weight of the head keeps its rows, of which a step reads one.

    Raises InputError for a group size that torch has no kernel for.
    """
    if group_size not in GROUP_SIZES:
        raise InputError(f"group_size ({group_size}) must be one of {', '.join(map(str, GROUP_SIZES))}")
    report = Report(bits, before=storage_bytes(module))
    embeddings = {id(each.weight) for each in module.modules() if isinstance(each, nn.Embedding)}
    made: dict[nn.Module, QuantisedLinear] = {}  # a layer may stand in several places
    for parent, name, child in _matrices(module):
        if child not in made:
            if why := _unfit(child, bits, group_size):
                _leave(report, why, child.weight)
                continue
            made[child] = _quantised(child, bits, group_size)
            report.layers += 1
            report.weights += child.weight.numel()
        if isinstance(child, nn.Linear):
            setattr(parent, name, made[child])
        else:
            made[child].wide = True  # logits lie close together
            child.output = made[child]
            if id(child.weight) not in embeddings:
                child.register_parameter("weight", None)
    _leave_others(report, module)
    report.after = storage_bytes(module)
    return report


def check_fits(module: nn.Module, *, bits: Bits) -> None:
    """Raises InputError where `quantise` would find nothing to replace."""
    report = Report(bits, before=0)
    for child in {child: None for _, _, child in _matrices(module)}:
        if not (why := _unfit(child, bits, GROUP_SIZE)):
            return
        _leave(report, why, child.weight)
    _leave_others(report, module)
    kept = ", ".join(f"{count:,} weights: {why}" for why, count in report.left.items())
    raise InputError(
        f"precision=int{bits} is of linear layers and outputs over a vocabulary, and this {type(module).__name__} "
        f"run has none that it could keep so{f' ({kept})' if kept else ''}",
        "leave out precision=",
    )


def _matrices(module: nn.Module) -> list[tuple[nn.Module, str, Matrix]]:
    """(parent, name in it, layer) of what may be replaced.

    Of outputs the task's own alone: a model that it is compared with, as by task=preference, stays as it is, whole.
    """
    outputs = nn.ModuleList([head] if isinstance(head := getattr(module, "head", None), nn.Module) else [])
    return [*_children(_backbone(module), nn.Linear), *_children(outputs, LanguageModelHead)]


def _backbone(module: nn.Module) -> nn.Module:
    model = getattr(module, "model", module)
    assert isinstance(model, nn.Module)
    return model


def _leave_others(report: Report, module: nn.Module) -> None:
    """Note the layers of other kinds."""
    for layer in _backbone(module).modules():
        if isinstance(layer, nn.RNNBase | nn.RNNCellBase | nn.modules.conv._ConvNd):
            kind = "recurrent" if isinstance(layer, nn.RNNBase | nn.RNNCellBase) else "convolutional"
            for weight in layer.parameters(recurse=False):
                _leave(report, f"{kind} layers", weight)


def _unfit(child: Matrix, bits: Bits, group_size: int) -> str:
    """Why a layer stays as it is; "" for one that does not."""
    if type(child) not in (nn.Linear, LanguageModelHead):
        return type(child).__name__
    if len(child.weight) < LEAST_OUTPUTS:
        return f"fewer than {LEAST_OUTPUTS} outputs"
    if bits == 8:
        return "" if Int8Linear.fits(child.weight) else "rows are no multiple of 16"
    return "" if Int4Linear.fits(child.weight, group_size) else f"rows are no multiple of {group_size}"


def _quantised(child: Matrix, bits: Bits, group_size: int) -> QuantisedLinear:
    if bits == 8:
        return Int8Linear.of(child.weight, child.bias)
    return Int4Linear.of(child.weight, child.bias, group_size=group_size)


def storage_bytes(module: nn.Module) -> int:
    """Memory of the parameters and buffers, each storage once."""
    storages = (each.untyped_storage() for each in [*module.parameters(), *module.buffers()])
    return sum({each.data_ptr(): each.nbytes() for each in storages}.values())


def _children(root: nn.Module, kind: type[Matrix]) -> Iterator[tuple[nn.Module, str, Matrix]]:
    """(parent, name in it, module) of each module of a kind."""
    for parent in root.modules():
        for name, child in parent._modules.items():  # named_children has each once
            if isinstance(child, kind):
                yield parent, name, child


def _leave(report: Report, why: str, weight: Tensor) -> None:
    report.left[why] = report.left.get(why, 0) + weight.numel()
