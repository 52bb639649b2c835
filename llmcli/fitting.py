"""Whether data, model, task and batches go together, told from the config before any data is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llmcli import config as configs
from llmcli import schema
from llmcli.catalog import Catalog
from llmcli.data.records import Text
from llmcli.data.texts import HAVE_TEXTS
from llmcli.errors import InputError


def check_pair(cfg: DictConfig, choices: Mapping[str, str]) -> None:
    """A model that the task cannot train, or whose batches are of another kind, stops here, before any data is read.

    Raises InputError naming what works.
    """
    task, model = schema.locate(str(cfg.task._target_)), schema.locate(str(cfg.model._target_))
    kind, kinds = getattr(model, "kind", None), getattr(task, "kinds", ())
    if kind is not None and kinds and kind not in kinds:
        raise InputError(
            f"model={choices.get('model')} is of kind {kind!r} and cannot be trained with task={choices.get('task')}, "
            f"which takes: {', '.join(kinds)}",
            _only_models(choices, task) or _tasks_for(model) or "llm train --help lists the models and tasks",
        )
    if missing := [name for name in getattr(task, "calls", ()) if not hasattr(model, name)]:
        raise InputError(
            f"model={choices.get('model')} has no {missing[0]}, which task={choices.get('task')} calls",
            _models_with(task.calls),
        )
    if getattr(model, "never_causal", False) and getattr(task, "needs_causal", None):
        raise InputError(
            f"model={choices.get('model')} looks both ways and cannot be trained with task={choices.get('task')}",
            _tasks_for(model),
        )
    if cfg.prepare.get("separate") and kind != "encoder_decoder":
        raise InputError(
            "prepare.separate=true gives sources and targets a vocabulary each, for models that read the source apart; "
            f"model={choices.get('model')} has one",
            "model=seq2seq_transformer, seq2seq_rnn or seq2seq_cnn",
        )
    _check_record(cfg, choices, task)
    if getattr(task, "needs_init", False) and cfg.get("init") is None:
        raise InputError(
            f"task={choices.get('task')} goes on from a run that answers already: init=RUN is missing",
            "llm train data=python_chat makes one, say runs/chat; then init=runs/chat",
        )
    # word vectors differ in what they learn from, so there the model says it; else the task does
    wanted = getattr(model, "learns_from", None) or getattr(task, "learns_from", "windows")
    given = getattr(schema.locate(str(cfg.batch._target_)), "gives", "windows")
    if wanted != given:
        raise InputError(
            f"model={choices.get('model')} with task={choices.get('task')} learns from {wanted}, "
            f"and batch={choices.get('batch')} gives {given}",
            "leave out batch=: the data or the model brings its own",
        )


def with_search(cfg: DictConfig, choices: Mapping[str, str]) -> tuple[DictConfig, dict[str, str]]:
    """Config and choices of a new run. What turns a text into another is searched for, not drawn at random, unless the
    user chose a way; encoder-decoders bring theirs along, a causal model does not know what it is trained for."""
    usual = Catalog([configs.config_dir()]).defaults("train")["decoding"]
    turns_texts = hasattr(schema.locate(str(cfg.task._target_)), "bind")
    if not turns_texts or choices.get("decoding") != usual or configs.launch().sets("decoding"):
        return cfg, dict(choices)
    cfg = cfg.copy()
    cfg.decoding = configs.compose("train", ["decoding=beam"], config_dirs=configs.launch().config_dirs).decoding
    return cfg, {**choices, "decoding": "beam"}


def _check_record(cfg: DictConfig, choices: Mapping[str, str], task: Any) -> None:
    """The data must hold the kind of record that the task learns from; who gives which is said by the classes."""
    source, reader = schema.locate(str(cfg.data._target_)), cfg.data.get("reader")
    record = getattr(source, "record", None) or getattr(schema.locate(str(reader._target_)), "record", None)
    kind, takes = getattr(record, "__name__", None), getattr(task, "takes", ())
    has_texts = isinstance(record, type) and issubclass(record, HAVE_TEXTS)
    if has_texts and cfg.prepare.as_text:
        kind = Text.__name__
    if kind is None or not takes or kind in takes:
        return
    hint = (
        _tasks(lambda task: kind in getattr(task, "takes", ()))
        or f"no task learns from {kind} yet; llm prepare and llm data work with them"
    )
    if has_texts and Text.__name__ in takes:
        batch = " batch=windows" if getattr(task, "learns_from", "windows") == "windows" else ""
        hint += f"; task={choices.get('task')} learns from its texts alone with prepare.as_text=true{batch}"
    raise InputError(
        f"data={choices.get('data')} holds {kind} records; task={choices.get('task')} learns from {' or '.join(takes)}",
        hint,
    )


def _tasks_for(model: Any) -> str:
    """Like "it goes with task=a or task=b": the shipped tasks that can train a model; "" where there is none."""
    never_causal = getattr(model, "never_causal", False)
    return _tasks(
        lambda task: (
            model.kind in getattr(task, "kinds", ())
            and not (never_causal and getattr(task, "needs_causal", None))
            and all(hasattr(model, name) for name in getattr(task, "calls", ()))
        )
    )


def _tasks(fits: Callable[[Any], bool]) -> str:
    fitting = [name for name, task in _shipped("task").items() if fits(task)]
    return f"it goes with task={' or task='.join(fitting)}" if fitting else ""


def _only_models(choices: Mapping[str, str], task: Any) -> str:
    """Of a task with only one kind of model, which these are; "" of others, where the task is more often wrong."""
    fitting = [
        name
        for name, model in _shipped("model").items()
        if [getattr(model, "kind", None)] == list(task.kinds) and all(hasattr(model, each) for each in task.calls)
    ]
    return f"task={choices.get('task')} goes with model={' or model='.join(fitting)}" if fitting else ""


def _models_with(names: Sequence[str]) -> str:
    """Like "it goes with model=a or model=b": the shipped models that have all these methods."""
    fitting = [name for name, model in _shipped("model").items() if all(hasattr(model, each) for each in names)]
    return f"it goes with model={' or model='.join(fitting)}"


def _shipped(group: str) -> dict[str, Any]:
    """What each shipped option of a config group builds."""
    options = Catalog([configs.config_dir()]).options(group)
    return {each.name: schema.locate(str(OmegaConf.load(each.path)._target_)) for each in options}
