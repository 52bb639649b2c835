"""Web archives (WARC): the pages that a crawler fetched, or the texts that were made of them (WET)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llmcli.data.decode import page_text
from llmcli.data.open_file import Content, translated
from llmcli.errors import InputError, require

_PAGE = 1 << 26  # bytes
_HTML = ("text/html", "application/xhtml+xml")
_PLAIN = "text/plain"


def read(content: Content, to_text: Callable[[str], str]) -> Iterator[str]:
    """The text of every page that is HTML or plain text, one at a time; what a crawler notes besides is passed over.

    to_text: from a page's HTML. A page of more than 64 MB is cut there. Raises InputError for what is no WARC.
    """
    warcio = require("warcio.archiveiterator", extra="files", purpose=f"reading {content.name}")
    failed = require("warcio.exceptions", extra="files", purpose=f"reading {content.name}").ArchiveLoadFailed
    records = None
    while True:
        try:
            with translated(content.name):
                records = records or iter(warcio.ArchiveIterator(content.stream))
                record = next(records, None)
                page = _page(record) if record is not None else None
        except (failed, LookupError, AttributeError, TypeError) as err:
            raise InputError(f"{content.name} is not a whole WARC file: {err}") from err
        if record is None:
            return
        if page is not None:
            kind, charset, data = page
            text = page_text(data, charset)
            yield to_text(text) if kind in _HTML else text


def _page(record: Any) -> tuple[str, str, bytes] | None:
    """Media type, charset ("" where none is said) and bytes of a record that is a page."""
    if record.rec_type == "response":
        header = record.http_headers.get_header("Content-Type") if record.http_headers else None
    elif record.rec_type in ("conversion", "resource"):
        header = record.rec_headers.get_header("Content-Type")
    else:
        return None
    kind, _, options = (header or "").partition(";")
    kind = kind.strip().lower()
    if kind not in (*_HTML, _PLAIN):
        return None
    charset = options.lower().partition("charset=")[2].partition(";")[0].strip(" \"'")
    return kind, charset, record.content_stream().read(_PAGE)
