"""Compressed files and archives: whole ones read back, damaged ones named, and none fills the machine."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.data import open_file
from llmcli.data.open_file import contents, kind, members
from llmcli.errors import InputError

PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def zipped(files, **options):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return held.getvalue()


def tarred(files, mode="w"):
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return held.getvalue()


def read(*files):
    return [(content.name, content.suffix, content.stream.read()) for content in contents(list(files))]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", ("", "")),
        ("a.CSV", (".csv", "")),
        ("a.csv.gz", (".csv", ".gz")),
        ("v1.2.gz", (".2", ".gz")),
        ("a.gz", ("", ".gz")),
        ("a.tgz", (".tar", ".gz")),
        ("a.tar.zst", (".tar", ".zst")),
    ],
)
def test_what_a_name_says(name, expected):
    assert kind(name) == expected


@QUICK
@given(st.binary(max_size=300), st.sampled_from([*PACK]), st.integers(1, 3))
def test_compressed_files_read_back(tmp_path, data, suffix, parts):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(PACK[suffix](data) * parts)  # each of these may be followed by another
    assert read(path) == [(str(path), ".txt", data * parts)]


@pytest.mark.parametrize("suffix", [*PACK, ".tgz", ".tar.bz2", ".zip"])
@pytest.mark.parametrize("size", [1000, 200_000])
def test_what_is_cut_short_is_named(tmp_path, monkeypatch, suffix, size):
    monkeypatch.setattr(open_file, "BLOCK", 1 << 14)
    text = b"".join(b"%d words of a text\n" % number for number in range(size // 20))
    pack = {".tgz": lambda data: gzip.compress(tarred({"a.txt": data})), ".zip": lambda data: zipped({"a.txt": data})}
    pack[".tar.bz2"] = lambda data: bz2.compress(tarred({"a.txt": data}))
    whole = {**PACK, **pack}[suffix](text)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(whole)
    assert read(path)[0][2] == text
    for cut in (1, len(whole) // 2):
        path.write_bytes(whole[:-cut])
        with pytest.raises(InputError, match=rf"{re.escape(str(path))}.* (is cut short|is not a whole) ?"):
            read(path)


@QUICK
@given(st.binary(max_size=200), st.sampled_from([*PACK, ".zip", ".tar", ".tgz", ".tar.zst"]))
def test_other_bytes_are_no_archive(tmp_path, data, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    try:
        read(path)
    except InputError as err:
        assert str(path) in str(err)


@QUICK
@given(st.data(), st.sampled_from([".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz"]))
def test_a_changed_byte_is_an_error_or_another_text(tmp_path, data, suffix):
    files = {"a.txt": b"some words to pack " * 3, "b/c.txt.gz": gzip.compress(b"more")}
    pack = {**PACK, ".zip": zipped, ".tar": tarred, ".tgz": lambda files: gzip.compress(tarred(files))}
    whole = bytearray(pack[suffix](files if suffix in (".zip", ".tar", ".tgz") else files["a.txt"]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"a{suffix}"
    path.write_bytes(whole)
    try:
        read(path)
    except InputError as err:
        assert str(path) in str(err)


FILES = {
    "b.txt": b"b",
    "a/train.csv": b"a",
    "a/more.csv.gz": gzip.compress(b"packed"),
    ".hidden": b"x",
    "__MACOSX/a/train.csv": b"x",
}


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz"])
def test_members_are_files(tmp_path, suffix):
    path = tmp_path / f"c{suffix}"
    path.write_bytes({".zip": zipped(FILES), ".tar": tarred(FILES), ".tgz": tarred(FILES, "w:gz")}[suffix])
    assert members(path) == ["b.txt", "a/train.csv", "a/more.csv.gz"]
    assert read(path) == [
        (f"{path}/b.txt", ".txt", b"b"),
        (f"{path}/a/train.csv", ".csv", b"a"),
        (f"{path}/a/more.csv.gz", ".csv", b"packed"),
    ]
    assert [data for _, _, data in read(path / "a/train.csv", path / "b.txt")] == [b"b", b"a"]
    assert [data for _, _, data in read(path / "a" / "*")] == [b"a", b"packed"]
    with pytest.raises(
        InputError, match=r"c\.\w+ holds no a/dev\.csv; it holds: b\.txt, a/train\.csv, a/more\.csv\.gz$"
    ):
        read(path / "a/dev.csv")


def test_what_is_not_read(tmp_path):
    cases = {
        "inner.zip": (zipped({"more.zip": zipped({"a.txt": b"a"})}), "an archive inside an archive is not read"),
        "packed.zip.gz": (gzip.compress(zipped({"a.txt": b"a"})), "an archive inside a compressed file is not read"),
        "empty.zip": (zipped({}), "holds no \\*; it holds: nothing"),
        "text.zip": (b"text", "is not a whole .zip file"),
        "text.tar": (b"text" * 200, "is not a whole .tar file"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=message):
            read(tmp_path / name)
    secret = bytearray(zipped({"a.txt": b"a"}))
    for header in (b"PK\x03\x04", b"PK\x01\x02"):  # say that it is encrypted
        secret[secret.index(header) + (6 if header == b"PK\x03\x04" else 8)] |= 1
    (tmp_path / "secret.zip").write_bytes(secret)
    with pytest.raises(InputError, match=r"secret.zip/a.txt cannot be unpacked: .*password"):
        read(tmp_path / "secret.zip")


@pytest.mark.parametrize("suffix", [*PACK, ".zip", ".tgz"])
def test_a_bomb_stops_early(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(open_file, "HARMLESS_BYTES", 1 << 18)
    monkeypatch.setattr(open_file, "BLOCK", 1 << 14)
    zeros = bytes(4 << 20)
    pack = {
        **PACK,
        ".zip": lambda data: zipped({"a.txt": data}),
        ".tgz": lambda data: gzip.compress(tarred({"a": data})),
    }
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(pack[suffix](zeros))
    taken = 0
    with pytest.raises(
        InputError, match=r"grows from [\d,]+ bytes to more than [\d,]+: it is not read further"
    ) as caught:
        for content in contents([path]):
            while data := content.stream.read(1 << 16):
                taken += len(data)
    assert taken < 2 << 20
    assert caught.value.hint == "LLM_MAX_EXPANSION=NUMBER in the environment allows more than 200 times"
    monkeypatch.setenv("LLM_MAX_EXPANSION", "1000000")
    assert sum(len(data) for _, _, data in read(path)) == len(zeros)
    monkeypatch.setenv("LLM_MAX_EXPANSION", "much")
    with pytest.raises(InputError, match=r"LLM_MAX_EXPANSION \(much\) must be a whole number"):
        read(path)


def test_a_bomb_of_many_members_is_counted_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(open_file, "HARMLESS_BYTES", 1 << 20)
    path = tmp_path / "bomb.zip"
    path.write_bytes(zipped({f"{number}.txt": bytes(1 << 20) for number in range(20)}, compresslevel=9))
    with pytest.raises(InputError, match=r"bomb\.zip/\d+\.txt grows from"):
        read(path)
