"""Pairs of a language pack, of one that is made up here, and those of the real one where it is installed."""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata

import pytest

from llmcli.data.readers.language_pack import LanguagePack
from llmcli.data.records import TextPair
from llmcli.errors import InputError

NAME = "jupyterlab-language-pack-zh-CN"
ABOUT = {"domain": "boxes", "language": "zh-CN"}
BOXES = {
    "": ABOUT,
    "Open the box": ["打开盒子"],
    "Close the box": ["关盒子"],
    "button\x04Close the box": ["关闭盒子"],
    "menu\x04Close the box": ["关闭盒子"],
    " Shut the box\n": ["关闭盒子 "],
    "%1 box": ["%1 个盒子", ""],  # and the plural: Chinese has one form for both
    "This box": ["这 %1 个盒子"],
    "Box %1 of {}": ["{} 中的盒子 %1"],
    "BoxLab": ["BoxLab"],
    "%1 (%2)": ["%1（%2）"],
    "Not yet done": [""],
}
MORE = {"": ABOUT, "Open the box": ["打开箱子"], "tip\x04Open the  Box": ["打开盒子"], "Turn it": ["转过来"]}
FORWARD = [
    TextPair("Open the box", "打开盒子"),
    TextPair("Close the box", "关闭盒子"),
    TextPair("Shut the box", "关闭盒子"),
    TextPair("%1 box", "%1 个盒子"),
    TextPair("Box %1 of {}", "{} 中的盒子 %1"),
    TextPair("Turn it", "转过来"),
]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution with these catalogues where Python looks first."""

    def installed(catalogues):
        package, about = tmp_path / "pack", tmp_path / f"{NAME.replace('-', '_')}-1.2.dist-info"
        folder = package / "locale" / "zh_CN" / "LC_MESSAGES"
        folder.mkdir(parents=True, exist_ok=True)
        about.mkdir(exist_ok=True)
        (package / "__init__.py").write_text('raise SystemExit("nobody may run this")')
        (package / "other.json").write_text("{}")
        for domain, messages in catalogues.items():
            (folder / f"{domain}.json").write_text(json.dumps(messages), encoding="utf-8")
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.2\n")
        files = [path.relative_to(tmp_path).as_posix() for path in package.rglob("*") if path.is_file()]
        (about / "RECORD").write_text("".join(f"{file},,\n" for file in files))

    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return installed


def pack(**changes):
    return LanguagePack(**{"direction": "en-zh", "val_fraction": 0.0, "test_fraction": 0.0, "seed": 0, **changes})


def test_each_message_once_with_its_most_frequent_translation(install):
    install({"boxes": BOXES, "more": MORE})
    source = pack()
    assert list(source.records("train")) == FORWARD
    assert source.splits == ("train",) and source.describe() == f"{NAME} 1.2, en-zh"
    # 14 messages: 6 pairs and these
    assert source.left_out == {
        "that stay as they are": 3,
        "with other placeholders than their translation": 1,
        "that repeat others": 4,
    }


def test_the_other_direction_has_each_chinese_message_once(install):
    install({"boxes": BOXES, "more": MORE})
    found = list(pack(direction="zh-en").records("train"))
    assert TextPair("关闭盒子", "Close the box") in found and TextPair("打开箱子", "Open the box") in found
    assert len(found) == len({record.source for record in found}) == 7


def test_splits_share_no_message_and_keep_it_when_others_come(install):
    many = {"": ABOUT, **{f"Box number {n}": [f"盒子 {n} 号"] for n in range(400)}}
    install({"many": many})
    settings = {"val_fraction": 0.2, "test_fraction": 0.1}
    before = {split: set(pack(**settings).records(split)) for split in ("train", "val", "test")}
    assert sum(map(len, before.values())) == len(set.union(*before.values())) == 400
    assert len(before["val"]) == pytest.approx(80, abs=25) and len(before["test"]) == pytest.approx(40, abs=20)
    install({"many": many, "more": MORE})
    assert all(before[split] <= set(pack(**settings).records(split)) for split in before)
    assert set(pack(**settings, seed=1).records("val")) != before["val"]


def test_the_fingerprint_follows_catalogues_and_options(install):
    install({"boxes": BOXES})
    before = pack().fingerprint()
    assert pack().fingerprint() == before
    assert pack(direction="zh-en").fingerprint() != before and pack(val_fraction=0.1).fingerprint() != before
    install({"boxes": MORE})
    assert pack().fingerprint() != before


def test_what_is_wrong_is_said(install, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # without what is installed
    with pytest.raises(InputError, match=r"^data.direction \(zh\) must be one of en-zh, zh-en$"):
        pack(direction="zh")
    source = pack()  # nothing is looked for before it is read
    with pytest.raises(InputError, match=f"^data=jupyterlab_pairs needs the package {NAME}$") as missing:
        list(source.records("train"))
    assert missing.value.hint == "pip install 'llmcli[pairs]'"
    install({})
    with pytest.raises(InputError, match=f"^{NAME} 1.2 lists no catalogues$"):
        list(pack().records("train"))


def test_prepared_by_its_name(install, llm):
    install({"boxes": BOXES, "more": MORE})
    done = llm("prepare", "data=jupyterlab_pairs", "data.test_fraction=0", "data.val_fraction=0", "tokenizer=byte")
    assert done.code == 0, done.err
    assert re.search(r"train +6 ", done.out) and "4 that repeat others" in done.err
    assert "also stand" not in done.err


def test_the_real_pack():
    try:
        metadata.version(NAME)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{NAME} is not installed")
    source = pack(val_fraction=0.1, test_fraction=0.1)
    records = [record for split in source.splits for record in source.records(split)]
    assert 2500 < len(records) < 4000  # 2,983 of version 4.5.post3
    assert len({record.source for record in records}) == len(records)
    assert sum("笔记本" in record.target for record in records) > 50  # notebooks
