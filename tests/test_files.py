"""Files are there whole or not at all, whatever ends the writing."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from llmcli import files
from llmcli.seeds import mix


def test_bytes_or_a_function_that_writes(tmp_path):
    path = tmp_path / "made" / "on the way.bin"
    files.write_atomic(path, b"one")
    assert path.read_bytes() == b"one"
    files.write_atomic(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt(), RuntimeError("half way")]
)
def test_a_failure_is_raised_as_it_is_and_costs_nothing(tmp_path, failure):
    path = tmp_path / "last.ckpt"
    files.write_atomic(path, b"good")

    def fails_half_way(file):
        file.write(b"x" * 100_000)
        raise failure

    with pytest.raises(type(failure)) as caught:
        files.write_atomic(path, fails_half_way)
    assert caught.value is failure
    assert path.read_bytes() == b"good"
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_rename_that_fails_leaves_nothing_beside(tmp_path):
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        files.write_atomic(tmp_path / "taken", b"a file cannot replace a folder")
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_atomic(tmp_path / "shared", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o640


def test_only_what_must_last_waits_for_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    files.write_atomic(tmp_path / "status", b"", sync=False)
    assert not synced
    files.write_atomic(tmp_path / "weights", b"")
    assert len(synced) == (2 if os.name == "posix" else 1)  # the file, and the folder that names it


def test_no_folder_is_opened_where_that_is_impossible(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "name", "nt")
    monkeypatch.setattr(files.os, "open", lambda *_: pytest.fail("opened a folder"))
    files.sync_folder(tmp_path)


def test_json(tmp_path):
    path = tmp_path / "status.json"
    assert files.read_json(path) == {}
    files.write_json(path, {"text": "grün", "lone": "\udce9", "number": 1.5})
    assert files.read_json(path)["text"] == "grün" and files.read_json(path)["number"] == 1.5


@pytest.mark.parametrize("content", [b"", b'{"half', b"[1, 2]", b"\xff\xfe\xff"])
def test_what_is_no_object_reads_as_empty(tmp_path, content):
    path = tmp_path / "status.json"
    path.write_bytes(content)
    assert files.read_json(path) == {}


def test_seeds_are_a_function_of_their_parts():
    assert mix(1, "windows", 3) == 1336179972721304445
    assert len({mix(seed, "windows", epoch) for seed in range(30) for epoch in range(30)}) == 900
    assert mix(1, 23) != mix(12, 3)
