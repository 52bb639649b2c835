"""Preparing that is stopped anywhere and started again gives the same bytes; so does any number of workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import llmcli
from llmcli.data import build, encode, workers
from llmcli.data.duplicates import Exact
from llmcli.data.prepare import prepare
from llmcli.data.records import LabeledText, Text
from llmcli.data.source import Source, TextSource
from llmcli.errors import InputError
from llmcli.text.normalize import lowercase
from llmcli.tokenizers import char

TRAINED = []


def train(texts):
    TRAINED.append(1)
    return char.train(texts, min_frequency=1)


def without_z(text):
    return None if "z" in text else text


CLEAN = {"lowercase": lowercase, "z": without_z}


class Documents(TextSource):
    """A few hundred short documents, empty ones and one of many pieces among them, two of which begin with a z."""

    splits = ("train", "val")

    def __init__(self):
        super().__init__(eos=True)

    def fingerprint(self):
        return {"made": "up"}

    def describe(self):
        return "made up"

    def size(self, split):
        return sum(len(piece.text) for piece in self.records(split))

    def records(self, split):
        for number in range(200 if split == "train" else 40):
            if number == 30:
                yield from (Text("Z" * 20 if k % 7 == 0 else f"piece {k} " * 4, end=k == 49) for k in range(50))
            yield Text("Z" if number % 11 == 5 else "" if number % 13 == 0 else f"{split} Document {number}\n")


class Reviews(Source[LabeledText]):
    record = LabeledText
    splits = ("train", "val")

    def fingerprint(self):
        return {"made": "up too"}

    def describe(self):
        return "made up"

    def records(self, split):
        for number in range(120):
            yield LabeledText("Zero" if number % 9 == 4 else f"{split} review {number}", (f"label {number % 3}",))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(build, "CHUNK_CHARACTERS", 300)
    monkeypatch.setattr(build, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(encode, "SHARD_BYTES", 900)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    TRAINED.clear()


def prepared_in(cache_dir, source, report=None, workers=1):
    duplicates = Exact(drop_leaks=True, drop_repeats=True, min_characters=5)
    settings = {"tokenizer": train, "tokenizer_key": {}, "workers": workers, "report": report}
    return prepare(source, clean=CLEAN, duplicates=duplicates, cache_dir=cache_dir, **settings)


def content(prepared):
    files = (path for path in prepared.path.rglob("*") if path.is_file())
    return {str(path.relative_to(prepared.path)): path.read_bytes() for path in files}


@pytest.mark.parametrize("source", [Documents(), Reviews()], ids=["text", "examples"])
def test_interrupted_at_every_chunk_it_gives_the_same_bytes(tmp_path, source):
    calls = []
    whole = prepared_in(tmp_path / "whole", source, lambda *call: calls.append(call))
    assert {name for name, _, _ in calls} == {
        *(f"{stage} {split}" for stage in ("clean", "encode") for split in source.splits),
        "read for the tokenizer",
        "learn the tokenizer",
    }
    expected, stops, left = content(whole), 0, set(calls)
    TRAINED.clear()

    def stop_once(*call):
        nonlocal stops
        if call in left:
            left.discard(call)
            stops += 1
            raise KeyboardInterrupt

    while True:
        try:
            cut = prepared_in(tmp_path / "cut", source, stop_once)
            break
        except KeyboardInterrupt:
            assert len(list((tmp_path / "cut" / "prepared").glob("*.tmp"))) == 1
    assert stops > 20
    assert content(cut) == expected
    assert cut.manifest == json.loads(expected["manifest.json"])
    assert not list((tmp_path / "cut" / "prepared").glob("*.tmp"))
    assert len(TRAINED) <= 1 + sum(name.endswith("the tokenizer") for name, _, _ in calls), "trained, it is kept"
    cut.verify()


def test_any_number_of_workers_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", -1.0)
    for source in (Documents(), Reviews()):
        alone = content(prepared_in(tmp_path / "1", source, workers=1))
        assert content(prepared_in(tmp_path / "3", source, workers=3)) == alone
    assert sum(name.endswith(".ids") for name in alone) == 2


SCRIPT = """
import os, signal, sys
from pathlib import Path
import test_build
from llmcli.data import build, encode, workers
build.CHUNK_CHARACTERS, build.SAVE_SECONDS, encode.SHARD_BYTES, workers.PATIENCE = 300, -1.0, 900, -1.0

def report(stage, done, total):
    print(stage, done, flush=True)
    if stage == sys.argv[2] and done > 2000:
        os.kill(os.getpid(), signal.SIGKILL)

test_build.prepared_in(Path(sys.argv[1]), test_build.Documents(), report, 2)
"""


def test_killed_it_goes_on(tmp_path):
    expected = content(prepared_in(tmp_path / "whole", Documents()))
    path = os.pathsep.join([str(Path(llmcli.__file__).parents[1]), str(Path(__file__).parent)])
    first = []
    for stage in ("clean train", "encode train"):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "cut"), stage]
        killed = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        first.append(killed.stdout.splitlines()[0])
    assert int(first[1].split()[-1]) > 2000, "the second start began where the first was killed"
    assert content(prepared_in(tmp_path / "cut", Documents())) == expected


def test_what_is_left_and_not_whole_is_made_again(tmp_path):
    expected = content(prepared_in(tmp_path / "whole", Documents()))

    def stop(stage, done, total):
        if stage == "encode train" and done > 2000:
            raise KeyboardInterrupt

    for damage in ("train-00000.ids", "train.cleaned", "tokenizer/characters.json", "progress.json"):
        with pytest.raises(KeyboardInterrupt):
            prepared_in(tmp_path / "cut", Documents(), stop)
        (left,) = (tmp_path / "cut" / "prepared").glob("*.tmp")
        file = left / damage
        if damage == "progress.json":
            file.write_bytes(b"{")
        else:
            file.unlink()
    assert content(prepared_in(tmp_path / "cut", Documents())) == expected


def test_what_nobody_continued_for_a_week_is_removed(tmp_path):
    old, recent = tmp_path / "prepared" / "old.tmp", tmp_path / "prepared" / "recent.tmp"
    for folder in (old, recent):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    prepare(Documents(), tokenizer=train, tokenizer_key={}, cache_dir=tmp_path)
    assert not old.exists() and recent.exists()


def test_a_document_of_which_pieces_are_dropped_still_ends(tmp_path):
    prepared = prepare(Documents(), clean=CLEAN, tokenizer=partial(train), tokenizer_key={}, cache_dir=tmp_path)
    tokens, ends = prepared.split("train"), prepared.split("train").document_ends
    ids = tokens.read(0, len(tokens))
    assert (ids[ends - 1] == prepared.tokenizer.eos_id).all()
    text = prepared.tokenizer.decode([int(i) for i in ids])
    assert "z" not in text and "D" not in text and "piece 48 " in text and "piece 49 " not in text
    assert prepared.count("documents", "train") == 200 - 18 + 1


@pytest.mark.parametrize("number", [0, -1, 1.5, "two"])
def test_a_number_of_workers_that_is_none(tmp_path, number):
    with pytest.raises(InputError, match=rf"prepare.workers \({number}\) must be a whole number from 1, or null"):
        prepared_in(tmp_path, Documents(), workers=number)
