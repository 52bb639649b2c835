"""PDF files: the text that their pages show. Pages that are pictures have none."""

from __future__ import annotations

import io
import logging
import zlib
from collections.abc import Iterator

from llmcli.data.formats.row import well_formed
from llmcli.data.open_file import Content
from llmcli.errors import InputError, require

_FILE = 1 << 28  # bytes of a file inside an archive, which is read into memory
# what pypdf raises for files that are not as they should be, besides its own errors
_DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    NotImplementedError,
    RecursionError,
    EOFError,
    zlib.error,
)


def read(content: Content) -> Iterator[str]:
    """The texts of the pages. Raises InputError for a damaged file and for one that needs a password."""
    pypdf = require("pypdf", extra="files", purpose=f"reading {content.name}")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it reports each oddity that it passes over
    stream = content.stream if content.path else io.BytesIO(content.whole(_FILE))
    damage = (pypdf.errors.PyPdfError, *_DAMAGE)
    number = 0
    try:
        reader = pypdf.PdfReader(stream)
        locked = reader.is_encrypted and not reader.decrypt("")
        pages = 0 if locked else len(reader.pages)
    except damage as err:
        raise _broken(content, number, err) from err
    if locked:
        raise InputError(f"{content.name} needs a password", "save it without one")
    for number in range(1, pages + 1):
        try:
            text = reader.pages[number - 1].extract_text()
        except damage as err:
            raise _broken(content, number, err) from err
        if text.strip():
            yield well_formed(text).rstrip("\n") + "\n\n"


def _broken(content: Content, page: int, err: Exception) -> InputError:
    where = f", page {page:,}" if page else ""
    return InputError(f"{content.name}{where}: not a whole PDF file: {err or type(err).__name__}")
