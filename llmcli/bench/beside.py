"""What people would use instead: a bare PyTorch loop, and transformers, of the same shape and on the same batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from llmcli.bench.ceilings import DTYPES, OF_PRECISION
from llmcli.bench.generation import Beside, Times
from llmcli.bench.measuring import Stopwatch
from llmcli.bench.training import WARM_UP, Fitted, Loop
from llmcli.errors import InputError, require
from llmcli.models.transformer import Block, Transformer


def blocks(shared: Fitted, compare: Sequence[str]) -> Mapping[str, Loop]:
    """A loop for each of `compare`."""
    makers: Mapping[str, Callable[[Fitted], Loop]] = {"bare": bare, "transformers": of_transformers}
    return {name: makers[name](shared) for name in compare}


def bare(shared: Fitted) -> Loop:
    """The loop that a careful user would write: our model, optimizer, schedule, clipping and precision."""

    def block(steps: int) -> float:
        task = shared.task.train()
        configured = task.configure_optimizers()

        def loss(piece: Any, whole: Any) -> Tensor:
            loss: Tensor = task._step(piece, "train").loss / whole["n_tokens"]
            return loss

        return _loop(
            shared, loss, task, configured["optimizer"], steps, each_step=configured["lr_scheduler"]["scheduler"].step
        )

    return block


def of_transformers(shared: Fitted) -> Loop:
    """LlamaForCausalLM as it comes, with torch's AdamW, in the same precision, clipped alike."""
    weights = torch.bfloat16 if shared.parts.precision.precision == "bf16-true" else torch.float32
    model = llama(shared.parts.task.model).to(shared.device, weights).train()
    return of_module(shared, model, lambda batch: model(input_ids=batch["ids"], labels=batch["ids"]).loss)


def of_module(shared: Fitted, model: nn.Module, loss: Callable[[Any], Tensor], *, autocast: bool = True) -> Loop:
    """A loop of any module on the device, with torch's AdamW. loss: of a batch, a mean over its tokens.

    autocast: in the precision of ours; otherwise as its weights are.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)

    def share(piece: Any, whole: Any) -> Tensor:
        # rows are of one length here
        return loss(piece) if piece is whole else loss(piece) * (len(piece["ids"]) / len(whole["ids"]))

    return lambda steps: _loop(shared, share, model, optimizer, steps, autocast=autocast)


def _loop(
    shared: Fitted,
    loss: Callable[[Any, Any], Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    each_step: Callable[[], None] | None = None,
    autocast: bool = True,
) -> float:
    """Seconds a step. loss: what a piece of a batch adds to the mean over all of it."""
    settings, batches = shared.parts.settings, shared.batches()
    weights = [each for each in model.parameters() if each.requires_grad]
    began = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            began = shared.watch()
        for _ in range(settings.accumulate):
            batch = next(batches)
            for piece in shared.pieces(batch):
                with _autocast(shared) if autocast else nullcontext():
                    mean = loss(piece, batch) / settings.accumulate
                mean.backward()  # type: ignore[no-untyped-call]
        if settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(weights, settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        if each_step is not None:
            each_step()
    return (shared.watch() - began) / steps


def _autocast(shared: Fitted) -> AbstractContextManager[Any]:
    """As in PyTorch's own recipes; Lightning's is without the cache of casted weights."""
    precision = shared.parts.precision.precision
    if not precision.endswith("-mixed"):
        return nullcontext()
    return torch.autocast(shared.device.type, DTYPES[OF_PRECISION[precision]])


def check(model: Any) -> None:
    """Raises InputError for a model whose shape no Llama has."""
    if not isinstance(model, Transformer):
        raise InputError(
            f"compare=[transformers] knows the shape of model=transformer, not of {type(model).__name__}",
            "compare=[bare] works with every model",
        )


def llama(model: Any) -> Any:
    """A transformers LlamaForCausalLM of random weights with the layers, widths, heads and vocabulary of a model.

    Its feed-forward has three matrices: where ours has two they are two thirds as wide, the same number of weights.
    model: as it was built, not yet fused or packed. Raises InputError where transformers is missing, and as `check`.
    """
    transformers = require("transformers", extra="dev", purpose="compare=[transformers]")
    check(model)
    block = cast(Block, model.blocks[0])
    d_ff = block.down.in_features
    config = transformers.LlamaConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.d_model,
        intermediate_size=2 * d_ff // 3 if block.gate is None else d_ff,
        num_hidden_layers=len(model.blocks),
        num_attention_heads=model.d_model // model.head_size,
        num_key_value_heads=model.n_kv_heads,
        max_position_embeddings=model.max_seq_len,
        tie_word_embeddings=model.tie_embeddings,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return transformers.LlamaForCausalLM(config)


class TokenTimes:
    """A logits processor that notes when each token of a `generate` can be chosen, and changes nothing."""

    def __init__(self, watch: Stopwatch) -> None:
        self.read: list[float] = []
        self._watch = watch

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        self.read.append(self._watch())
        return scores


def generating(model: Any, watch: Stopwatch) -> Beside:
    """`generate` of a transformers model on its device, greedy, without an end of text."""
    device = model.device
    model.eval()

    def write(ids: Tensor, new: int) -> Times:
        times = TokenTimes(watch)
        began = watch()
        out = model.generate(
            ids.to(device),
            attention_mask=torch.ones_like(ids, device=device),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            logits_processor=[times],
        )
        assert out.shape[1] == ids.shape[1] + new
        return [each - began for each in times.read]

    return write
