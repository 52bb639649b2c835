from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from llmcli.data.prepare import Prepared, prepare
from llmcli.data.readers.text import TextFiles
from llmcli.data.shards import ShardFile, TokenShards
from llmcli.text.markup import html_to_text
from llmcli.tokenizers.byte import ByteTokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("LLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def real_data():
    folder = os.environ.get("LLM_TEST_DATA")
    if not folder:
        pytest.skip("LLM_TEST_DATA does not name the folder of real data sets")
    return Path(folder)


@pytest.fixture
def text_files():
    """TextFiles with the defaults of configs/data/text.yaml, but no validation split."""

    def make(path, **changes):
        settings = {
            "encoding": "utf-8",
            "errors": "strict",
            "key": "text",
            "document": "file",
            "page": partial(html_to_text, drop=["head", "script"], bullet="- ", cell="\t", alt=False),
            "split": "auto",
            "val_fraction": 0.0,
            "test_fraction": 0.0,
            "seed": 0,
            "eos": True,
        }
        return TextFiles(path=path and str(path), **{**settings, **changes})

    return make


@pytest.fixture
def shards(tmp_path):
    """TokenShards of the given ids, cut into files of the given lengths."""

    def make(ids, lengths=None, dtype="<u2"):
        files, at = [], 0
        for number, length in enumerate(lengths or [len(ids)]):
            path, ends = tmp_path / f"{number}.ids", tmp_path / f"{number}.ends"
            np.asarray(ids[at : at + length], dtype).tofile(path)
            np.asarray([at + length], "<u8").tofile(ends)
            files.append(ShardFile(path, ends, length, 1))
            at += length
        return TokenShards(files, dtype)

    return make


@pytest.fixture
def prepared(tmp_path, text_files):
    """Prepared bytes: `train` and `val` characters of text that repeats nowhere in reach of a window."""

    def make(train, val=0) -> Prepared:
        rng = np.random.default_rng(train)
        path = tmp_path / f"{train}-{val}.txt"
        path.write_bytes(bytes(rng.integers(97, 123, train + val, dtype=np.uint8)))
        source = text_files(path, val_fraction=val / (train + val), eos=False)
        return prepare(source, tokenizer=ByteTokenizer(), tokenizer_key={})

    return make
