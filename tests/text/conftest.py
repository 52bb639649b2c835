"""`step(name, **options)`: a cleaning step as its YAML describes it, with some options changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import OmegaConf

from llmcli import catalog, config
from llmcli.data.cleaning import Cleaning

Step = Callable[[str], str | None]
_built: dict[tuple[str, str], Step] = {}


def build_step(name: str, **options: Any) -> Step:
    key = (name, repr(options))
    if key not in _built:
        _built[key] = _build(name, options)
    return _built[key]


def _build(name: str, options: dict[str, Any]) -> Step:
    node = OmegaConf.load(catalog.config_dir() / "clean" / f"{name}.yaml")
    for option, value in options.items():  # assigned, not merged: a list or mapping is replaced
        assert option in node, f"{name} has no option {option}"
        node[option] = value
    return Cleaning({name: config.build(node)})


@pytest.fixture(scope="session")
def step() -> Callable[..., Step]:
    return build_step
