"""Samples of the model's text after each validation: shown, and kept in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl

from llmcli import files, ui
from llmcli.callbacks.base import Callback, Context, Order
from llmcli.decoding.base import GeneratingModel, SourceModel
from llmcli.decoding.generate import generate
from llmcli.errors import InputError
from llmcli.tasks.base import Task

FILE = "samples.jsonl"
PAIRS = 5  # validation sources, of a run that turns them into texts


class Samples(Callback):
    """Continues `prompt` (None: how a validation document begins) by `max_new_tokens` tokens, on one line.

    A task that learns from pairs turns PAIRS sources of its validation split, the same ones each time, into texts,
    unless there is a prompt; the first is shown. All that is drawn stands in `FILE` of the run's folder: `step`,
    `prompt`, `text`, and of a pair `reference`.

    Drawn with the weights that are validated, also where those are an average. Draws from its own generator, so
    training is the same with and without it. A task that generates nothing has no samples.
    """

    order = Order.SHOW

    def __init__(self, *, prompt: str | None, max_new_tokens: int, seed: int) -> None:
        if max_new_tokens < 1:
            raise InputError(f"callbacks.samples.max_new_tokens must be at least 1, not {max_new_tokens}")
        self.prompt = prompt
        self._max_new_tokens = max_new_tokens
        self._seed = seed
        self._pairs: list[tuple[str, str, list[int]]] = []  # source, reference and the ids of the source
        self._rows: list[dict[str, Any]] = []  # drawn and not yet shown

    def attach(self, context: Context) -> None:
        self._tokenizer, self._strategy = context.tokenizer, context.strategy
        self._path = context.folder / FILE
        self._given = self.prompt is not None
        if self.prompt is None:
            self.prompt = context.prompt
        context.prompt = self.prompt

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        prepared = trainer.datamodule.prepared  # type: ignore[attr-defined]
        if not self._given and isinstance(pl_module, SourceModel) and prepared.record == "TextPair":
            examples, limit = prepared.examples("val"), getattr(pl_module, "max_seq_len", None)
            numbers = sorted({len(examples) * each // PAIRS for each in range(PAIRS)})
            self._pairs = [
                (*examples[each].texts(), examples.ids(each)[0].tolist()[: None if limit is None else limit - 1])
                for each in numbers
            ]
        if trainer.is_global_zero:
            _keep_up_to(self._path, trainer.global_step)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(pl_module, Task) or not pl_module.generates or not isinstance(self.prompt, str):
            return
        if trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        asked: Sequence[str | Sequence[int]]
        asked = [ids for _, _, ids in self._pairs] or [pl_module.as_prompt(self.prompt, self._tokenizer)]
        try:
            found = generate(
                cast("GeneratingModel | SourceModel", pl_module),
                self._tokenizer,
                asked,
                strategy=self._strategy,
                max_new_tokens=self._max_new_tokens,
                num_samples=1,
                stop=(),
                seed=self._seed,
                unknown="replace",
                skip_blank=bool(self._pairs),
            )
        except InputError as err:  # a prompt that the model cannot read is no reason to stop learning
            ui.note(f"no samples: {err}")
            self.prompt = None
            return
        about = [{"prompt": source, "reference": target} for source, target, _ in self._pairs] or [
            {"prompt": self.prompt}
        ]
        self._rows = [
            {"step": trainer.global_step, **each, "text": sample.text}
            for each, sample in zip(about, found, strict=True)
        ]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._rows:
            return
        ui.sample(trainer.global_step, self._rows[0]["prompt"], self._rows[0]["text"])  # below the validation's figures
        with self._path.open("ab") as file:
            file.write(b"".join(map(_line, self._rows)))
        self._rows = []


def _line(row: dict[str, Any]) -> bytes:
    # half of a surrogate pair has no UTF-8, and its escape is JSON's own
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _keep_up_to(path: Path, step: int) -> None:
    """A resumed run repeats the steps after its checkpoint: their old samples go."""
    if path.exists():
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        files.write_atomic(path, b"".join(_line(row) for row in rows if row["step"] <= step))
