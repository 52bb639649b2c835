"""Contrastive search (Su et al. 2022): probable tokens whose hidden state is unlike all before, so no repetition.

Shapes: B rows, T tokens of the longest prompt, S tokens of prompt and text, K candidates, D model width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcli.decoding.base import Emitted, GeneratingModel, StepOutput
from llmcli.decoding.loop import check_prompts
from llmcli.errors import InputError, LLMError


class Contrastive:
    """Of the `top_k` most probable tokens v the one with the largest (1 - alpha) p(v) - alpha max cos(h_v, h_j).

    h_v is the hidden state at v once it is read, h_j those of prompt and text before it. alpha 0 is greedy. Each token
    costs a step of `top_k` rows, and the text must fit the model's window.

    Raises InputError for values outside their range.
    """

    def __init__(self, *, top_k: int, alpha: float) -> None:
        if top_k < 1:
            raise InputError(f"decoding.top_k ({top_k}) must be at least 1")
        if not 0 <= alpha <= 1:
            raise InputError(f"decoding.alpha ({alpha}) must be between 0 and 1")
        self.top_k, self.alpha = top_k, alpha

    @torch.inference_mode()
    def decode(
        self,
        model: GeneratingModel,
        prompts: Sequence[Sequence[int]],
        *,
        end_ids: frozenset[int],
        max_new_tokens: int,
        seeds: Sequence[int],
    ) -> Iterator[Emitted]:
        """See `Strategy.decode`; nothing is drawn.

        Raises:
            InputError: more tokens than the model's window has room for.
            LLMError: the model's logits are not finite.
        """
        check_prompts(model, prompts, max_new_tokens)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        longest = int(lengths.max())
        if model.max_seq_len is not None and longest + max_new_tokens > model.max_seq_len:
            raise InputError(
                f"contrastive search stays within what the model sees, {model.max_seq_len} tokens: {longest} of the "
                f"prompt and {max_new_tokens} new ones are more",
                f"max_new_tokens={model.max_seq_len - longest} fits; decoding=greedy and sample go on past it"
                if longest < model.max_seq_len
                else "shorten the prompt; decoding=greedy and sample go on past it",
            )
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        state = model.init_state(len(prompts), longest + max_new_tokens)
        lengths = lengths.to(model.device)
        out = model.step(ids.to(model.device), state, lengths)
        rows = torch.arange(len(prompts), device=model.device)
        state = out.state
        last = StepOutput(out.logits[rows, lengths - 1, None], out.hidden, None, state, out.allowed)
        context = F.normalize(out.hidden.float(), dim=-1)  # (B, S, D)
        real = torch.arange(longest, device=model.device) < lengths[:, None]  # (B, S)
        ended = [False] * len(prompts)
        k = min(self.top_k, model.vocab_size)
        for _ in range(max_new_tokens):
            logits, own = last.last()  # (B, V)
            candidates = logits.topk(k, dim=-1).indices  # (B, K)
            best = logits.log_softmax(dim=-1).gather(1, candidates)
            # a step is needed for the hidden states of the candidates; that of the chosen one is the next token's too
            out = model.step(candidates.view(-1, 1), state.reorder(rows.repeat_interleave(k)), last_only=True)
            hidden = F.normalize(out.hidden[:, -1].float(), dim=-1).view(len(prompts), k, -1)  # (B, K, D)
            chosen = self.choose(best.exp(), hidden, context, real)  # (B,)
            taken = rows * k + chosen
            state = out.state.reorder(taken)
            allowed = None if out.allowed is None else out.allowed[taken]
            last = StepOutput(out.logits[taken], out.hidden, None, state, allowed)
            context = torch.cat((context, hidden[rows, chosen, None]), dim=1)
            real = F.pad(real, (0, 1), value=True)
            numbers = candidates[rows, chosen].tolist()
            values = (own[rows, candidates[rows, chosen]] - own.logsumexp(dim=-1)).tolist()
            if any(map(math.isnan, values)):
                raise LLMError("the model's logits are not finite", hint="train with a lower learning rate")
            yield Emitted(
                ids=[None if over else number for number, over in zip(numbers, ended, strict=True)], logprobs=values
            )
            ended = [over or number in end_ids for number, over in zip(numbers, ended, strict=True)]
            if all(ended):
                return

    def choose(self, probs: Tensor, hidden: Tensor, context: Tensor, real: Tensor) -> Tensor:
        """probs (B, K), unit vectors hidden (B, K, D) and context (B, S, D), real (B, S) -> places (B,) below K."""
        likeness = (hidden @ context.mT).masked_fill(~real[:, None], -math.inf).amax(dim=-1)  # (B, K)
        scores = (1 - self.alpha) * probs - self.alpha * likeness
        return scores.masked_fill(probs == 0, -math.inf).argmax(dim=-1)  # what a rule forbids is no candidate
