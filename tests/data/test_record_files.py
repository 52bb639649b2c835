"""Which files are which split, and what prepared data depends on."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from llmcli.data.decode import encodings, lines, text_of
from llmcli.data.open_file import contents
from llmcli.data.record_files import RecordFiles
from llmcli.data.records import LabeledText
from llmcli.errors import InputError, LLMError


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A record of every line."""

    record: ClassVar[type[LabeledText]] = LabeledText
    encoding: str = "utf-8"

    def read(self, files: Sequence[Path]) -> Iterator[LabeledText]:
        found = encodings(files) if self.encoding == "auto" else {}
        for content in contents(files):
            for line in lines(text_of(content, encoding=found.get(content.name, self.encoding))):
                yield LabeledText(line)


def source(path=None, reader=None, **changes):
    settings = {
        "urls": None,
        "sha256": None,
        "val_fraction": 0.0,
        "test_fraction": 0.0,
        "stratify": False,
        "seed": 0,
        "flaws": "error",
        "unseen_labels": "error",
    }
    path = str(path) if isinstance(path, Path) else path
    return RecordFiles(reader=reader or Lines(), path=path, **{**settings, **changes})


def read(found):
    return {split: [record.text for record in found.records(split)] for split in found.splits}


@pytest.fixture
def folder(tmp_path):
    def make(*names):
        for name in names:
            path = tmp_path / "corpus" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            data = f"{name}\n".encode()
            path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return tmp_path / "corpus"

    return make


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.csv", "b.csv"], {"train": ["a.csv", "b.csv"]}),
        (["train.csv", "dev.csv", "test.csv"], {"train": ["train.csv"], "val": ["dev.csv"], "test": ["test.csv"]}),
        (
            ["train.0.txt", "train.1.txt.gz", "valid.txt"],
            {"train": ["train.0.txt", "train.1.txt.gz"], "val": ["valid.txt"]},
        ),
        (["Train.csv", "validation.csv", "class.txt"], {"train": ["Train.csv"], "val": ["validation.csv"]}),
        (
            ["train-00000-of-00001.txt", "test_2016.txt"],
            {"train": ["train-00000-of-00001.txt"], "test": ["test_2016.txt"]},
        ),
        (["other.txt", "val.txt", "README.md"], {"train": ["other.txt"], "val": ["val.txt"]}),
        (["trains.csv", "testing.csv"], {"train": ["testing.csv", "trains.csv"]}),
        (
            ["train/a.txt", "train/b.txt", "test/a.txt"],
            {"train": ["train/a.txt", "train/b.txt"], "test": ["test/a.txt"]},
        ),
        (["test.csv"], {"test": ["test.csv"]}),
    ],
)
def test_the_splits_of_a_folder(folder, names, expected):
    assert read(source(folder(*names))) == expected


def test_a_file_a_glob_a_list_and_a_mapping(folder):
    place = folder("a.txt", "b.txt", "c.log")
    assert read(source(place / "a.txt")) == {"train": ["a.txt"]}
    assert read(source(f"{place}/*.txt")) == {"train": ["a.txt", "b.txt"]}
    assert read(source([f"{place}/b.txt", f"{place}/a.txt"])) == {"train": ["b.txt", "a.txt"]}
    mapping = {"test": f"{place}/c.log", "train": [f"{place}/b.txt", f"{place}/a.txt"]}
    assert read(source(mapping)) == {"train": ["b.txt", "a.txt"], "test": ["c.log"]}


def test_archives_are_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, tarfile.open(tmp_path / "b.tar.xz", "w:xz") as tar:
        for name in ("data/train.txt", "data/test.txt", "data/README.txt"):
            archive.writestr(name, f"{name}\n")
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
    expected = {"train": ["data/train.txt"], "test": ["data/test.txt"]}
    assert read(source(tmp_path / "a.zip")) == read(source(tmp_path / "b.tar.xz")) == expected
    assert read(source(f"{tmp_path}/a.zip/data/test.txt")) == {"train": ["data/test.txt"]}
    assert read(source(f"{tmp_path}/a.zip/*/t*.txt")) == {"train": ["data/train.txt", "data/test.txt"]}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (None, "data.path is needed"),
        ("nowhere.csv", "data.path: there is no file or folder nowhere.csv"),
        ({"train": "nowhere.csv"}, r"data\.path\.train: there is no file or folder nowhere\.csv"),
        ({"dev": "nowhere.csv"}, 'data.path: there is no split "dev"'),
        ("*.csv", r"data\.path: no file matches \*\.csv"),
    ],
)
def test_paths_that_lead_nowhere(path, message):
    with pytest.raises(InputError, match=message):
        source(path)


def test_published_files_are_downloaded_or_found(folder, tmp_path):
    web = folder("train.txt", "more.txt", "test.txt")
    names = {"train": ["train.txt", "more.txt"], "test": "test.txt"}
    urls = {"train": [(web / name).as_uri() for name in names["train"]], "test": (web / "test.txt").as_uri()}
    sums = {
        name: hashlib.sha256((web / name).read_bytes()).hexdigest() for name in ("train.txt", "more.txt", "test.txt")
    }
    sha256 = {"train": [sums["train.txt"], sums["more.txt"]], "test": sums["test.txt"]}
    downloaded = source(urls=urls, sha256=sha256)
    assert downloaded.splits == ("train", "test") and len(downloaded.missing()) == 3
    assert read(downloaded) == {"train": ["train.txt", "more.txt"], "test": ["test.txt"]}
    assert downloaded.missing() == []
    local = source(web, urls=urls, sha256=sha256)
    assert read(local) == read(downloaded)
    assert local.fingerprint() == downloaded.fingerprint()  # the cache of one serves the other
    with pytest.raises(LLMError, match="is not the expected file: its sha256 is"):
        read(source(urls=urls, sha256={**sha256, "test": "0" * 64}))
    with pytest.raises(InputError, match=r"data\.urls \(train: 2, test: 1\) and data\.sha256 \(test: 1\)"):
        source(urls=urls, sha256={"test": "0"})
    (web / "more.txt").unlink()
    with pytest.raises(InputError, match=r"has no more\.txt"):
        source(web, urls=urls, sha256=sha256)


def test_the_fingerprint_is_content_options_and_dealing(folder):
    place = folder("a.txt", "b.txt")
    before = source(place / "a.txt").fingerprint()
    assert before == source(place / "a.txt").fingerprint()
    for other in (
        source(place / "b.txt"),
        source(place / "a.txt", Lines(encoding="latin-1")),
        source(place / "a.txt", flaws="skip"),
        source(place / "a.txt", val_fraction=0.1),
    ):
        assert other.fingerprint() != before
    one, two = (source(place / "a.txt", val_fraction=0.1, seed=seed).fingerprint() for seed in (0, 1))
    assert one != two
    (place / "a.txt").rename(place / "a.csv")  # its name may say how it is read
    assert source(place / "a.csv").fingerprint() != before


def test_what_is_read_is_said(folder):
    place = folder("a.txt", "b.txt", "sub/c.txt")
    assert source(place / "a.txt").describe() == "a.txt"
    assert source(f"{place}/*.txt").describe() == "corpus"
    assert source(place).describe() == "3 files"
    (place / "a.txt").write_bytes("价格是一百元，不贵。".encode("gb18030"))
    assert source(place / "a.txt", Lines(encoding="auto")).describe() == "a.txt, read as gb18030"
    assert source(place / "b.txt", Lines(encoding="auto")).describe() == "b.txt"
