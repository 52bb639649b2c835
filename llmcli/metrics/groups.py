"""Accuracy by the group that an example belongs to: the kinds of a probe such as BLiMP. Groups are known by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_PREFIX = "group "


def group_sums(groups: Sequence[str], right: Tensor) -> dict[str, Tensor]:
    """Of each group in a batch how many are right and how many there are, (2,): groups, right (B,); "" is no group."""
    sums: dict[str, Tensor] = {}
    for group, value in zip(groups, right.tolist(), strict=True):
        if group:
            name = _PREFIX + group
            sums[name] = sums.get(name, torch.zeros(2)) + torch.tensor([value, 1.0])
    return sums


def by_group(sums: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Accuracy and number of questions of each group, in alphabetical order, from the totals of `group_sums`."""
    found = {name.removeprefix(_PREFIX): total.tolist() for name, total in sums.items() if name.startswith(_PREFIX)}
    return {
        name: {"accuracy": right / count, "questions": int(count)} for name, (right, count) in sorted(found.items())
    }
