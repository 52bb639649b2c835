"""What `llm data` says about a data set, in plain values: counts of all of it, and closer looks at a part.

Counts of examples, tokens and labels are those of the prepared data, all of it. Lengths in characters are of what is
read, up to `READ` characters of a split; copies are looked for among the first examples; scripts, languages, characters
that the tokenizer lacks, its fertility and the cleaning steps are looked at on a random sample. Each says how much that
was.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from llmcli.data.cleaning import Cleaning
from llmcli.data.duplicates import Duplicates, Kept
from llmcli.data.flaws import warnings
from llmcli.data.prepare import Prepared
from llmcli.data.readers.stream import pieces
from llmcli.data.records import Record, TaggedTokens, Text
from llmcli.data.source import Clean, Report, Source
from llmcli.errors import InputError
from llmcli.text.filters import language_of
from llmcli.text.scripts import NAMES, share, words
from llmcli.tokenizers.base import Tokenizer

READ = 200_000_000  # characters of a split that are read
COMPARED = 20_000_000  # characters of a split whose examples are compared
PASSAGE = 4_000  # characters of running text that are looked at as one
SHOWN = 400  # characters of an example that are shown
EXCERPT = 160  # characters around a change that are shown
EXAMPLES = 3  # shown of a split, and of what a cleaning step changes or drops
BINS = 24
LANGUAGE_SAMPLE, SHORTEST_FOR_LANGUAGE = 300, 20


def survey(
    source: Source[Any],
    prepared: Prepared,
    *,
    clean: Mapping[str, Clean],
    policies: Mapping[str, Duplicates],
    context: int | None,
    sample: int,
    compare: int,
    seed: int,
    report: Report,
) -> dict[str, Any]:
    """The report of prepared data and the source that it was made from.

    policies: by which copies are looked for, by name; what they drop does not matter. context: tokens that the model
    sees at once. sample: examples, or passages of running text, of each split. compare: examples of each split that are
    compared. Raises InputError for a sample that is not positive.
    """
    for name, value in (("sample", sample), ("compare", compare)):
        if value < 1:
            raise InputError(f"{name} ({value}) must be at least 1")
    cleaning = Cleaning(clean)
    read = {split: _read(source, split, sample, seed, report) for split in source.splits}
    drawn = {split: found.pop("drawn") for split, found in read.items()}
    cleaned = {split: list(filter(None, map(cleaning.record, records))) for split, records in drawn.items()}
    splits = {}
    for split in source.splits:
        report(f"look at {split}", 0, 0)
        stats = prepared.manifest["splits"][split]
        lengths = np.asarray(_token_lengths(prepared, split))
        cut = context is not None and prepared.record != Text.__name__
        splits[split] = {
            **{name: stats[name] for name in ("documents", "tokens", "characters", "bytes", "unknown")},
            "labels": stats.get("names", {}),
            "token_lengths": distribution(lengths),
            "over_context": int(np.count_nonzero(lengths > context)) if cut else None,
            "read": read[split],
            "sample": _looked_at(cleaned[split], prepared.tokenizer),
        }
    facts = {
        "record": prepared.record,
        "origin": prepared.manifest["origin"],
        "seed": seed,
        "context": context,
        "tokenizer": {"vocab_size": prepared.tokenizer.vocab_size},
        "splits": splits,
        "copies": _copies(source, cleaning, policies, compare, report),
        "dropped": prepared.manifest["copies"].get("dropped", 0),
        "unknown": _unknown(cleaned, prepared.tokenizer),
        "cleaning": _steps(drawn, clean),
        "examples": {split: [_shown(each)[:SHOWN] for each in some[:EXAMPLES]] for split, some in cleaned.items()},
    }
    return {**facts, "warnings": warnings(facts)}


def distribution(lengths: ArrayLike) -> dict[str, Any] | None:
    """Quantiles and a histogram of lengths; None of none.

    counts[i] are the lengths from edges[i] to below edges[i + 1]. Bins are of equal width, or of equal ratio where the
    longest is more than twenty times the median.
    """
    values = np.asarray(lengths, np.int64)
    if not len(values):
        return None
    low, high, median = int(values.min()), int(values.max()) + 1, float(np.median(values))
    bins = min(BINS, high - low)
    spread = np.geomspace(max(low, 1), high, bins + 1) if high > 20 * max(median, 1) else None
    edges = np.unique(np.rint(np.linspace(low, high, bins + 1) if spread is None else spread).astype(np.int64))
    edges[0] = low
    counts, _ = np.histogram(values, np.append(edges[:-1], edges[-1] - 0.5))  # numpy's last bin takes its own edge
    quantiles = np.quantile(values, (0.05, 0.5, 0.95), method="inverted_cdf")
    return {
        "min": low,
        **{name: int(value) for name, value in zip(("p5", "median", "p95"), quantiles, strict=True)},
        "max": high - 1,
        "mean": round(float(values.mean()), 2),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }


def _token_lengths(prepared: Prepared, split: str) -> ArrayLike:
    if prepared.record == Text.__name__:
        ends = prepared.split(split).document_ends.astype(np.int64)
        return np.diff(ends, prepend=0)
    return prepared.examples(split).lengths()


def _read(source: Source[Any], split: str, sample: int, seed: int, report: Report) -> dict[str, Any]:
    """One pass over a split as it is before cleaning: lengths, empty examples, and `drawn`, a sample of its records."""
    chance = random.Random(f"{seed} {split}")
    drawn: list[Record] = []
    lengths: list[int] = []
    offered = characters = empty = length = 0
    blank, whole = True, True
    for record in source.records(split):
        text = "".join(record.inputs())
        size = sum(map(len, record.texts()))
        blank = blank and not text.strip()
        length += size
        characters += size
        if getattr(record, "end", True):  # an example, or the last piece of a document
            lengths.append(length)
            empty += blank
            blank, length = True, 0
        for part in pieces([record.text], PASSAGE) if isinstance(record, Text) else (record,):
            offered += 1
            if offered <= sample:
                drawn.append(part)
            elif (place := chance.randrange(offered)) < sample:
                drawn[place] = part
        if characters >= READ:
            whole = False
            break
        report(f"read {split}", characters, 0)
    chance.shuffle(drawn)
    return {
        "documents": len(lengths),
        "characters": characters,
        "whole": whole,
        "empty": empty,
        "character_lengths": distribution(lengths),
        "drawn": drawn,
    }


def _looked_at(records: list[Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """What a sample of cleaned records says about a split."""
    texts = [text for record in records for text in record.texts()]
    tokens = sum(map(len, tokenizer.encode_batch(texts)))
    word_count, characters = sum(len(words(text)) for text in texts), sum(map(len, texts))
    return {
        "records": len(records),
        "characters": characters,
        "words": word_count,
        "tokens": tokens,
        "tokens_per_word": round(tokens / word_count, 4) if word_count else None,
        "tokens_per_character": round(tokens / characters, 4) if characters else None,
        "scripts": _scripts(texts),
        "languages": _languages(records),
    }


def _scripts(texts: list[str]) -> dict[str, int]:
    """Letters of each script, most first."""
    letters = Counter[str]()
    for text in texts:
        letters.update(text)
    found = Counter[str]()
    for letter, count in letters.items():
        if letter.isalpha():
            found[next((name for name in NAMES if share(letter, (name,))), "other")] += count
    return dict(found.most_common())


def _languages(records: list[Record]) -> dict[str, int] | None:
    """Records in each language, most first; None without the package that tells."""
    texts = [_shown(record) for record in records[:LANGUAGE_SAMPLE]]
    try:
        return dict(Counter(language_of(text) for text in texts if len(text) >= SHORTEST_FOR_LANGUAGE).most_common())
    except InputError:  # it is not installed
        return None


def _unknown(records: Mapping[str, list[Any]], tokenizer: Tokenizer) -> dict[str, int]:
    """In how many of the sampled records the tokenizer lacks a character or word, most first."""
    found = Counter[str]()
    for record in (record for some in records.values() for record in some):
        found.update({unit for text in record.texts() for unit in tokenizer.unknown(text)})
    return dict(found.most_common())


def _steps(drawn: Mapping[str, list[Any]], clean: Mapping[str, Clean]) -> list[dict[str, Any]]:
    """What each cleaning step does to what the steps before it leave of the sample."""
    records = [record for some in drawn.values() for record in some]
    found = []
    for name, step in clean.items():
        pairs = [(record, Cleaning({name: step}).record(record)) for record in records]
        changed = [(before, after) for before, after in pairs if after is not None and before != after]
        dropped = [(before, after) for before, after in pairs if after is None]
        shown = [*changed[:EXAMPLES], *dropped[:EXAMPLES]]
        found.append(
            {
                "step": name,
                "records": len(records),
                "changed": len(changed),
                "dropped": len(dropped),
                "examples": [_around(_shown(before), after and _shown(after)) for before, after in shown],
            }
        )
        records = [after for _, after in pairs if after is not None]
    return found


def _around(before: str, after: str | None) -> dict[str, str | None]:
    """Both texts around the first place where they differ."""
    if after is None:
        return {"before": before[:EXCERPT], "after": None}
    place = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    start = max(0, place - EXCERPT // 3)
    mark = "…" if start else ""
    return {"before": mark + before[start : start + EXCERPT], "after": mark + after[start : start + EXCERPT]}


def _shown(record: Record) -> str:
    return (" " if isinstance(record, TaggedTokens) else "\n").join(record.texts())


def _copies(
    source: Source[Any], cleaning: Cleaning, policies: Mapping[str, Duplicates], compare: int, report: Report
) -> dict[str, Any]:
    """By each policy what stands twice among the first examples of each split, with how many those were.

    None of a policy whose package is not installed.
    """
    found: dict[str, Any] = {}
    for name, policy in policies.items():
        first: dict[str, int] = {}
        kept = Kept(partial(_first, source, cleaning, compare, first), source.splits, policy)
        report(f"compare ({name})", 0, 0)
        try:
            for _ in kept.records("train") if "train" in source.splits else ():
                pass
        except InputError:  # it is not installed
            found[name] = None
            continue
        found[name] = {**kept.counts(), "compared": {split: first[split] for split in source.splits}}
    return found


def _first(
    source: Source[Any], cleaning: Cleaning, compare: int, numbers: dict[str, int], split: str
) -> Iterator[Record]:
    """The first examples or documents of a split, cleaned; `numbers` notes how many."""
    characters = 0
    numbers[split] = 0
    for record in source.records(split):
        changed = cleaning.record(record)
        if isinstance(record, Text):
            yield changed or Text("", record.end)
        elif changed is not None:
            yield changed
        numbers[split] += getattr(record, "end", True)
        characters += sum(map(len, record.texts()))
        if numbers[split] >= compare or characters >= COMPARED:
            return
