"""Encodings that are found out, and lines."""

from __future__ import annotations

import gzip
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.data import decode, open_file
from llmcli.data.decode import check_encoding, encodings, lines, text_of
from llmcli.data.open_file import contents
from llmcli.errors import InputError

# sentences of this file's own
TEXTS = {
    "utf-8": "naïve café, 价格是一百元\n",
    "gb18030": "这本书的价格是一百元，你可以在网上买到。\n",
    "big5": "這是一個簡單的中文文本，用來測試編碼檢測，價格是一百元。\n" * 3,
    "shift_jis": "これは日本語の文章です。エンコーディングを確認するためのテストです。\n" * 3,
    "euc-jp": "これは日本語の文章です。エンコーディングを確認するためのテストです。\n" * 3,
    "euc-kr": "이것은 한국어 텍스트입니다. 인코딩 감지를 테스트합니다.\n" * 3,
    "cp1251": "Это простой текст на русском языке, чтобы проверить распознавание.\n" * 3,
    "koi8-r": "Это простой текст на русском языке, чтобы проверить распознавание.\n" * 3,
    "latin-1": "Le café est très bon, la crème brûlée aussi; voilà où nous étions hier.\n",
    "cp1252": "It costs 5 € – “quite a lot”.\n",
    "utf-16": "any text, 任何文字\n",
    "utf-32": "any text, 任何文字\n",
    "utf-16-le": "plain text without a mark\n",
    "utf-16-be": "plain text without a mark\n",
}


def read(path, encoding):
    return "".join(text for content in contents([path]) for text in text_of(content, encoding=encoding))


@pytest.mark.parametrize("encoding", TEXTS)
@pytest.mark.parametrize("before", ["", "id,text,label\n" * 200])
@pytest.mark.parametrize("block", [64, 1 << 20])
def test_an_encoding_is_found_out(tmp_path, monkeypatch, encoding, before, block):
    monkeypatch.setattr(open_file, "BLOCK", block)
    text = before + TEXTS[encoding]
    path = tmp_path / f"{block}{len(before)}.txt"
    path.write_bytes(text.encode(encoding))
    found = encodings([path])
    assert found == {str(path): encoding}
    assert read(path, found[str(path)]) == text


def test_utf8_is_what_every_byte_agrees_to(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "b.txt").write_bytes("ends in half a character €".encode()[:-1])
    assert list(encodings([tmp_path / "a.txt", tmp_path / "b.txt"]).values()) == ["utf-8", "cp1252"]


def test_an_encoding_is_found_out_again_when_the_file_changes(tmp_path):
    path = tmp_path / "a.txt.gz"
    for number, encoding in enumerate(("latin-1", "utf-8")):
        path.write_bytes(gzip.compress(TEXTS["latin-1"].encode(encoding)))
        os.utime(path, (number, number))
        assert list(encodings([path]).values()) == [encoding]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_have_an_encoding_or_an_error(tmp_path, data):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    decode._encodings.cache_clear()
    try:
        read(path, encodings([path])[str(path)])
    except InputError as err:
        assert str(err).startswith(f"{path} is not ")


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab\n", max_size=8)), st.integers(1, 9))
def test_lines_are_those_of_the_whole_and_none_is_long(blocks, limit):
    whole = "".join(blocks).split("\n")
    assert list(lines(blocks, limit)) == [line[: limit + 1] for line in whole[: None if whole[-1] else -1]]


def test_names_of_encodings():
    for name in ("utf-8", "auto", "GBK", "latin1"):
        check_encoding(name, "data.encoding")
    for name in ("utf-9", "base64", "rot13", ""):
        with pytest.raises(InputError, match=f"data.reader.encoding: there is no encoding called {name}"):
            check_encoding(name, "data.reader.encoding")
