"""What every test gets: its own cache and working directory, one torch thread, and `llm` as a function."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# Before torch is imported: threads of several processes on the same cores wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell that runs this in the background has Ctrl-C ignored, which every process below would inherit
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _apart(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test writes into the user's cache or the repository, or sees another's run folder."""
    monkeypatch.setenv("LLM_CACHE", str(cache))
    monkeypatch.setenv("LLM_RUN_DIR", "")
    monkeypatch.chdir(tmp_path)
    yield


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def llm(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `llm ARGS...` in this process."""

    def call(*args: str) -> Result:
        from llmcli import cli

        monkeypatch.setenv("LLM_RUN_DIR", "")
        capfd.readouterr()
        code = cli.main(list(args))
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 60 kB of text with something to learn: sentences over a small vocabulary, one document a line."""
    rng = random.Random(7)
    subjects = ["the cat", "a dog", "the old man", "my sister", "the bird"]
    verbs = ["sees", "likes", "follows", "hears", "forgets"]
    objects = ["the moon", "a red ball", "the river", "an apple", "the garden wall"]
    lines = [f"{rng.choice(subjects)} {rng.choice(verbs)} {rng.choice(objects)}." for _ in range(2000)]
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def overrides(corpus: Path) -> list[str]:
    """Overrides of a run that takes a second or two."""
    return [
        "data=text",
        f"data.path={corpus}",
        "data.document=line",
        "tokenizer=byte",
        "batch.size=4",
        "batch.seq_len=16",
        "model.d_model=16",
        "model.n_layers=1",
        "trainer.max_steps=12",
        "trainer.val_every=5",
        "trainer.val_batches=2",
        "trainer.log_every=1",
        "trainer.accelerator=cpu",
        "callbacks.samples.max_new_tokens=4",
    ]


@pytest.fixture(scope="session")
def small(corpus: Path) -> list[str]:
    return overrides(corpus)


@pytest.fixture(scope="session")
def trained(corpus: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one small run of bytes for all tests that only look at a run or use it."""
    from llmcli import cli

    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_CACHE", str(cache))
        patch.setenv("LLM_RUN_DIR", "")
        tiny = ["model.n_heads=2", "model.ngram_rows=[64]", f"hydra.run.dir={folder}"]
        assert cli.main(["train", *overrides(corpus), *tiny]) == 0
    return folder
