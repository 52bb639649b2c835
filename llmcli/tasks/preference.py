"""Direct preference optimisation (Rafailov et al. 2023): of two answers the preferred one becomes more probable than it
was to the model that training began with, compared with the other.

Shapes: B rows (two for each pair, the preferred answer first), E pairs, T time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.data.chat_template import ChatTemplate
from llmcli.data.records import Record
from llmcli.errors import InputError
from llmcli.heads import LanguageModelHead
from llmcli.metrics.base import Metric
from llmcli.metrics.preference import LikelihoodAccuracy, Margin
from llmcli.metrics.text import Accuracy, Loss
from llmcli.models.base import Backbone
from llmcli.tasks.base import Batch, Stage, StepResult
from llmcli.tasks.conversations import PreferenceEncoder, as_prompt
from llmcli.tasks.next_token import NextToken
from llmcli.tasks.preference_likelihood import answer_log_probs, preferred
from llmcli.tokenizers.base import Tokenizer


class Preference(NextToken):
    """Learns from `Preference` records c > r by -ln sigmoid(h), h = beta ((ln p(c) - ln q(c)) - (ln p(r) - ln q(r))).

    q is the model as it was when training began. It is kept beside the one that learns, and both are in the checkpoint:
    twice the weights, but any data can be scored, and a resumed run has the same q. beta: how much it costs to go away
    from q. label_smoothing: the share of pairs that is taken to be the wrong way round (cDPO; Mitchell 2023), in
    training alone. template, marks: as in `Chat`.

    Raises InputError for values outside their range.
    """

    option = "preference"
    takes = ("Preference",)
    learns_from = "examples"
    needs_init = True

    def __init__(
        self,
        *,
        model: Backbone,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        causal: bool,
        template: str,
        marks: Mapping[str, str],
        beta: float,
        label_smoothing: float,
        head_cutoffs: list[int] | None,
    ) -> None:
        super().__init__(
            model=model,
            optimizer=optimizer,
            schedule=schedule,
            causal=causal,
            label_smoothing=0.0,
            head_cutoffs=head_cutoffs,
        )
        if not beta > 0:
            raise InputError(f"task.beta ({beta}) must be above 0")
        if not 0 <= label_smoothing < 0.5:
            raise InputError(f"task.label_smoothing ({label_smoothing}) must be at least 0 and below 0.5")
        self.template = ChatTemplate(text=template, marks=marks)
        self.beta, self.label_smoothing = beta, label_smoothing
        self.reference: Reference | None = None  # made of the weights that training begins with

    @property
    def loss_unit(self) -> str:
        return "nats/pair"

    def encoder(self, tokenizer: Tokenizer) -> PreferenceEncoder:
        return PreferenceEncoder(self.template, tokenizer)

    def as_prompt(self, text: str, tokenizer: Tokenizer) -> list[int]:
        return as_prompt(self.template, text, tokenizer)

    # -- the reference -----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        # a run that goes on has its own already, or gets it from the checkpoint, which is read after this
        if stage == "fit" and self.reference is None:
            self.reference = Reference(self.model, self.head)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        if self.reference is None and any(name.startswith("reference.") for name in state_dict):
            self.reference = Reference(self.model, self.head)
        return super().load_state_dict(state_dict, strict, assign)

    def forget_reference(self) -> None:
        """Half of the memory, for a task that is neither trained nor scored any more."""
        self.reference = None

    # -- loss --------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        assert self.reference is not None, "it begins with the weights of `setup` or of a checkpoint"
        log_p, each = answer_log_probs(self.model, self.head, batch)  # (E, 2)
        margins = self.beta * ((log_p - self.reference(batch)) @ log_p.new_tensor([1.0, -1.0]))  # (E,)
        n, tokens = batch["n_tokens"], batch["n_ids"]
        if stage == "train":
            return StepResult(loss=dpo_losses(margins, self.label_smoothing).sum(), n=n, tokens=tokens)
        each = {**each, "loss": dpo_losses(margins, 0.0), "correct": preferred(margins), "margin": margins}
        return StepResult.of_examples(each, n=n, tokens=tokens, outputs={"margin": margins})

    def metrics(self) -> Sequence[Metric]:
        return Loss(), Accuracy(), Margin(), LikelihoodAccuracy()

    def outcomes(self, records: Sequence[Record], result: StepResult) -> list[dict[str, Any]]:
        columns = zip(records, result.outputs["margin"].tolist(), result.each["loss"].tolist(), strict=True)
        return [
            {
                "texts": list(record.texts()),
                "true": "chosen",
                "predicted": "chosen" if margin > 0 else "rejected",
                "right": margin > 0,
                "margin": margin,
                "loss": loss,
            }
            for record, margin, loss in columns
        ]


class Reference(nn.Module):
    """A copy of model and head that does not learn and drops nothing out: a batch -> ln p of both answers (E, 2)."""

    def __init__(self, model: Backbone, head: LanguageModelHead) -> None:
        super().__init__()
        # together, since they may share a weight
        self.copies = copy.deepcopy(nn.ModuleList([model, head])).requires_grad_(False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Tensor:
        model, head = self.copies.eval()
        assert isinstance(model, Backbone) and isinstance(head, LanguageModelHead)
        return answer_log_probs(model, head, batch)[0]


def dpo_losses(margins: Tensor, label_smoothing: float) -> Tensor:
    """margins (E,) -> -(1 - s) ln sigmoid(margin) - s ln sigmoid(-margin), (E,)."""
    return -(1 - label_smoothing) * F.logsigmoid(margins) - label_smoothing * F.logsigmoid(-margins)
