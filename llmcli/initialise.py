"""Begin a run with the model, the tokenizer and the weights of another one: `init=RUN`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from llmcli import checkpoint, embeddings, runs, schema
from llmcli import config as configs
from llmcli.catalog import Catalog
from llmcli.checkpoint import Loaded
from llmcli.errors import InputError
from llmcli.trust import check_targets

SHOWN = 3  # names in the start-up line; all stand in the run's config
BACKBONE = "model."
# keys of a task that say what the outputs of its head stand for
MEANT = ("names", "several", "value_mean", "value_std")
TAUGHT = {"template", "marks", "head_cutoffs"}  # keys of a task by which its weights were learned


@dataclass(frozen=True, slots=True)
class Origin:
    """The run that another begins with. given: as the user named it. sha256: of its checkpoint file."""

    given: str
    loaded: Loaded
    sha256: str

    @property
    def choices(self) -> Mapping[str, str]:
        """Config group -> option."""
        found: Mapping[str, str] = self.loaded.content["llm"].get("choices", {})
        return found

    @property
    def word_vectors(self) -> bool:
        return getattr(self.loaded.task.model, "kind", None) == "word_vectors"

    def __str__(self) -> str:
        return f"{self.given} ({self.choices.get('model')}, {self.choices.get('task')})"


def find(given: str) -> Origin:
    """The run of `init=given`. Raises CheckpointError where there is none, InputError for one without weights."""
    path = runs.resolve(given, "use")
    loaded = checkpoint.load(path)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    origin = Origin(given, loaded, sha256)
    if loaded.task.single_pass:
        raise InputError(f"init={origin} was counted, not trained: there are no weights to begin with")
    return origin


def adopt(
    cfg: DictConfig, choices: Mapping[str, str], origin: Origin, overrides: Sequence[str]
) -> tuple[DictConfig, dict[str, str]]:
    """A new run's config and choices, with the tokenizer and the model of the run that it begins with.

    overrides: what the user typed. Another `model=` than the run's stays as it is; keys of the model that were typed,
    or that an experiment sets, are laid over the run's. The model reads in the direction in which it was trained unless
    `model.causal` was typed, whatever the task usually wants. Raises InputError for another tokenizer than the run's.
    """
    config, named = origin.loaded.config, dict(choices)
    typed = {each.lstrip("+~").partition("=")[0] for each in overrides}
    _check_tokenizer(cfg, choices, origin, typed)
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.tokenizer = config["tokenizer"]
        cfg.prepare.separate = _separate(origin)
        named["tokenizer"] = origin.choices.get("tokenizer", "?")
        shared = TAUGHT & cfg.task.keys() & config["task"].keys()
        if "template" in typed:
            shared -= {"template", "marks"}
        elif "template" in shared:
            named["template"] = origin.choices.get("template", "?")
        cfg.task.update({name: config["task"][name] for name in shared if f"task.{name}" not in typed})
        if _same_model(choices, origin, typed):
            cfg.model = {**config["model"], **_said(cfg, choices, typed)}
            named["model"] = origin.choices.get("model", "?")
            forward = getattr(schema.locate(str(cfg.task._target_)), "needs_causal", None)
            if forward and not cfg.model.get("causal", True):
                raise InputError(
                    f"init={origin}: its model reads both ways, and task={choices.get('task')} predicts the next token",
                    "model.causal=true, where the model can; or a run that read forward",
                )
    return cfg, named


def _check_tokenizer(cfg: DictConfig, choices: Mapping[str, str], origin: Origin, typed: set[str]) -> None:
    config = origin.loaded.config
    check_targets(config["tokenizer"], "tokenizer", origin.loaded.trusted)
    asked = any(key == "tokenizer" or key.startswith("tokenizer.") for key in typed)
    if asked and configs.resolved(cfg.tokenizer) != config["tokenizer"]:
        raise InputError(
            f"tokenizer={choices.get('tokenizer')} is not the one of init={origin}, whose weights know the ids of its "
            f"own: {origin.choices.get('tokenizer')}, {origin.loaded.tokenizer.vocab_size:,} ids",
            "leave out tokenizer=: the run brings its own",
        )
    if "prepare.separate" in typed and bool(cfg.prepare.separate) != _separate(origin):
        has = "one vocabulary for sources and one for targets" if _separate(origin) else "one vocabulary for both sides"
        raise InputError(f"init={origin} has {has}", "leave out prepare.separate: the run brings its own")


def _separate(origin: Origin) -> bool:
    """Whether the run has a vocabulary for sources beside that for targets."""
    return origin.loaded.tokenizer.of_sources is not origin.loaded.tokenizer


def _same_model(choices: Mapping[str, str], origin: Origin, typed: set[str]) -> bool:
    """Whether the user wants the model of the run: he named no other, himself or by an experiment."""
    named = choices.get("model")
    if named == origin.choices.get("model"):
        return True
    usual = Catalog([configs.config_dir()]).defaults("train")["model"]
    return named == usual and "model" not in typed and not origin.word_vectors


def _said(cfg: DictConfig, choices: Mapping[str, str], typed: set[str]) -> dict[str, Any]:
    """The keys of the model that do not come from its own file: typed, or set by an experiment."""
    plain = configs.compose("train", [f"model={choices.get('model')}"], config_dirs=configs.launch().config_dirs).model
    raw, usual = (OmegaConf.to_container(each, resolve=False) for each in (cfg.model, plain))
    assert isinstance(raw, dict) and isinstance(usual, dict)
    return {
        str(name): cfg.model[name]
        for name, value in raw.items()
        if f"model.{name!s}" in typed or value != usual.get(name)
    }


@dataclass(frozen=True, slots=True)
class Taken:
    """What a new run has of the one it begins with.

    tensors, parameters: how much was taken. new: parameters that begin as those of any new model do. left: those of
    the other run that have no place here. misfits: those of `new` and `left` at once, with both shapes.
    """

    origin: Origin
    tensors: int
    parameters: int
    new: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    misfits: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = [f"{self.tensors} tensors ({self.parameters:,} parameters) of {self.origin}"]
        said += [
            f"{what}: {', '.join(names[:SHOWN])}" + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
            for what, names in (("new", self.new), ("left", self.left), ("other shapes", self.misfits))
            if names
        ]
        return "; ".join(said)

    def record(self) -> dict[str, Any]:
        """For the new run's config: where it comes from, in plain values."""
        return {
            "path": self.origin.given,
            "sha256": self.origin.sha256,
            "tensors": self.tensors,
            "parameters": self.parameters,
            "new": list(self.new),
            "left": list(self.left),
        }


def otherwise_cleaned(cfg: DictConfig, origin: Origin) -> str:
    """A remark where the text of the two runs went through other steps, which may make it another language."""
    steps = [list(each or {}) for each in (origin.loaded.config.get("clean"), cfg.get("clean"))]
    then, now = (f"clean=[{','.join(each)}]" for each in steps)
    return "" if steps[0] == steps[1] else f"; its text had {then}, this has {now}"


def initialise(task: nn.Module, origin: Origin, *, config: Mapping[str, Any]) -> Taken:
    """Give a new task the weights that another run has for its backbone, by name and shape.

    The rest of the task (its head) is taken too where it is the same one and its outputs mean the same by the task's
    `config`. Of word vectors the input embedding takes the vector of each word. Raises InputError where nothing fits.
    """
    loaded = origin.loaded
    if origin.word_vectors and type(loaded.task) is not type(task):
        coverage = embeddings.initialise(task, loaded.tokenizer, loaded.path, key=f"init={origin.given}")
        table = "model.input_embedding.weight"
        others = tuple(name for name, _ in task.named_parameters() if name != table)
        return Taken(origin, 1, coverage.found * task.get_parameter(table).size(1), new=others)
    kinds = [getattr(each, "head_kind", None) or type(each) for each in (loaded.task, task)]
    same = kinds[0] == kinds[1] and all(loaded.config["task"].get(key) == config.get(key) for key in MEANT)
    theirs: dict[str, Tensor] = loaded.task.state_dict()
    ours = task.state_dict()
    wanted = [name for name in theirs if name in ours and (same or name.startswith(BACKBONE))]
    fitting = {name: theirs[name] for name in wanted if theirs[name].shape == ours[name].shape}
    if not any(name.startswith(BACKBONE) for name in fitting):
        raise InputError(
            f"init={origin}: none of its weights fits {type(getattr(task, 'model', task)).__name__}",
            f"leave out model=: the run brings its own, {origin.choices.get('model')}",
        )
    task.load_state_dict(fitting, strict=False)
    taken = [parameter for name, parameter in task.named_parameters() if name in fitting]
    return Taken(
        origin,
        tensors=len(taken),
        parameters=sum(parameter.numel() for parameter in taken),
        new=tuple(name for name, _ in task.named_parameters() if name not in fitting),
        # what never learned, as the reference that task=preference keeps, is no loss
        left=tuple(name for name, each in loaded.task.named_parameters() if name not in fitting and each.requires_grad),
        misfits=tuple(
            f"{name} {tuple(theirs[name].shape)}, here {tuple(ours[name].shape)}"
            for name in wanted
            if name not in fitting
        ),
    )
