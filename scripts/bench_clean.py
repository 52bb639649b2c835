"""Speed of every cleaning step in configs/clean: python scripts/bench_clean.py [--text FILE] [STEP ...]

Each step runs with its shipped options, one process, on documents of about 4 kB: English (modules of the
installed Python), made-up Chinese, made-up web pages, or your own file. Prints MB/s (UTF-8, processor time, median of
three rounds) and the share of documents that stay; "-" where a package is missing.
"""

from __future__ import annotations

import argparse
import html
import random
import statistics
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

from omegaconf import OmegaConf

from llmcli import catalog, config
from llmcli.data.cleaning import Cleaning
from llmcli.errors import InputError

DOCUMENT = 4_000  # characters
ROUNDS = 3


def english(size: int) -> str:
    """Modules of the standard library, as they are: prose, code and odd characters."""
    text = ""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_text(encoding="utf-8", errors="replace")
        if len(text) >= size:
            break
    return text[:size]


def chinese(size: int) -> str:
    """Sentences of random frequent characters, with punctuation, numbers and names in Latin letters."""
    rng = random.Random(0)
    characters = (
        "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多"
    )
    sentences = []
    for number in range(size // 20):
        words = "".join(rng.choices(characters, k=rng.randint(8, 24)))
        extra = rng.choice(["", "", "", f"，共{number}个", "（Python）", "“好”"])
        sentences.append(words + extra + rng.choice("。。。！？，\n"))
    return "".join(sentences)[:size]


def pages(size: int) -> str:
    """The English text as web pages: paragraphs, lists, tables, scripts and links."""
    rng = random.Random(0)
    parts = []
    for paragraph in english(size).split("\n\n"):
        text = html.escape(paragraph)
        parts.append(
            rng.choice(
                [
                    f"<p>{text}</p>",
                    f'<ul class="nav"><li><a href="http://example.org/">{text}</a></li></ul>',
                    f"<table><tr><td>{text}</td><td>1</td></tr></table>",
                    f"<div id=x><script>var a = 1;</script><h2>{text}</h2><br/></div>",
                ]
            )
        )
    return "\n".join(parts)[:size]


def documents(text: str) -> list[str]:
    return [text[start : start + DOCUMENT] for start in range(0, len(text), DOCUMENT)]


def measure(step: Callable[[str], str | None], texts: list[str]) -> str:
    size = sum(len(text.encode("utf-8", "replace")) for text in texts) / 1e6
    try:
        step("warm up: é 中")
    except InputError:
        return "-"
    seconds, kept = [], 0
    for _ in range(ROUNDS):
        begin = time.process_time()
        kept = sum(step(text) is not None for text in texts)
        seconds.append(time.process_time() - begin)
    stay = "" if kept == len(texts) else f" ({kept / len(texts):.0%} stay)"
    speed = size / max(statistics.median(seconds), 1e-9)
    return (">1,000" if speed > 1000 else f"{speed:.3g}") + stay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help="only these")
    parser.add_argument("--text", type=Path, help="a UTF-8 file of your own")
    parser.add_argument("--megabytes", type=float, default=2, help="characters of each text, in millions")
    options = parser.parse_args()
    size = int(options.megabytes * 1e6)
    texts = (
        {options.text.name: options.text.read_text(encoding="utf-8")[:size]}
        if options.text
        else {"English": english(size), "Chinese": chinese(size), "web pages": pages(size)}
    )
    samples = {name: documents(text) for name, text in texts.items()}
    print(f"| step | {' | '.join(samples)} |\n|{'---|' * (len(samples) + 1)}")
    for path in sorted((catalog.config_dir() / "clean").glob("*.yaml")):
        if options.steps and path.stem not in options.steps:
            continue
        step = Cleaning({path.stem: config.build(OmegaConf.load(path))})
        print(f"| `{path.stem}` | {' | '.join(measure(step, sample) for sample in samples.values())} |", flush=True)


if __name__ == "__main__":
    main()
