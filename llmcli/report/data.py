"""The survey of a data set as tables for the terminal and as one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmcli import ui
from llmcli.report import page

UNKNOWN_SHOWN, LABELS_SHOWN, LANGUAGES_SHOWN = 40, 40, 8
_QUANTILES = ("min", "p5", "median", "p95", "max", "mean")
_WORDS = "Of the same sample. A word is what stands between white space; in Chinese and Japanese it is a character."
Row = tuple[Any, ...]


def show(facts: Mapping[str, Any]) -> None:
    """The tables, on stdout."""
    for headers, rows in (
        sizes(facts),
        lengths(facts),
        labels(facts, 8),
        writing(facts),
        copies(facts),
        unknown(facts, 8),
        cleaning(facts),
    ):
        if rows:
            right = [i for i in range(1, len(headers)) if any(_is_number(row[i]) for row in rows)]
            ui.table([[_plain(cell) for cell in row] for row in rows], headers, right=right, stdout=True)
            ui.out("")
    for found in facts["warnings"]:
        ui.warn(f"{found['what']}\n         {found['do']}")


def html(facts: Mapping[str, Any]) -> str:
    """The page."""
    splits, noun = facts["splits"], noun_of(facts)
    sections = [
        page.warnings(facts["warnings"]),
        page.section("Size", page.table(*sizes(facts)), note="Of all of the data, after cleaning."),
        page.section("Length", page.table(*lengths(facts)), _histograms(facts), note=_read_note(facts)),
    ]
    if any(found["labels"] for found in splits.values()):
        panels = [
            page.panel(name, page.bars(_most(found["labels"], LABELS_SHOWN), unit="%"))
            for name, found in splits.items()
        ]
        sections.append(page.section("Labels", page.grid(panels), note=_labels_note(facts)))
    panels = [
        page.panel(f"letters, {name}", page.bars(found["sample"]["scripts"], unit="%"))
        for name, found in splits.items()
    ]
    panels += [
        page.panel(f"{noun}, {name}", page.bars(_most(found["sample"]["languages"], LANGUAGES_SHOWN), unit="%"))
        for name, found in splits.items()
        if found["sample"]["languages"] is not None
    ]
    sections.append(page.section("Scripts and languages", page.grid(panels), note=_sample_note(facts)))
    sections.append(page.section("Duplicates and leakage", page.table(*copies(facts)), note=_copies_note(facts)))
    sections.append(page.section("Tokenizer", page.table(*writing(facts)), _unknown(facts), note=_WORDS))
    if facts["cleaning"]:
        sections.append(
            page.section("Cleaning", page.table(*cleaning(facts)), *_changes(facts), note=_sample_note(facts))
        )
    shown = [page.panel(name, "".join(map(page.text, texts))) for name, texts in facts["examples"].items()]
    sections.append(page.section("Some of it", *shown, note=f"Drawn at random (seed={facts['seed']}), after cleaning."))
    return page.page(str(facts["data"]), f"{facts['record']} · {facts['origin']} · {facts['choices']}", *sections)


def noun_of(facts: Mapping[str, Any]) -> str:
    return "documents" if facts["record"] == "Text" else "examples"


def sizes(facts: Mapping[str, Any]) -> tuple[Sequence[str], list[Row]]:
    columns = ("documents", "tokens", "characters", "bytes", "unknown")
    rows = [(name, *(found[column] for column in columns)) for name, found in facts["splits"].items()]
    return ("split", noun_of(facts), *columns[1:-1], "unknown tokens"), rows


def lengths(facts: Mapping[str, Any]) -> tuple[Sequence[str], list[Row]]:
    rows = [
        (f"{name}, {unit}", *(found[key] if found[key] < 100 else round(found[key]) for key in _QUANTILES))
        for name, splits in facts["splits"].items()
        for unit, found in (("tokens", splits["token_lengths"]), ("characters", splits["read"]["character_lengths"]))
        if found is not None
    ]
    return ("length", *_QUANTILES), rows


def labels(facts: Mapping[str, Any], most: int = LABELS_SHOWN) -> tuple[Sequence[str], list[Row]]:
    splits = {name: found["labels"] for name, found in facts["splits"].items()}
    first: dict[str, int] = next(iter(splits.values()), {})
    names = sorted({label for found in splits.values() for label in found}, key=lambda name: -first.get(name, 0))
    rows: list[Row] = [(name, *(found.get(name, 0) for found in splits.values())) for name in names[:most]]
    if len(names) > most:
        rest = (sum(found.get(name, 0) for name in names[most:]) for found in splits.values())
        rows.append((f"{len(names) - most:,} more", *rest))
    return ("label", *splits), rows


def writing(facts: Mapping[str, Any]) -> tuple[Sequence[str], list[Row]]:
    """Fertility, scripts and languages of the sample."""
    rows = []
    for name, found in facts["splits"].items():
        sample = found["sample"]
        spoken = sample["languages"]
        rows.append(
            (
                name,
                sample["tokens_per_word"],
                sample["tokens_per_character"],
                _shares(sample["scripts"]),
                "needs llmcli[text]" if spoken is None else _shares(spoken),
            )
        )
    return ("sample", "tokens/word", "tokens/character", "scripts", "languages"), rows


def copies(facts: Mapping[str, Any]) -> tuple[Sequence[str], list[Row]]:
    others = [name for name in facts["splits"] if name != "train"]
    rows: list[Row] = []
    for name, counts in facts["copies"].items():
        if counts is None:
            rows.append((name, "needs llmcli[text]", *[None] * len(others)))
        elif "seen" in counts:
            rows.append((name, counts["repeats"], *(counts["seen"][split] for split in others)))
    return ("alike", "train, repeated", *(f"{split}, also in train" for split in others)), rows


def unknown(facts: Mapping[str, Any], most: int = UNKNOWN_SHOWN) -> tuple[Sequence[str], list[Row]]:
    found = list(facts["unknown"].items())
    return ("unknown", f"{noun_of(facts)} of the sample"), [(_named(unit), count) for unit, count in found[:most]]


def cleaning(facts: Mapping[str, Any]) -> tuple[Sequence[str], list[Row]]:
    steps = facts["cleaning"]
    return ("clean", "of the sample", "changed", "dropped"), [
        (step["step"], step["records"], step["changed"], step["dropped"]) for step in steps
    ]


def _histograms(facts: Mapping[str, Any]) -> str:
    panels = [
        page.panel(name, page.histogram(found["edges"], found["counts"], unit=unit))
        for name, splits in facts["splits"].items()
        for unit, found in (("tokens", splits["token_lengths"]), ("characters", splits["read"]["character_lengths"]))
        if found is not None
    ]
    return page.grid(panels)


def _changes(facts: Mapping[str, Any]) -> list[str]:
    """The examples of each step, before and after it."""
    parts = []
    for step in facts["cleaning"]:
        shown = []
        for example in step["examples"]:
            after = example["after"]
            then = '<p class="dim">dropped</p>' if after is None else page.text(after, "after")
            shown.append(page.text(example["before"], "before") + then)
        if shown:
            parts.append(page.panel(f"clean.{step['step']}", "".join(shown)))
    return parts


def _unknown(facts: Mapping[str, Any]) -> str:
    found = len(facts["unknown"])
    if not found:
        return '<p class="dim">The tokenizer represents all of the sample.</p>'
    more = f'<p class="dim">{found - UNKNOWN_SHOWN:,} more.</p>' if found > UNKNOWN_SHOWN else ""
    return page.table(*unknown(facts)) + more


def _read_note(facts: Mapping[str, Any]) -> str:
    part = [
        f"the first {found['read']['characters']:,} characters of {name}"
        for name, found in facts["splits"].items()
        if not found["read"]["whole"]
    ]
    said = "Tokens of all of the data; characters as read, before cleaning"
    return f"{said}, of {' and '.join(part)}." if part else f"{said}."


def _labels_note(facts: Mapping[str, Any]) -> str:
    most = max(len(found["labels"]) for found in facts["splits"].values())
    return f"The {LABELS_SHOWN} most frequent of {most:,}." if most > LABELS_SHOWN else ""


def _sample_note(facts: Mapping[str, Any]) -> str:
    what = "passages" if facts["record"] == "Text" else "examples"
    drawn = [f"{found['sample']['records']:,} {what} of {name}" for name, found in facts["splits"].items()]
    return f"Of a random sample, {', '.join(drawn)}."


def _copies_note(facts: Mapping[str, Any]) -> str:
    compared: dict[str, int] = next((counts["compared"] for counts in facts["copies"].values() if counts), {})
    of = ", ".join(f"{n:,} {noun_of(facts)} of {split}" for split, n in compared.items())
    dropped = f" {facts['dropped']:,} were dropped from train when it was prepared." if facts["dropped"] else ""
    return f"After cleaning, of the first {of}.{dropped}" if of else ""


def _shares(counts: Mapping[str, int], most: int = 3) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {count / total:.1%}" for name, count in list(counts.items())[:most])


def _most(counts: Mapping[str, int], number: int) -> dict[str, float]:
    return dict(sorted(counts.items(), key=lambda item: -item[1])[:number])


def _named(unit: str) -> str:
    return f"{unit} (U+{ord(unit):04X})" if len(unit) == 1 else unit


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _plain(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:,.2f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
