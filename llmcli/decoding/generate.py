"""Prompts in, texts out: the one function behind `llm generate` and the samples shown during training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from llmcli.decoding.alignment import Aligned, align
from llmcli.decoding.base import (
    BoundModel,
    Drafting,
    Emitted,
    GeneratingModel,
    Hypothesis,
    Search,
    SourceModel,
    Strategy,
)
from llmcli.decoding.constrained import Constrained, Constraint
from llmcli.decoding.loop import kept_tokens
from llmcli.decoding.sample import row_seeds
from llmcli.decoding.stream import TextStream, check_stop
from llmcli.errors import InputError
from llmcli.tokenizers.base import Tokenizer

FinishReason = Literal["end", "stop", "length"]
_SHOWN = 10  # unknown characters named in an error
AT_ONCE = 32  # sources of similar length that are turned into their targets together


@dataclass(frozen=True, slots=True)
class Found:
    """A continuation that a search has found, as `Generation` says it. score: what the search ranks by."""

    text: str
    ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    score: float


@dataclass(frozen=True, slots=True)
class Generation:
    """What one row gave.

    text: without the prompt, cut before the stop string. ids: all new ids, the end id or the token that
    completed a stop string last. logprobs: natural log of the model's own probability of each.
    prompt_dropped: tokens at the start of the prompt that the model never saw, because the prompt is longer
    than its window. n_best: of a search what it found, best first, the first being this row's own text. alignment: of
    a text made of a source, where asked for, what each of `ids` looked at most. steps: of the model in which `ids` were
    chosen, fewer than there are where some were guessed ahead; 0 of a search.
    """

    prompt: str | Sequence[int]
    text: str
    ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    prompt_dropped: int
    n_best: Sequence[Found] = ()
    alignment: Sequence[Aligned] = ()
    steps: int = 0


def generate(
    model: GeneratingModel | SourceModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    *,
    strategy: Strategy | Search,
    max_new_tokens: int,
    seed: int | Sequence[int],
    num_samples: int = 1,
    stop: Sequence[str] = (),
    unknown: Literal["error", "replace"] = "error",
    constraint: Constraint | None = None,
    prefix: str = "",
    skip_blank: bool = False,
    aligned: bool = False,
    on_text: Callable[[int, str], None] | None = None,
) -> list[Generation]:
    """Continue each prompt `num_samples` times; the samples of one prompt stand together in the result.

    A row ends at the tokenizer's eos_id, at a stop string, or after `max_new_tokens`; what is drawn in it follows from
    the seed and its number alone, or from its own of a seed for each row. An empty prompt starts a document (eos_id, or
    bos_id where there is none).
    `on_text(row, text)` gets text as it becomes final. `unknown` says what to do where the vocabulary lacks a character
    or word of a prompt. All rows are one batch; for a model that turns one text into another the prompts are the
    sources, AT_ONCE of which are a batch. prefix: how each text made of a source begins; skip_blank: one without
    a source is empty; aligned: find what its tokens looked at. constraint: a rule that each continuation keeps to, as
    far as it comes.

    Raises:
        InputError: no prompt, num_samples or max_new_tokens below 1, several samples of a search, which would
            all be the same, an empty stop string, an unknown character under unknown="error", a source that cannot be
            read, with a constraint more tokens than the model's window has room for, or a prefix that goes with none.
    """
    if not prompts:
        raise InputError("there is no prompt")
    if num_samples < 1:
        raise InputError(f"num_samples ({num_samples}) must be at least 1")
    if num_samples > 1 and isinstance(strategy, Search):
        raise InputError(
            f"num_samples ({num_samples}) is for texts drawn at random; a search finds the same each time",
            f"decoding.n_best={num_samples} gives its best",
        )
    check_stop(stop)
    reader = tokenizer.of_sources if isinstance(model, SourceModel) else tokenizer
    each = [[] if skip_blank and _is_blank(prompt) else encode_prompt(reader, prompt, unknown) for prompt in prompts]
    if isinstance(model, SourceModel):
        model.check_sources([[0] if skip_blank and not ids else ids for ids in each])
    elif prefix:
        raise InputError("prefix is for runs that turn one text into another", "here the prompt itself can end with it")
    if constraint is not None and isinstance(strategy, Drafting):
        raise InputError(
            "a constraint is kept to token by token, so that nothing can be guessed ahead", "decoding=sample or greedy"
        )
    if prefix and constraint is not None:
        raise InputError("prefix and constraint exclude each other", "a constraint.pattern can say how a text begins")
    forced = encode_prompt(tokenizer, prefix, unknown)
    asked = [prompt for prompt in prompts for _ in range(num_samples)]
    encoded = [ids for ids in each for _ in range(num_samples)]
    end_ids = frozenset(() if tokenizer.eos_id is None else (tokenizer.eos_id,))
    seeds = row_seeds(seed, len(asked)) if isinstance(seed, int) else seed
    begin = partial(Row, tokenizer, stop, end_ids, forced)
    rows = [begin(on_text and partial(on_text, row)) for row in range(len(asked))]
    n_best: list[list[Found]] = [[] for _ in rows]
    dropped = [0] * len(rows)
    batches = _batches(model, encoded, skip_blank)
    for members in batches:
        bound, starts, longest = _bound(model, [encoded[row] for row in members], forced, strategy, max_new_tokens)
        starts = [start or _document_start(tokenizer) for start in starts]
        for row, start in zip(members, starts, strict=True):
            dropped[row] = len(start) - kept_tokens(len(start), bound.max_seq_len)
        if constraint is not None:
            _check_room(
                bound, max(len(start) - dropped[row] for row, start in zip(members, starts, strict=True)), longest
            )
            bound = Constrained(bound, constraint)
        settings: dict[str, Any] = {
            "end_ids": end_ids, "max_new_tokens": longest, "seeds": [seeds[row] for row in members]
        }  # fmt: skip
        if isinstance(strategy, Search):
            stopped = partial(_holds, tokenizer, stop, forced) if stop else None
            for row, hypotheses in zip(
                members, strategy.search(bound, starts, **settings, stopped=stopped), strict=True
            ):
                written = [rows[row], *(begin() for _ in hypotheses[1:])]
                n_best[row] = [each.write(found) for each, found in zip(written, hypotheses, strict=True)]
        else:
            _follow(strategy.decode(bound, starts, **settings), [rows[row] for row in members])
    results = [
        Generation(
            prompt=asked[number],
            text=row.text if row.reason or row.ids else "",
            ids=row.ids,
            logprobs=row.logprobs,
            finish_reason=row.reason or ("length" if row.ids else "end"),
            prompt_dropped=dropped[number],
            n_best=n_best[number],
            steps=row.steps,
        )
        for number, row in enumerate(rows)
    ]
    if aligned and isinstance(model, SourceModel):
        for members in batches:
            found = align(model, [encoded[row] for row in members], [rows[row].ids for row in members], forced)
            for row, alignment in zip(members, found, strict=True):
                results[row] = replace(results[row], alignment=alignment)
    return results


class Row:
    """One continuation while its ids come. forced: ids that its text begins with. show: gets its text as it becomes
    final."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str],
        end_ids: frozenset[int],
        forced: Sequence[int] = (),
        show: Callable[[str], None] | None = None,
    ) -> None:
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.steps = 0
        self.text = ""
        self.reason: FinishReason | None = None  # None: it goes on, or was cut off
        self._stream, self._end_ids, self._show = TextStream(tokenizer, stop), end_ids, show
        for index in forced:
            self._add(self._stream.push(index))

    def take(self, index: int, logprob: float, steps: int = 0) -> None:
        """One more id, chosen in so many steps more of the model, unless the row has ended."""
        if self.reason is not None:
            return
        self.steps += steps
        self.ids.append(index)
        self.logprobs.append(logprob)
        if index in self._end_ids:
            self.reason = "end"
            return
        self._add(self._stream.push(index))
        if self._stream.stopped:
            self.reason = "stop"

    def finish(self) -> None:
        """No more ids: what was held back of the text is final, and may complete a stop string."""
        self._add(self._stream.finish())
        if self._stream.stopped:
            self.reason = "stop"

    def write(self, found: Hypothesis) -> Found:
        """Take all of a continuation that a search has found."""
        for index, logprob in zip(found.ids, found.logprobs, strict=True):
            self.take(index, logprob)
        self.finish()
        return Found(self.text, self.ids, self.logprobs, self.reason or "length", found.score)

    def _add(self, text: str) -> None:
        self.text += text
        if text and self._show is not None:
            self._show(text)


def _bound(
    model: GeneratingModel | SourceModel,
    encoded: list[list[int]],
    forced: list[int],
    strategy: Strategy | Search,
    max_new_tokens: int,
) -> tuple[GeneratingModel, list[list[int]], int]:
    """The model that writes, what it continues, and how many tokens at most; for sources, those that fit."""
    if not isinstance(model, SourceModel):
        return model, encoded, max_new_tokens
    looks = isinstance(strategy, Search) and strategy.looks_at_sources
    bound: BoundModel = model.bind(encoded, attention=True) if looks else model.bind(encoded)
    starts = [[*start, *forced] for start in bound.starts]
    if bound.max_seq_len is None:
        return bound, starts, max_new_tokens
    room = bound.max_seq_len - max(map(len, starts))  # what stands before the first token takes places
    if room < 1 and forced:
        raise InputError(f"prefix has {len(forced)} tokens; the model writes {bound.max_seq_len - 1}")
    return bound, starts, min(max_new_tokens, max(1, room))


def _holds(tokenizer: Tokenizer, stop: Sequence[str], forced: Sequence[int], ids: Sequence[int]) -> bool:
    """Whether the text of these ids holds a stop text."""
    text = tokenizer.decode([*forced, *ids])
    return any(each in text for each in stop)


def _follow(steps: Iterator[Emitted], rows: Sequence[Row]) -> None:
    """Give the rows their tokens until all have ended."""
    for emitted in steps:
        for row, index, logprob in zip(rows, emitted.ids, emitted.logprobs, strict=True):
            if index is not None:
                row.take(index, logprob, emitted.steps)
        if all(row.reason is not None for row in rows):
            break
    for row in rows:
        row.finish()


def _check_room(model: GeneratingModel, prompt: int, new: int) -> None:
    window = model.max_seq_len
    if window is not None and prompt + new - 1 > window:  # the last token is not read any more
        raise InputError(
            f"a constrained text stays within what the model sees, {window} tokens: {prompt} of the prompt and {new} "
            "new ones are more",
            f"max_new_tokens={window + 1 - prompt}" if prompt <= window else "shorten the prompt",
        )


def _is_blank(prompt: str | Sequence[int]) -> bool:
    return not (prompt.strip() if isinstance(prompt, str) else prompt)


def _batches(model: object, encoded: Sequence[Sequence[int]], skip_blank: bool) -> list[list[int]]:
    """Which rows are decoded together: all, or of sources AT_ONCE of similar length, without those that are skipped."""
    rows = list(range(len(encoded)))
    if not isinstance(model, SourceModel):
        return [rows]
    rows = [row for row in rows if encoded[row] or not skip_blank]
    rows.sort(key=lambda row: len(encoded[row]))
    return [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)]


def encode_prompt(tokenizer: Tokenizer, prompt: str | Sequence[int], unknown: Literal["error", "replace"]) -> list[int]:
    """The ids of a prompt. Raises InputError for what the vocabulary lacks under unknown="error"."""
    if isinstance(prompt, str):
        if unknown == "error" and (missing := tokenizer.unknown(prompt)):
            named = ", ".join(f"{item!r} at {prompt.find(item)}" for item in missing[:_SHOWN])
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise InputError(
                f"the prompt has what the vocabulary lacks: {named}{more}",
                hint="write the prompt without it, or use unknown=replace",
            )
        ids = tokenizer.encode(prompt)
    else:
        ids = list(prompt)
    return ids


def _document_start(tokenizer: Tokenizer) -> list[int]:
    start = tokenizer.bos_id if tokenizer.eos_id is None else tokenizer.eos_id
    if start is None:
        raise InputError("the prompt is empty and the tokenizer has no id that starts a document")
    return [start]
