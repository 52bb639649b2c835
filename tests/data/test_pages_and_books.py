"""Web pages, books, PDF files and crawls as text of the user's own."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pypdf
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from llmcli.data.decode import page_text
from llmcli.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"
PAGE = "<html><head><title>no</title></head><body><p>One &amp; <b>two</b><p>{}</body></html>"
BOOK = """<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf"><manifest>
<item id="a" href="text/b.xhtml" media-type="application/xhtml+xml"/><item id="s" href="s.css" media-type="text/css"/>
<item id="b" href="text/a%20b.xhtml" media-type="application/xhtml+xml"/></manifest>
<spine><itemref idref="a"/><itemref idref="s"/><itemref idref="b"/><itemref idref="a"/></spine></package>"""
CONTAINER = """<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>"""
LOCK = '<encryption><CipherReference URI="OPS/text/b.xhtml"/></encryption>'


def epub(**changes):
    files = {
        "META-INF/container.xml": CONTAINER,
        "OPS/book.opf": BOOK,
        "OPS/text/b.xhtml": PAGE.format("chapter 1"),
        "OPS/text/a b.xhtml": PAGE.format("chapter 2"),
        **changes,
    }
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, text in files.items():
            if text:
                archive.writestr(name, text)
    return held.getvalue()


def pdf(*pages, password=None):
    writer = pypdf.PdfWriter()
    for text in pages:
        page = writer.add_blank_page(200, 200)
        content = DecodedStreamObject()
        content.set_data(f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode())
        font = DictionaryObject(
            {
                NameObject(key): NameObject(value)
                for key, value in (("/Type", "/Font"), ("/Subtype", "/Type1"), ("/BaseFont", "/Helvetica"))
            }
        )
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        page[NameObject("/Contents")] = writer._add_object(content)
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    held = io.BytesIO()
    writer.write(held)
    return held.getvalue()


def warc(*pages, kind="response"):
    records = []
    for header, data in pages:
        body = b"HTTP/1.0 200 OK\r\nContent-Type: %s\r\n\r\n" % header.encode() + data if kind == "response" else data
        about = "application/http; msgtype=response" if kind == "response" else header
        target = f"WARC-Type: {kind}\r\nWARC-Target-URI: http://example.org/"
        head = f"WARC/1.0\r\n{target}\r\nContent-Type: {about}\r\nContent-Length: {len(body)}\r\n\r\n"
        records.append(head.encode() + body + b"\r\n\r\n")
    return b"".join(records)


@pytest.fixture
def texts(tmp_path, text_files):
    def read(name, data, **changes):
        (tmp_path / name).write_bytes(data)
        source = text_files(tmp_path / name, **changes)
        found = [""]
        for piece in source.records("train"):
            found[-1] += piece.text
            if piece.end:
                found.append("")
        return found[:-1]

    return read


@pytest.mark.parametrize("name", ["a.html", "a.HTM", "a.xhtml.gz"])
def test_pages(texts, name):
    data = PAGE.format("three").encode()
    assert texts(name, gzip.compress(data) if name.endswith(".gz") else data) == ["One & two\n\nthree"]
    assert texts("b.html", data, document="paragraph") == ["One & two", "three"]


def test_a_folder_of_pages_in_several_encodings(texts, tmp_path, text_files):
    texts("a.html", PAGE.format("这本书的价格是一百元。").encode("gb18030"), encoding="auto")
    texts("b.html", PAGE.format("três").encode("utf-8"))
    source = text_files(tmp_path / "*.html", encoding="auto")
    assert "".join(piece.text for piece in source.records("train")).count("One & two") == 2
    assert source.describe() == "2 files, read as gb18030"


def test_books_are_read_in_their_order_and_chapters_once(texts):
    text = "One & two\n\nchapter 1\n\nOne & two\n\nchapter 2\n\n"
    assert texts("a.epub", epub()) == [text]
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("books/a.epub", epub())
    assert texts("a.zip", held.getvalue()) == [text]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"META-INF/container.xml": ""}, r"is no whole EPUB: it lacks META-INF/container\.xml"),
        ({"META-INF/container.xml": "<a/>"}, r"is no EPUB: META-INF/container\.xml names no package"),
        ({"OPS/book.opf": "<a"}, r"is no whole EPUB: OPS/book\.opf: unclosed token"),
        ({"OPS/text/b.xhtml": ""}, r"is no whole EPUB: it lacks OPS/text/b\.xhtml"),
        ({"META-INF/encryption.xml": LOCK}, "a.epub is encrypted"),
    ],
)
def test_books_that_cannot_be_read(texts, changes, message):
    with pytest.raises(InputError, match=message):
        texts("a.epub", epub(**changes))


def test_pdf_pages(texts):
    assert texts("a.pdf", pdf("first page", "", "second page")) == ["first page\n\nsecond page\n\n"]
    with pytest.raises(InputError, match=r"a\.pdf needs a password"):
        texts("a.pdf", pdf("secret", password="x"))


def test_crawls(texts):
    pages = [
        ("text/html; charset=gb18030", PAGE.format("这本书的价格是一百元").encode("gb18030")),
        ("image/png", b"\x89PNG"),
        ("text/plain", b"a robot's\r\ntext"),
        ("TEXT/HTML", PAGE.format("three").encode()),
    ]
    expected = ["One & two\n\n这本书的价格是一百元", "a robot's\ntext", "One & two\n\nthree"]
    assert texts("a.warc", warc(*pages)) == texts("a.warc.gz", gzip.compress(warc(*pages))) == expected
    assert texts("a.warc.wet.gz", gzip.compress(warc(("text/plain", b"words"), kind="conversion"))) == ["words"]
    with pytest.raises(InputError, match=r"a\.warc is not a whole WARC file"):
        texts("a.warc", b"some text\n" * 100)


def test_lists_of_records(texts, tmp_path):
    assert texts("a.json", b'[{"text": "one"}, {"text": ["two", "lines"]}]') == ["one", "two\nlines"]
    pyarrow.parquet.write_table(pyarrow.table({"body": ["one", "two"]}), tmp_path / "b.parquet")
    assert texts("a.parquet", (tmp_path / "b.parquet").read_bytes(), key="body") == ["one", "two"]
    with pytest.raises(InputError, match=r'a\.parquet, row 1: no field "text"; the fields are: body'):
        texts("a.parquet", (tmp_path / "b.parquet").read_bytes())


def test_the_encoding_of_a_page():
    assert page_text("é".encode()) == page_text("é".encode("latin-1"), "iso-8859-1") == "é"
    assert page_text('<meta charset="koi8-r">да'.encode("koi8-r")).endswith("да")
    assert page_text("é".encode("latin-1"), "base64") == page_text("é".encode("latin-1"), "nonsense") == "é"
    assert page_text("这本书的价格".encode("gb18030")) == "这本书的价格"


def test_the_settings_for_pages_are_those_of_the_cleaning_step():
    step, reader = (
        yaml.safe_load((CONFIGS / name).read_text("utf-8")) for name in ("clean/html.yaml", "data/text.yaml")
    )
    assert reader["page"] == step


SUFFIXES = (".html", ".epub", ".pdf", ".warc", ".wet", ".parquet", ".json", ".jsonl", ".txt", ".zip")
WHOLE = {".epub": epub(), ".pdf": pdf("some text", "more"), ".warc": warc(("text/html", b"<p>a"))}


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_bytes_are_text_or_an_error(tmp_path, texts, data):
    suffix = data.draw(st.sampled_from(SUFFIXES))
    content = data.draw(st.binary(max_size=80))
    if suffix in WHOLE and data.draw(st.booleans()):
        changed = bytearray(WHOLE[suffix])
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 20))] = content
        content = bytes(changed)
    try:
        found = texts(f"a{suffix}", content, encoding=data.draw(st.sampled_from(["utf-8", "auto"])))
    except InputError as err:
        assert f"a{suffix}" in str(err)
    else:
        assert all(text.encode() for text in found)
