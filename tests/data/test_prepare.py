from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import llmcli
from llmcli.data import build, encode
from llmcli.data.columns import Column
from llmcli.data.prepare import prepare
from llmcli.data.records import Text
from llmcli.data.source import TextSource
from llmcli.errors import InputError, LLMError
from llmcli.text.normalize import lowercase, unicode_normalize
from llmcli.tokenizers import byte, char
from llmcli.tokenizers.byte import ByteTokenizer

TEXT = "Première ligne.\nSecond line.\n\nA third one, longer than the others.\n"


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT * 20, encoding="utf-8")
    return path


class CountingTrainer:
    """A character tokenizer's trainer that remembers what it was given."""

    def __init__(self):
        self.texts = []

    def __call__(self, texts):
        first, second = list(texts), list(texts)
        assert first == second  # a trainer may read them twice
        self.texts.append("".join(first))
        return char.train(texts, min_frequency=1)


def documents(prepared, split):
    tokens, start = prepared.split(split), 0
    for end in prepared.split(split).document_ends.tolist():
        yield prepared.tokenizer.decode(tokens.read(start, end - start).tolist())
        start = end


def test_decoding_the_shards_gives_the_documents(corpus, text_files):
    corpus.write_text("".join(f"ligne numéro {number}\n" for number in range(50)), encoding="utf-8")
    source = text_files(corpus, document="line", val_fraction=0.4)
    prepared = prepare(source, tokenizer=CountingTrainer(), tokenizer_key={})
    for split in ("train", "val"):
        expected = [piece.text for piece in source.records(split)]
        assert list(documents(prepared, split)) == expected
        tokens = prepared.split(split)
        ids = tokens.read(0, len(tokens))
        assert (ids[tokens.document_ends - 1] == prepared.tokenizer.eos_id).all()
        assert np.count_nonzero(ids == prepared.tokenizer.eos_id) == len(expected)
        assert prepared.count("documents", split) == len(expected)
        assert prepared.count("tokens", split) == len(tokens)
        assert prepared.count("characters", split) == len("".join(expected))
        assert prepared.count("bytes", split) == len("".join(expected).encode())


def test_the_tokenizer_sees_the_cleaned_train_split_alone(corpus, text_files):
    trainer = CountingTrainer()
    clean = {"unicode": partial(unicode_normalize, form="NFD"), "lowercase": lowercase}
    source = text_files(corpus, val_fraction=0.25)
    prepared = prepare(source, clean=clean, tokenizer=trainer, tokenizer_key={})
    text = TEXT * 20
    train = text[: int(len(text) * 0.75)]
    assert trainer.texts == [unicode_normalize(train, form="NFD").lower()]
    assert list(documents(prepared, "train")) == trainer.texts


def test_unknown_tokens_are_counted(tmp_path, text_files):
    path = tmp_path / "a.txt"
    path.write_text("a" * 80 + "b" * 20, encoding="utf-8")
    prepared = prepare(text_files(path, val_fraction=0.2), tokenizer=CountingTrainer(), tokenizer_key={})
    assert [prepared.count("unknown", split) for split in ("train", "val")] == [0, 20]


def test_prepared_data_is_found_again_and_anything_that_changes_it_prepares_anew(corpus, text_files):
    trainer = CountingTrainer()

    def fresh(key="a", form=None, tokenizer=trainer, **options):
        clean = {} if form is None else {"unicode": partial(unicode_normalize, form=form)}
        return prepare(
            text_files(corpus, **options), clean=clean, tokenizer=tokenizer, tokenizer_key={"key": key}
        ).fresh

    assert fresh() and not fresh()
    assert len(trainer.texts) == 1
    assert fresh(key="b")
    assert fresh(eos=False)
    assert fresh(document="line")
    assert fresh(val_fraction=0.5)
    assert fresh(form="NFC")
    assert fresh(form="NFD")
    assert not fresh(form="NFC")
    assert fresh(tokenizer=ByteTokenizer()) and not fresh(tokenizer=ByteTokenizer())
    corpus.write_text(TEXT, encoding="utf-8")
    assert fresh()


def test_a_given_tokenizer_is_used_as_it_is(corpus, text_files):
    tokenizer = char.train(["abc"], min_frequency=1)
    prepared = prepare(text_files(corpus), tokenizer=tokenizer, tokenizer_key={})
    assert prepared.tokenizer is tokenizer
    assert prepared.count("unknown") > 0


def test_shards_and_chunks_of_any_size_hold_the_same_tokens(corpus, text_files, monkeypatch):
    source = text_files(corpus, document="line", val_fraction=0.3)
    whole = prepare(source, tokenizer=ByteTokenizer(), tokenizer_key={}).split("train")
    monkeypatch.setattr(encode, "SHARD_BYTES", 200)
    monkeypatch.setattr(build, "CHUNK_CHARACTERS", 50)
    prepared = prepare(source, clean={"nothing": lambda text: text}, tokenizer=ByteTokenizer(), tokenizer_key={})
    cut = prepared.split("train")
    assert len(cut.files) > 5
    np.testing.assert_array_equal(cut.read(0, len(cut)), whole.read(0, len(whole)))
    np.testing.assert_array_equal(cut.document_ends, whole.document_ends)
    prepared.verify()


def test_an_empty_corpus_and_an_empty_split(tmp_path, text_files):
    path = tmp_path / "a.txt"
    path.write_text("", encoding="utf-8")
    for tokenizer in (ByteTokenizer(), CountingTrainer()):
        with pytest.raises(InputError, match="there is no text"):
            prepare(text_files(path), tokenizer=tokenizer, tokenizer_key={})
    path.write_text("one line", encoding="utf-8")
    source = text_files(path, document="line", val_fraction=0.01)
    with pytest.raises(InputError, match="no document fell into the val split") as caught:
        prepare(source, tokenizer=ByteTokenizer(), tokenizer_key={})
    assert "data.split=position" in caught.value.hint


def test_damage_is_noticed_and_named(corpus, text_files, cache):
    def again():
        return prepare(text_files(corpus), tokenizer=CountingTrainer(), tokenizer_key={})

    prepared = again()
    ids = prepared.path / "train-00000.ids"
    content = ids.read_bytes()
    ids.write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"prepared data is damaged: .*train-00000.ids has .* bytes instead of"):
        again()
    ids.write_bytes(b"\xff" + content[1:])  # the right length: only the hashes can tell
    with pytest.raises(InputError, match=r"train-00000.ids is not what was written") as caught:
        again().verify()
    assert caught.value.hint == f"delete {prepared.path}; the next run prepares it again"
    ids.write_bytes(content)
    again().verify()
    (prepared.path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="prepared data is damaged"):
        again()


def test_a_full_disk_leaves_nothing_behind(corpus, text_files, cache, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Column, "append", full)
        with pytest.raises(LLMError, match="no space left in") as caught:
            prepare(text_files(corpus), tokenizer=ByteTokenizer(), tokenizer_key={})
    assert caught.value.hint.startswith("LLM_CACHE=")
    assert not [path for path in (cache / "prepared").iterdir() if path.is_dir()]
    assert prepare(text_files(corpus), tokenizer=ByteTokenizer(), tokenizer_key={}).fresh


SCRIPT = """
import os, signal, sys, time
from functools import partial
from pathlib import Path
from llmcli.data.prepare import prepare
from llmcli.data.records import Text
from llmcli.data.source import TextSource
from llmcli.data.readers.text import TextFiles
from llmcli.tokenizers import byte, char

def train(texts):
    Path(sys.argv[2]).open("a").write("trained\\n")
    if sys.argv[3] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    return char.train(texts, min_frequency=1)

source = TextFiles(path=sys.argv[1], encoding="utf-8", errors="strict", key="text", document="file", split="auto",
                   page=str, val_fraction=0.0, test_fraction=0.0, seed=0, eos=True)
print(prepare(source, tokenizer=train, tokenizer_key={}).fresh)
"""


def start(corpus, log, what="live"):
    command = [sys.executable, "-c", SCRIPT, str(corpus), str(log), what]
    environment = {**os.environ, "PYTHONPATH": str(Path(llmcli.__file__).parents[1])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_two_processes_do_the_work_once_and_a_killed_one_does_no_harm(corpus, tmp_path, cache):
    log = tmp_path / "log"
    killed = start(corpus, log, "die")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    (left,) = [path for path in (cache / "prepared").iterdir() if path.is_dir()]
    assert left.suffix == ".tmp"
    both = [start(corpus, log), start(corpus, log)]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in both)
    assert said == ["False", "True"]
    assert log.read_text() == "trained\n" * 2  # one of them was the killed process
    (folder,) = [path for path in (cache / "prepared").iterdir() if path.is_dir()]
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["splits"]["train"]["documents"] == 1


def test_progress_is_reported(corpus, text_files):
    seen = {}
    prepare(
        text_files(corpus, val_fraction=0.5),
        tokenizer=CountingTrainer(),
        tokenizer_key={},
        report=lambda stage, done, total: seen.update({stage: done}),
    )
    size = len(TEXT.encode()) * 20
    learning = {"read for the tokenizer": size // 2, "learn the tokenizer": 0}
    assert seen == {**learning, "encode train": size // 2, "encode val": size // 2}


def test_the_description_counts_documents_and_bytes(corpus, text_files):
    prepared = prepare(text_files(corpus), tokenizer=ByteTokenizer(), tokenizer_key={})
    assert prepared.describe().startswith("1 document, 1.4 kB (corpus.txt, sha ")


class OnlyTest(TextSource):
    splits = ("test",)

    def fingerprint(self):
        return {}

    def describe(self):
        return "a test"

    def records(self, split):
        assert split == "test"
        yield Text(TEXT)


def test_data_without_a_train_split_is_prepared_with_a_tokenizer_that_learns_nothing():
    prepared = prepare(OnlyTest(eos=True), tokenizer=byte.train, tokenizer_key={})
    assert (
        prepared.splits == ("test",) and prepared.names == () and len(prepared.split("test")) == len(TEXT.encode()) + 1
    )
    with pytest.raises(InputError, match="no train split to learn a tokenizer from; it has: test") as raised:
        prepare(OnlyTest(eos=True), tokenizer=partial(char.train, min_frequency=1), tokenizer_key={"char": 1})
    assert raised.value.hint.startswith("tokenizer=byte learns nothing")


def test_preparing_imports_neither_torch_nor_lightning(corpus, tmp_path):
    code = (
        "import sys; from llmcli.cli import main\n"
        "assert main(['prepare', 'data=text', sys.argv[1], 'tokenizer=char', 'data.val_fraction=0']) == 0\n"
        "print({'torch', 'pytorch_lightning'} & set(sys.modules))"
    )
    environment = {**os.environ, "LLM_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code, f"data.path={corpus}"], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.splitlines()[-1] == "set()"
