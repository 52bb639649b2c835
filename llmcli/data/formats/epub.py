"""EPUB books: zip archives of web pages, read in the order of the book."""

from __future__ import annotations

import io
import posixpath
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any
from urllib.parse import unquote
from xml.etree import ElementTree

from llmcli.data.decode import page_text
from llmcli.data.open_file import Content, Meter, translated
from llmcli.errors import InputError

_BOOK = 1 << 28  # bytes of a book inside an archive, which is read into memory
_PAGE = 1 << 26  # bytes of a chapter
_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_PAGE_TYPES = ("application/xhtml+xml", "text/html")


def read(content: Content, to_text: Callable[[str], str]) -> Iterator[str]:
    """The texts of the chapters. to_text: from a page's HTML. Raises InputError for what is no book or is locked."""
    stream: IO[bytes] = content.stream if content.path else io.BytesIO(content.whole(_BOOK))
    with translated(content.name):
        book = _Book(zipfile.ZipFile(stream), Meter.of_size(content.name, stream.seek(0, io.SEEK_END)))
    for name in book.chapters():
        if text := to_text(page_text(book.bytes_of(name))):
            yield text.rstrip("\n") + "\n\n"


class _Book:
    def __init__(self, archive: zipfile.ZipFile, meter: Meter) -> None:
        self.archive, self.meter = archive, meter

    def chapters(self) -> list[str]:
        """The names of the pages, in their order, each once."""
        package = next((each.get("full-path") for each in self._xml(_CONTAINER, "rootfile")), None)
        if not package:
            raise InputError(f"{self.meter.name} is no EPUB: {_CONTAINER} names no package")
        folder = posixpath.dirname(package)
        pages = {
            item.get("id"): posixpath.normpath(posixpath.join(folder, unquote(item.get("href") or "")))
            for item in self._xml(package, "item")
            if item.get("media-type") in _PAGE_TYPES
        }
        order = dict.fromkeys(
            pages[ref] for each in self._xml(package, "itemref") if (ref := each.get("idref")) in pages
        )
        locked = {unquote(each.get("URI") or "") for each in self._locked()}
        if locked & order.keys():
            raise InputError(f"{self.meter.name} is encrypted", "only books without copy protection can be read")
        return [*order]

    def bytes_of(self, name: str) -> bytes:
        with translated(self.meter.name):
            try:
                data = self.archive.open(name).read(_PAGE + 1)
            except KeyError as err:
                raise InputError(f"{self.meter.name} is no whole EPUB: it lacks {name}") from err
        self.meter.count(len(data))
        if len(data) > _PAGE:
            raise InputError(f"{self.meter.name}: {name} has more than {_PAGE:,} bytes")
        return data

    def _locked(self) -> list[Any]:
        return self._xml(_ENCRYPTION, "CipherReference") if _ENCRYPTION in self.archive.namelist() else []

    def _xml(self, name: str, tag: str) -> list[Any]:
        """The elements called `tag`, whatever their namespace."""
        try:
            tree = ElementTree.fromstring(self.bytes_of(name))
        except (ElementTree.ParseError, ValueError, LookupError) as err:  # also for an encoding that it does not know
            if isinstance(err, InputError):
                raise
            raise InputError(f"{self.meter.name} is no whole EPUB: {name}: {err}") from err
        return [element for element in tree.iter() if str(element.tag).rpartition("}")[2] == tag]
