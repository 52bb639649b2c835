"""From a composed config to the parts of a run: prepared data, task, batches, trainer settings, callbacks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, open_dict

from llmcli import config as configs
from llmcli import embeddings, initialise, micro_batch, precision
from llmcli.callbacks.base import Callback, Context, drop_unused_hooks, in_order
from llmcli.callbacks.checkpoints import Checkpoints
from llmcli.callbacks.history import History
from llmcli.callbacks.progress import ProgressBar
from llmcli.callbacks.steps import BudgetStop, StepSeeds, StopSignal
from llmcli.data.prepare import Prepared
from llmcli.data.records import Conversation, Preference, TaggedTokens, Text
from llmcli.data.turns import USER
from llmcli.decoding.base import NeedsDraft, Strategy
from llmcli.errors import InputError
from llmcli.finetuning import FineTuning
from llmcli.heads import LanguageModelHead
from llmcli.initialise import Origin
from llmcli.layers.recompute import recompute_blocks
from llmcli.preparation import prepare_as, prepare_data
from llmcli.tasks.base import Task
from llmcli.tokenizers import store
from llmcli.tokenizers.base import Tokenizer
from llmcli.trainer import Budget, TrainerSettings, accelerator_of

# what a run of an earlier version is resumed with, whose config has no finetune group
NOT_TUNED = FineTuning(freeze=[], layer_decay=1.0, unfreeze_every=None)
SPECIAL_IDS = ("pad_id", "bos_id", "eos_id", "mask_id", "cls_id", "sep_id")


@dataclass(frozen=True, slots=True)
class Parts:
    """A run that is built and has not begun.

    config: complete (facts, precision, compile, validation filled in). choices: config group -> option.
    """

    config: DictConfig
    choices: Mapping[str, str]
    prepared: Prepared
    task: Task
    data: Any  # the data module: tokens_per_batch, batches_per_epoch(ranks), eval_loader(split, stride, size, alone)
    settings: TrainerSettings
    budget: Budget
    precision: precision.Choice
    device: str
    ranks: int
    callbacks: Mapping[str, pl.Callback]
    loggers: Sequence[Any]
    strategy: Strategy  # of the samples
    finetuning: FineTuning
    remarks: Mapping[str, str]  # how the weights begin and which of them learn, by the titles of the start-up lines
    trusted: tuple[str, ...] | None  # what its config may name; None: everything, the user wrote it

    @property
    def tokens_per_step(self) -> int:
        return int(self.data.tokens_per_batch) * self.settings.accumulate * self.ranks

    @property
    def planned_tokens(self) -> int | None:
        return None if self.budget.steps is None else self.budget.steps * self.tokens_per_step


def build(
    cfg: DictConfig,
    choices: Mapping[str, str],
    *,
    resumed: Mapping[str, Any] | None = None,
    origin: Origin | None = None,
    prepared: Prepared | None = None,
) -> Parts:
    """Prepare the data and build everything that does not need a run folder.

    resumed: the `llm` part of the checkpoint that the run goes on from. origin: the run that a new one begins with.
    prepared: what stands for the data of a new run. Raises InputError when the data of a resumed run has changed, and
    for an origin with which nothing is shared.
    """
    trusted = None if resumed is None else configs.trusted()
    if prepared is not None:
        assert resumed is None and origin is None, "a run that goes on has data of its own"
    elif resumed is None:
        prepared = prepare_data(cfg, None if origin is None else origin.loaded.tokenizer)
    else:
        prepared = prepare_as(
            cfg,
            store.from_files(resumed["tokenizer"]),
            resumed["data"]["fingerprint"],
            trusted=configs.trusted(),
            otherwise="it cannot be continued exactly: put the old files back, or start a new run",
        )
    if "train" not in prepared.splits:
        raise InputError(
            f"the data has no train split to learn from; it has: {', '.join(prepared.splits)}",
            "it is there to score a run: llm eval ckpt=RUN data=...",
        )
    if "val" not in prepared.splits:
        raise InputError(
            f"the data has no val split to validate on; it has: {', '.join(prepared.splits)}",
            "data.val_fraction=0.1 keeps a tenth of the text for it",
        )
    tokenizer = prepared.tokenizer
    ids = {name: getattr(tokenizer, name) for name in SPECIAL_IDS}
    counts = prepared.manifest["splits"]["train"].get("names", {})
    _check_labels(counts)
    values = prepared.manifest["splits"]["train"].get("values", {})
    labels = {"names": list(counts), "name_counts": list(counts.values())}
    ids["source_vocab_size"] = None if tokenizer.of_sources is tokenizer else tokenizer.of_sources.vocab_size
    labels |= {f"value_{name}": values.get(name) for name in ("mean", "std")}
    cfg = configs.with_facts(cfg, {"vocab_size": tokenizer.vocab_size, **ids, **labels})
    settings: TrainerSettings = configs.build(cfg.trainer, trusted=trusted)
    device, ranks = accelerator_of(settings.accelerator, settings.devices, strategy=settings.strategy)
    before = ranks if resumed is None else int(resumed["ranks"])
    if ranks != before:
        raise InputError(
            f"the run's batches were dealt to {before} {'process' if before == 1 else 'processes'}, this is {ranks}: "
            "it would go on with other ones",
            "make as many devices visible (CUDA_VISIBLE_DEVICES), or start a new run",
        )
    finetuning = configs.build(cfg.get("finetune"), trusted=trusted) or NOT_TUNED
    torch.manual_seed(int(cfg.seed))
    task: Task = configs.build(cfg.task, trusted=trusted)(
        model=configs.build(cfg.model, trusted=trusted),
        optimizer=finetuning.optimizer(configs.build(cfg.optimizer, trusted=trusted)),
        schedule=configs.build(cfg.schedule, trusted=trusted),
    )
    _save_memory(task, settings)
    limit, seq_len = getattr(getattr(task, "model", None), "max_seq_len", None), cfg.batch.get("seq_len")
    remarks = {}
    if limit is not None and seq_len is not None and seq_len > limit:
        if origin is None or configs.launch().sets("batch.seq_len"):
            raise InputError(
                f"batch.seq_len ({seq_len}) is above model.max_seq_len ({limit})", f"batch.seq_len={limit} fits"
            )
        cfg.batch.seq_len = limit
        remarks["context"] = f"batch.seq_len={limit}, not {seq_len}: the model of init={origin.given} reads no more"
    if resumed is None:
        remarks |= _begin(task, cfg, tokenizer, origin)
    finetuning.apply(task, ranks=ranks)
    remarks["finetune"] = finetuning.describe(task)
    augment = configs.build(cfg.augment, trusted=trusted) if cfg.get("augment") else {}
    data = batches(cfg, prepared, task, trusted=trusted, accumulate=settings.accumulate, augment=augment)
    data.eval_loader("val")  # refuses a split with nothing to score before there is a run folder
    if task.single_pass:
        cast(Any, task).check(data)
    per_epoch, per_batch = int(data.batches_per_epoch(ranks)), int(data.tokens_per_batch)
    budget = Budget.of(settings, batches_per_epoch=per_epoch, tokens_per_batch=per_batch, ranks=ranks)
    if task.single_pass:
        budget = Budget(steps=1, seconds=None)
    per_step = per_batch * settings.accumulate * ranks
    tokens = None if budget.steps is None else budget.steps * per_step
    one_length = getattr(data, "gives", "windows") != "examples"
    choice = precision.choose(
        settings,
        device=device,
        width=task.width,
        parameters=matrix_parameters(task),
        one_shape=one_length,
        tokens=tokens,
        seconds=budget.seconds,
    )
    if resumed is None:
        # written down, so that resume and a repetition do the same whatever the machine
        every = settings.val_every or _validations(budget, per_epoch, settings.accumulate)
        cfg.trainer.precision, cfg.trainer.compile = choice.precision, choice.compile
        cfg.trainer.val_every = every
        cfg.trainer.val_batches = settings.val_batches or _val_batches(prepared, data, every * per_step)
        settings = configs.build(cfg.trainer)
    micro_batch.begin(task, settings, cfg, device=device, ranks=ranks, one_length=one_length)
    task.nominal_tokens = per_batch
    task.text_per_target = _text_per_target(prepared)
    _check_optimizer(task)
    chosen = {
        name: configs.build(node, trusted=trusted) for name, node in (cfg.callbacks or {}).items() if node is not None
    }
    if not any(isinstance(callback, Checkpoints) for callback in chosen.values()):
        raise InputError(
            "callbacks.checkpoints is missing: a run that saves nothing is lost", "callbacks=default has it"
        )
    loggers = [configs.build(node, trusted=trusted) for node in (cfg.logger or {}).values() if node is not None]
    strategy: Strategy = configs.build(cfg.decoding, trusted=trusted)
    if isinstance(strategy, NeedsDraft):
        raise InputError(
            "decoding=speculative: a draft guesses for a run that is there, not for one that is trained",
            "say it to llm generate or llm chat",
        )
    return Parts(
        config=cfg,
        choices=choices,
        prepared=prepared,
        task=task,
        data=data,
        settings=settings,
        budget=budget,
        precision=choice,
        device=device,
        ranks=ranks,
        callbacks=chosen,
        loggers=loggers,
        strategy=strategy,
        finetuning=finetuning,
        remarks=remarks,
        trusted=trusted,
    )


def _save_memory(task: Task, settings: TrainerSettings) -> None:
    """What training keeps in memory, where the same can be computed in parts or once more.

    Raises InputError for a way that is asked for and that this task does not have.
    """
    heads = [module for module in task.modules() if isinstance(module, LanguageModelHead)]
    if not heads and configs.launch().sets("trainer.loss_chunk"):
        raise InputError(
            f"trainer.loss_chunk={settings.loss_chunk} is for losses over a vocabulary, and this task has none",
            "leave it out",
        )
    for head in heads:
        head.chunk = settings.loss_chunk
    if settings.checkpoint_activations:
        recompute_blocks(task)


def _begin(task: Task, cfg: DictConfig, tokenizer: Tokenizer, origin: Origin | None) -> dict[str, str]:
    """Give a new task the weights that others have learnt, and say so; the config remembers the origin."""
    remarks = {}
    if origin is not None:
        taken = initialise.initialise(task, origin, config=configs.resolved(cfg.task))
        with open_dict(cfg):
            cfg.init = taken.record()
        remarks["init"] = str(taken) + initialise.otherwise_cleaned(cfg, origin)
    if cfg.get("embedding_init") is not None:
        remarks["embeddings"] = str(embeddings.initialise(task, tokenizer.of_sources, Path(str(cfg.embedding_init))))
    return remarks


def batches(
    cfg: DictConfig,
    prepared: Prepared,
    task: Task,
    *,
    trusted: tuple[str, ...] | None,
    accumulate: int = 1,
    augment: Mapping[str, Any] | None = None,
) -> Any:
    """The data module of `cfg.batch`; examples, and windows where it wants others, are encoded as the task says.

    augment: the steps that change training examples. Raises InputError for running text, which has none.
    """
    given: dict[str, Any] = {}
    if hasattr(task, "encoder"):
        given["encode"] = cast(Any, task).encoder(prepared.tokenizer)
    if prepared.record != Text.__name__:
        given["augment"] = augment
    elif augment:
        raise InputError(
            f"augment=[{','.join(augment)}] changes labelled, tagged or paired examples; this data holds running text",
            "leave out augment=",
        )
    return configs.build(cfg.batch, trusted=trusted)(
        prepared=prepared, seed=int(cfg.seed), contiguous=task.carries_state, accumulate=accumulate, **given
    )


def _check_labels(names: Iterable[str]) -> None:
    """Labels stand in the run's config, where OmegaConf would take some texts for what they are not."""
    for name in names:
        if "${" in name or name == "???":
            raise InputError(f"the label {name[:40]!r} cannot be kept in a run's config", "write it in another way")


def _check_optimizer(task: Task) -> None:
    """Build the optimizer and its schedule once, so that a value they refuse is known before there is a run folder."""
    try:
        task.configure_optimizers()
    except InputError:
        raise
    except (ValueError, TypeError) as err:  # torch's own checks
        raise InputError(f"optimizer: {err}") from err


def _validations(budget: Budget, batches_per_epoch: int, accumulate: int) -> int:
    """Optimizer steps between two of ten validations; without a step budget one an epoch, or every 200 steps."""
    if budget.steps is not None:
        return max(1, math.ceil(budget.steps / 10))
    return max(1, min(200, batches_per_epoch // accumulate))


def _val_batches(prepared: Prepared, data: Any, tokens_between: int) -> int:
    """So many batches that validating costs at most about a sixth of training: half the tokens, forward alone."""
    whole = len(data.eval_loader("val"))
    per_batch = max(1, prepared.count("tokens", "val") // whole)
    return max(1, min(whole, max(20, tokens_between // 2 // per_batch)))


def _text_per_target(prepared: Prepared) -> dict[str, float]:
    tokens = max(1, prepared.count("tokens", "val"))
    return {unit: prepared.count(unit, "val") / tokens for unit in ("bytes", "characters")}


def matrix_parameters(task: Task) -> int:
    """Parameters that take part in matrix products: all but look-up tables, norms and biases."""
    tables = {id(m.weight) for m in task.modules() if isinstance(m, torch.nn.Embedding)}
    return sum(p.numel() for p in task.parameters() if p.ndim >= 2 and id(p) not in tables)


def opening(prepared: Prepared) -> str:
    """How a validation document begins: a few words to continue in samples; of examples, the first text, and of a
    conversation what its user asks first."""
    if prepared.record != Text.__name__:
        example = prepared.examples("val")[0]
        if isinstance(example, Conversation | Preference):
            return next(turn.text for turn in example.turns if turn.role == USER)
        return example.joined()[0] if isinstance(example, TaggedTokens) else example.texts()[0]
    shards = prepared.split("val")
    text = prepared.tokenizer.decode([int(i) for i in shards.read(0, min(64, len(shards)))])
    words = text.split()
    short = " ".join(words[:4]) if len(words) >= 4 else text[:12]
    return short[:40] or "\n"


def callbacks(parts: Parts, folder: Path) -> tuple[History, list[pl.Callback], str]:
    """The run's history, all its callbacks in the order in which they must act, and the prompt of its samples."""
    cfg = parts.config
    micro_batch.follow(parts.task, parts.settings, cfg, device=parts.device, folder=folder)
    history = History(
        folder=folder,
        budget=parts.budget,
        log_every=parts.settings.log_every,
        monitor=parts.task.monitor,
        higher_is_better=parts.task.higher_is_better,
        about={"choices": dict(parts.choices)},
    )
    saver = next(each for each in parts.callbacks.values() if isinstance(each, Checkpoints))
    ordered = in_order(
        [
            StepSeeds(seed=int(cfg.seed)),
            history,
            BudgetStop(budget=parts.budget, history=history),
            ProgressBar(history=history, budget=parts.budget),
            *parts.finetuning.callbacks(),
            *parts.callbacks.values(),
            *parts.loggers,
            StopSignal(checkpoints=saver, history=history),
        ]
    )
    context = Context(
        folder=folder,
        history=history,
        tokenizer=parts.prepared.tokenizer,
        strategy=parts.strategy,
        prompt=opening(parts.prepared),
    )
    for each in ordered:
        if isinstance(each, Callback):
            each.attach(context)
    drop_unused_hooks(ordered)
    return history, ordered, context.prompt
