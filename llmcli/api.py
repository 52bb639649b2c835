"""The Python API: `llmcli.load(run).generate(...)`, `.chat(...)`, `.predict(...)` and `.evaluate(...)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import OmegaConf

from llmcli import checkpoint, runs
from llmcli.asked import of_mapping
from llmcli.chat import Dialogue
from llmcli.data.records import Turn
from llmcli.data.turns import USER, check_roles
from llmcli.decoding.base import SourceModel
from llmcli.decoding.generate import Generation, generate
from llmcli.decoding.penalties import Penalties
from llmcli.decoding.sample import Sample
from llmcli.errors import InputError
from llmcli.evaluation import score
from llmcli.loading import precision_of, prepare
from llmcli.strategies import strategy_of


class Run:
    """A trained run: `task` (a LightningModule), `tokenizer` and `config` (plain dict), ready to use."""

    def __init__(self, loaded: checkpoint.Loaded, *, accelerator: str = "auto") -> None:
        self._loaded, self._accelerator = loaded, accelerator  # where it is scored
        self.path, self.task, self.tokenizer, self.config = (
            loaded.path,
            loaded.task,
            loaded.tokenizer,
            loaded.config,
        )

    def to(self, device: str | torch.device) -> Run:
        """Move the networks to a device; returns self."""
        self.task.to(device)
        self._accelerator = torch.device(device).type
        return self

    def generate(
        self,
        prompt: str | Sequence[str] = "",
        *,
        max_new_tokens: int = 200,
        num_samples: int = 1,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = 0.95,
        min_p: float | None = None,
        typical_p: float | None = None,
        repetition_penalty: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        no_repeat_ngram: int = 0,
        stop: Sequence[str] = (),
        seed: int = 1,
        unknown: Literal["error", "replace"] = "error",
    ) -> list[Generation]:
        """Continue each prompt `num_samples` times; temperature 0 is greedy.

        unknown: what to do where the vocabulary lacks a character or word of a prompt (replace: <unk>).
        """
        strategy = Sample(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            typical_p=typical_p,
            penalties=Penalties(
                repetition=repetition_penalty,
                frequency=frequency_penalty,
                presence=presence_penalty,
                no_repeat_ngram=no_repeat_ngram,
            ),
        )
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        with torch.inference_mode():
            return generate(
                self.task, self.tokenizer, prompts, strategy=strategy, max_new_tokens=max_new_tokens,
                num_samples=num_samples, stop=stop, seed=seed, unknown=unknown,
            )  # fmt: skip

    def chat(
        self,
        messages: str | Sequence[Mapping[str, str]],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.8,
        top_p: float | None = 0.95,
        seed: int = 1,
    ) -> str:
        """The answer to a message, or to the last of several: {"role": "system", "user" or "assistant", "content"}.

        Raises InputError for a run that was not taught to converse, and for roles out of order.
        """
        given = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        turns = [Turn(each["role"], each["content"]) for each in given]
        check_roles([turn.role for turn in turns], last=USER)
        penalties = Penalties(repetition=1.0, frequency=0.0, presence=0.0, no_repeat_ngram=0)
        strategy = Sample(
            temperature=temperature, top_k=None, top_p=top_p, min_p=None, typical_p=None, penalties=penalties
        )
        dialogue = Dialogue(
            self.task, self.tokenizer, strategy=strategy, max_new_tokens=max_new_tokens, seed=seed,
        )  # fmt: skip
        return dialogue.after(turns[:-1]).ask(turns[-1].text).text

    def translate(
        self,
        text: str | Sequence[str],
        *,
        max_new_tokens: int = 200,
        prefix: str = "",
        stop: Sequence[str] = (),
        unknown: Literal["error", "replace"] = "error",
    ) -> list[str]:
        """What a run that turns one text into another makes of each, by its own `decoding`; as `generate` otherwise.

        prefix: how each text begins.

        Raises InputError for a run that does not.
        """
        if not isinstance(self.task, SourceModel):
            raise InputError(f"{self.path} is a {type(self.task).__name__} run, which turns no text into another")
        texts = [text] if isinstance(text, str) else list(text)
        strategy = strategy_of(self._loaded, None)
        found = generate(
            self.task, self.tokenizer, texts, strategy=strategy, max_new_tokens=max_new_tokens, seed=1, stop=stop,
            unknown=unknown, prefix=prefix,
        )  # fmt: skip
        return [each.text for each in found]

    def predict(
        self, text: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]], *, top: int = 10
    ) -> list[dict[str, Any]]:
        """What the run's task answers to each text, or to a dict of what it is asked with (`question`, `context`), as
        `llm predict` prints it.

        Raises InputError where the task predicts nothing, or is asked with other texts.
        """
        if not hasattr(self.task, "predict"):
            raise InputError(f"{self.path} is a {type(self.task).__name__} run, which predicts nothing about a text")
        given = [text] if isinstance(text, str | Mapping) else list(text)
        asked = [
            of_mapping({"text": each} if isinstance(each, str) else each, self.task.asks, f"text {number}")
            for number, each in enumerate(given, start=1)
        ]
        with torch.inference_mode():
            answers: list[dict[str, Any]] = self.task.predict(asked, self.tokenizer, top=top)
        return answers

    def evaluate(
        self,
        *,
        split: str | None = None,
        data: dict[str, Any] | None = None,
        stride: int | None = None,
        bootstrap: int = 1000,
        samples: int = 100,
        out: str | Path | None = None,
    ) -> dict[str, Any]:
        """Figures on a split of the run's own data, or of `data` (a data config as a dict): those of `llm eval`.

        bootstrap: resamples for the intervals of figures on examples, 0: none. samples: codes that a VAE draws for each
        text. out: a folder for predictions.jsonl and report.html; None writes neither.
        """
        node = None if data is None else OmegaConf.create(data)
        return score(
            self._loaded,
            data=node,
            split=split,
            stride=stride,
            batch_size=None,
            accelerator=self._accelerator,
            progress=False,
            bootstrap=bootstrap,
            samples=samples,
            out=None if out is None else Path(out),
        )


def load(
    run: str | Path | None = None, *, trusted: Sequence[str] = (), precision: str = "auto", device: str = "cpu"
) -> Run:
    """A run folder, a checkpoint file, "latest" or None (the latest run below ./runs).

    trusted: packages of your own whose models its config may name; LLM_TRUST names them for the command line.
    precision: of the weights, "32", "bf16", "int8" or "int4", for this device; "auto": as they were trained.
    """
    asked = precision_of(precision)
    loaded = checkpoint.load(runs.resolve(None if run is None else str(run), "use"), packages=trusted)
    prepare(loaded.task, asked, device)
    # what was quantised or packed stays on its device
    return Run(loaded, accelerator="auto" if asked == "auto" else torch.device(device).type)
