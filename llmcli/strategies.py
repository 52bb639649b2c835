"""How a run's texts are found: as it was trained to, or as a command line asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llmcli import checkpoint, runs
from llmcli import config as configs
from llmcli.catalog import Catalog, config_dir
from llmcli.checkpoint import Loaded
from llmcli.decoding.base import NeedsDraft, Search, SourceModel, Strategy
from llmcli.errors import InputError
from llmcli.loading import prepare
from llmcli.mistakes import did_you_mean, nearest_key
from llmcli.tokenizers.base import Tokenizer
from llmcli.trust import check_targets


def strategy_of(loaded: Loaded, asked: DictConfig | None) -> Strategy | Search:
    """`asked`, the `decoding` of a command line, or the run's own where that is None; without `decoding=` it has no
    target, and its keys change the run's own. What a run from an earlier version lacks is as its YAML says. A draft
    that it names is loaded, to where the run is.

    Raises InputError for keys that the run's own decoding does not have, and for a draft that cannot help it.
    """
    strategy = _built(loaded, asked)
    if isinstance(strategy, NeedsDraft):
        strategy.use(_draft(loaded, strategy.draft))
    return strategy


def _built(loaded: Loaded, asked: DictConfig | None) -> Strategy | Search:
    if asked is not None and "_target_" in asked:
        configs.validate(OmegaConf.create({"decoding": asked}))
        strategy: Strategy | Search = configs.build(asked)
        return strategy
    own = OmegaConf.create(loaded.config).decoding
    check_targets(OmegaConf.to_container(own), "decoding", loaded.trusted)
    option, shipped = _shipped(str(own._target_))
    merged = OmegaConf.merge(shipped, own)
    if asked is not None:
        known = list(_keys(OmegaConf.to_container(merged)))
        for key in _keys(OmegaConf.to_container(asked)):
            if key not in known:
                name = f"decoding={option}" if option else "decoding"
                meant = did_you_mean(nearest_key(key, known))
                raise InputError(
                    f"{key} is no key of the run's own {name}.{meant}",
                    f"choose another way with decoding=...; its keys: {', '.join(known)}",
                )
        merged = OmegaConf.merge(merged, asked)
    node = OmegaConf.create({"decoding": merged})
    configs.validate(node)
    strategy = configs.build(node.decoding, trusted=loaded.trusted)
    return strategy


def _draft(loaded: Loaded, name: str | None) -> Any:
    """The task of the run that drafts for this one.

    Raises InputError where none is named, and for the run itself, one that does not continue texts or has other tokens.
    """
    if name is None:
        raise InputError(
            "decoding=speculative needs decoding.draft, a smaller run with the same vocabulary",
            "decoding=lookup does without one",
        )
    _check_continues(loaded, "ckpt")
    try:
        path = runs.resolve(name, "use")
        if path.resolve() == loaded.path.resolve():
            raise InputError(
                "it is the run itself, whose guesses cost as much as the steps that they save",
                "a smaller run with the same vocabulary; decoding=lookup needs no second run",
            )
        draft = checkpoint.load(path, packages=loaded.trusted)
    except InputError as err:
        raise InputError(f"decoding.draft={name}: {err}", err.hint) from err
    _check_continues(draft, "decoding.draft")
    ours, theirs = (_tokens(each.tokenizer) for each in (loaded, draft))
    if ours != theirs:
        place = next(
            (place for place, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other),
            min(len(ours), len(theirs)),
        )
        one, other = (repr(each[place]) if place < len(each) else "nothing" for each in (theirs, ours))
        raise InputError(
            f"decoding.draft={name} has other tokens ({len(theirs):,}) than {loaded.path} ({len(ours):,}): "
            f"id {place} is {one} there and {other} here",
            "train it on the same data with the same tokenizer settings; decoding=lookup needs no second run",
        )
    prepare(draft.task, "auto", loaded.task.device, generating=True)
    return draft.task


def _check_continues(run: Loaded, key: str) -> None:
    """key: that named the run."""
    if isinstance(run.task, SourceModel) or not run.task.generates:
        raise InputError(
            f"decoding=speculative is for two runs that continue a text; {key}={run.path} is a "
            f"{type(run.task).__name__} run",
            "decoding=lookup needs no second run",
        )


def _tokens(tokenizer: Tokenizer) -> list[str]:
    """What each id means."""
    return [tokenizer.token(index) for index in range(tokenizer.vocab_size)]


def _shipped(target: str) -> tuple[str | None, DictConfig]:
    """The option of ours that builds this target, and its config; nothing for a strategy of the user's own."""
    for option in Catalog([config_dir()]).options("decoding"):
        config = OmegaConf.load(option.path)
        assert isinstance(config, DictConfig)
        if config._target_ == target:
            return option.name, config
    return None, OmegaConf.create({})


def _keys(node: Any, prefix: str = "decoding.") -> Iterator[str]:
    """The dotted keys of what a user may set."""
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _keys(value, f"{prefix}{key}.")
        elif not str(key).startswith("_"):
            yield f"{prefix}{key}"
