"""What in a survey would spoil a training run, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmcli.data.records import Text

# Below these a validation score says little: one example more or less moves an accuracy by a percent.
FEWEST_EXAMPLES, FEWEST_TOKENS = 100, 5_000
UNKNOWN = 0.01  # share of the tokens
IMBALANCE = 20.0  # the most frequent label over the least
MAJORITY = 0.9
RARE = 10  # examples of a label
TOO_LONG = 0.05  # share of the examples that the context does not hold
EMPTY = 0.001
REPEATED = 0.05
DROPPED = 0.3  # by cleaning
FOREIGN = (0.0005, 0.05)  # share of the letters that a second script has by mistake: less is nothing, more is meant
# Scripts that belong together: Latin letters stand in every text
_AT_HOME = {"Han": {"Hiragana", "Katakana", "Hangul"}, "Hiragana": {"Han", "Katakana"}, "Hangul": {"Han"}}


def warnings(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Of the facts of `survey`: each with `what` is so and what to `do`."""
    found = [
        *_val(facts),
        *_copies(facts),
        *_labels(facts),
        *_lengths(facts),
        *_texts(facts),
        *_cleaning(facts),
    ]
    return [{"what": what, "do": do} for what, do in found]


def _val(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    splits, running = facts["splits"], facts["record"] == Text.__name__
    if "train" not in splits:
        return
    if "val" not in splits:
        yield "there is no val split, so nothing says when to stop", "data.val_fraction=0.1, where the data has it"
        return
    val = splits["val"]
    few = val["tokens"] < FEWEST_TOKENS if running else val["documents"] < FEWEST_EXAMPLES
    if few:
        size = f"{val['tokens']:,} tokens" if running else f"{val['documents']:,} examples"
        yield f"val has only {size}: its score is mostly chance", "more data, or a larger data.val_fraction"
    if val["documents"] > splits["train"]["documents"]:
        yield "val is larger than train", "look at how the data is split"


def _copies(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    known: Mapping[str, int] = {}  # what an earlier policy said already
    for name, counts in facts["copies"].items():
        if not counts or "seen" not in counts:
            continue
        nearly = "nearly " if counts["kind"] == "near" else ""
        more = {split: n for split, n in counts["seen"].items() if n > known.get(split, 0)}
        if more and (nearly or not facts["dropped"]):
            shares = [f"{n:,} of {counts['compared'][split]:,} in {split}" for split, n in more.items()]
            yield (
                f"{' and '.join(shares)} {nearly}stand in train too: their scores are too good",
                f"duplicates={'near' if nearly else 'drop_leaks'} drops them from train",
            )
        repeats, of = counts["repeats"] or 0, counts["compared"]["train"]
        if of and repeats / of > REPEATED and repeats > known.get("train", 0):
            yield f"{repeats:,} of {of:,} in train {nearly}repeat another", f"duplicates={name} keeps the first"
        known = {**counts["seen"], "train": repeats}


def _labels(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    labels = facts["splits"].get("train", {}).get("labels", {})
    if facts["record"] == "TaggedTokens":
        labels = {name: count for name, count in labels.items() if name != "O"}
    if not labels:
        return
    most, least = max(labels, key=labels.__getitem__), min(labels, key=labels.__getitem__)
    total = sum(labels.values())
    if len(labels) == 1:
        yield f"every label is {most!r}: there is nothing to learn", "look at data.labels, the column of labels"
    elif labels[most] / total > MAJORITY:
        share = labels[most] / total
        yield f"{share:.0%} of the labels are {most!r}: always saying so scores {share:.0%}", "look at F1, not accuracy"
    elif labels[most] > IMBALANCE * labels[least]:
        yield (
            f"{most!r} stands {labels[most] / labels[least]:,.0f} times as often as {least!r} ({labels[least]:,})",
            "look at the macro F1; weigh classes or sample evenly",
        )
    rare = [name for name, count in labels.items() if count < RARE]
    if rare:
        yield f"{len(rare):,} labels have fewer than {RARE} examples, such as {rare[0]!r}", "merge or leave them out"


def _lengths(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for split, found in facts["splits"].items():
        lengths, context = found["token_lengths"], facts["context"]
        over = found.get("over_context")
        if over and over / found["documents"] > TOO_LONG:
            yield (
                f"{over / found['documents']:.0%} of {split} is longer than the context of {context} tokens",
                "the rest is cut off: a longer context, or cut the texts yourself",
            )
        read = found["read"]["character_lengths"]
        if (
            read
            and found["read"]["documents"] >= 100
            and read["p95"] == read["max"]
            and read["p95"] < 1.02 * read["median"]
        ):
            yield f"nearly every text of {split} has {read['max']:,} characters", "they may have been cut off before"
        if lengths and lengths["max"] == 0:
            yield f"{split} has no tokens", "look at the files"


def _texts(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for split, found in facts["splits"].items():
        if found["tokens"] and found["unknown"] / found["tokens"] > UNKNOWN:
            yield (
                f"{found['unknown'] / found['tokens']:.1%} of the tokens of {split} are unknown to the tokenizer",
                "tokenizer=bpe or byte knows every text",
            )
        read = found["read"]
        if facts["record"] != Text.__name__ and read["documents"] and read["empty"] / read["documents"] > EMPTY:
            yield f"{read['empty']:,} texts of {split} are empty", "look at the columns, and at how they are quoted"
        scripts, letters = found["sample"]["scripts"], sum(found["sample"]["scripts"].values())
        main = next(iter(scripts), "")
        for name, count in scripts.items():
            strange = name not in (main, "Latin", "other") and name not in _AT_HOME.get(main, ())
            if strange and FOREIGN[0] < count / letters < FOREIGN[1]:
                yield (
                    f"{count / letters:.2%} of the letters of {split} are {name}, the most are {main}",
                    "letters that look alike, or other languages: clean=[script] keeps one script",
                )


def _cleaning(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for step in facts["cleaning"]:
        if step["records"] and step["dropped"] / step["records"] > DROPPED:
            share = step["dropped"] / step["records"]
            yield f"clean.{step['step']} drops {share:.0%} of what it sees", "look at the examples of it in the report"
