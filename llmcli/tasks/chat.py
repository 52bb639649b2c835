"""Instruction tuning: conversations of which the assistant's words are learned, and nothing else.

Shapes: B rows, T time, E conversations of a batch, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.data.chat_template import ChatTemplate
from llmcli.metrics.base import Metric
from llmcli.metrics.text import Accuracy, Loss, Perplexity
from llmcli.models.base import Backbone
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tasks.conversations import ConversationEncoder, as_prompt
from llmcli.tasks.next_token import NextToken
from llmcli.tasks.preference_likelihood import PreferenceLikelihood
from llmcli.tokenizers.base import Tokenizer


class Chat(NextToken):
    """Learns P(token of an answer | all before it) from `Conversation` records (Ouyang et al. 2022, section 3.5).

    template, marks: how a conversation is written (`data.chat_template`). pack: several conversations of a batch in one
    row, each attending to itself alone.
    """

    option = "chat"
    takes = ("Conversation",)
    learns_from = "examples"

    def __init__(
        self,
        *,
        model: Backbone,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        causal: bool,
        template: str,
        marks: Mapping[str, str],
        pack: bool,
        label_smoothing: float,
        head_cutoffs: list[int] | None,
    ) -> None:
        super().__init__(
            model=model,
            optimizer=optimizer,
            schedule=schedule,
            causal=causal,
            label_smoothing=label_smoothing,
            head_cutoffs=head_cutoffs,
        )
        self.template, self.pack = ChatTemplate(text=template, marks=marks), pack

    def encoder(self, tokenizer: Tokenizer) -> ConversationEncoder:
        return ConversationEncoder(self.template, tokenizer, pack=self.pack)

    def as_prompt(self, text: str, tokenizer: Tokenizer) -> list[int]:
        return as_prompt(self.template, text, tokenizer)

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        segments: Tensor | None = batch.get("segment_ids")  # (B, T)
        # no mask: padding stands after the conversations, where no causal model looks from
        hidden = self.model(batch["ids"], segment_ids=segments)  # (B, T, D)
        labels, n, tokens = batch["labels"], batch["n_tokens"], batch["n_ids"]
        if stage == "train":
            return StepResult(loss=self.head(hidden, labels), n=n, tokens=tokens)
        loss, correct = self.head.of_each_label(hidden, labels)  # (B, T)
        count = len(batch["numbers"])
        each = {
            name: _by_conversation(value.float(), segments, count)
            for name, value in (("loss", loss), ("correct", correct), ("n", labels >= 0))
        }
        return StepResult.of_examples(each, n=n, tokens=tokens)

    def metrics(self) -> Sequence[Metric]:
        return Loss(), Perplexity(), Accuracy()

    def scorer(self, record: str) -> Task | None:
        """What scores preferences with this model: how often it finds the preferred answer the more probable one."""
        if record != "Preference":
            return None
        scorer = PreferenceLikelihood(model=self.model, head=self.head, template=self.template)
        return scorer.to(self.device).train(self.training)


def _by_conversation(values: Tensor, segments: Tensor | None, count: int) -> Tensor:
    """values (B, T), 0 at padding -> their sums for each conversation (E,)."""
    if segments is None:
        return values.sum(1)
    return values.new_zeros(count).index_add(0, segments.clamp(min=0).flatten(), values.flatten())
