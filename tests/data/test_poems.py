from __future__ import annotations

import json
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.data.readers.poems import Poems
from llmcli.errors import InputError


def poems(path, **changes):
    options = {
        "names": "poet.*.json",
        "notes": False,
        "val_fraction": 0.0,
        "test_fraction": 0.0,
        "seed": 0,
        "eos": True,
    }
    return Poems(**{"path": str(path), "urls": [], "sha256": [], **options, **changes})


@pytest.fixture
def folder(tmp_path):
    def write(*paragraphs, name="poet.1.json"):
        path = tmp_path / "set" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps([{"title": "一", "paragraphs": each} for each in paragraphs]), encoding="utf-8")
        return path.parent

    return write


def texts(source, split="train"):
    return [piece.text for piece in source.records(split)]


def test_notes_go_and_lines_stay(folder):
    place = folder(["山（一作水）高。", "月明。〖一〗"], ["（甲（乙", "丙）丁）"], [], ["《山》[月]（"])
    assert texts(poems(place)) == ["山高。\n月明。\n", "《山》[月]（\n"]
    assert texts(poems(place, notes=True))[0] == "山（一作水）高。\n月明。〖一〗\n"
    assert poems(place).fingerprint() != poems(place, notes=True).fingerprint()


def test_names_choose_files_in_folders_and_archives(folder, tmp_path):
    place = folder(["山"])
    folder(["水"], name="about.json")
    with tarfile.open(tmp_path / "all.tar.xz", "w:xz") as archive:
        archive.add(place, "set")
    assert texts(poems(place)) == texts(poems(tmp_path / "all.tar.xz")) == ["山\n"]
    assert texts(poems(place, names="*.json")) == ["水\n", "山\n"]
    with pytest.raises(InputError, match=r"^data.path: there are no files called song.\*$"):
        texts(poems(place, names="song.*"))


def test_splits_are_dealt_by_poem(folder):
    place = folder(*([f"{chr(0x4E00 + number)}。"] for number in range(200)))
    source = poems(place, val_fraction=0.2)
    parts = [texts(source, split) for split in ("train", "val")]
    assert sorted([*parts[0], *parts[1]]) == sorted(texts(poems(place))) and 20 < len(parts[1]) < 60


def test_what_is_no_poem(folder):
    place = folder("山")
    with pytest.raises(InputError, match=r'record 1: a poem must be an object with its lines in a list "paragraphs"$'):
        texts(poems(place))


QUICK = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(st.lists(st.text(st.sampled_from("（）〖〗山水\n")), max_size=4))
def test_no_whole_note_is_left(folder, lines):
    found = "".join(texts(poems(folder(lines))))
    depth_of = {"（": "）", "〖": "〗"}
    for opening, closing in depth_of.items():
        start = found.find(opening)
        inner = found[start + 1 :] if start >= 0 else ""
        end = inner.find(closing)
        assert start < 0 or end < 0 or opening in inner[:end] or set("（）〖〗") & set(inner[:end])


@QUICK
@given(st.binary(max_size=60))
def test_any_bytes_give_poems_or_an_error(folder, data):
    place = folder([])
    (place / "poet.1.json").write_bytes(data)
    try:
        texts(poems(place))
    except InputError as err:
        assert "poet.1.json" in str(err)
