"""Text of the user's own: files of text, tables, web pages and books, in folders and archives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from llmcli.data.cleaning import Cleaning
from llmcli.data.decode import AUTO, check_encoding, encodings, read_as, text_of
from llmcli.data.find_files import find, identity
from llmcli.data.formats import columnar, epub, json_lines, json_list, pdf, warc
from llmcli.data.formats.row import Row, well_formed
from llmcli.data.open_file import Content, contents, is_archive, kind, members, real_file
from llmcli.data.reader import Flaw
from llmcli.data.readers.stream import LINE, paragraphs, parts, pieces
from llmcli.data.records import Text
from llmcli.data.source import TextSource, check_fractions, deal, plain_size, split_names, stretch, tail_bounds
from llmcli.errors import InputError
from llmcli.text.normalize import unify_newlines

HTML = (".html", ".htm", ".xhtml")
RECORDS = (".jsonl", ".ndjson", ".json", ".parquet", ".pq", ".arrow", ".feather")
CRAWLS = (".warc", ".wet")
_PAGE = 1 << 26  # characters of a web page, which is parsed as a whole

# with fewer files than this, a hash may leave a small split without any document
FEW_FILES = 100


class TextFiles(TextSource):
    """Documents from the user's files, in the order of their names.

    path: a file, a folder or an archive (read with their sub-folders) or a glob. What a file is, its name says: an HTML
    page, a book in EPUB, a PDF, a crawl in WARC or WET, a list of records (JSON lines, JSON, Parquet, Arrow), else
    plain text. encoding: of plain text, JSON and HTML; "auto" finds it out for each file. key: the field of a record
    that holds the text, or a list of its lines. document: what is one document of a file; a record and a page of a
    crawl always are. page: from HTML to text. split: "document" deals whole documents by a hash, "position" takes val
    and test from the end of the text, "auto" is "position" for a few whole files.

    Raises InputError for a path with nothing to read, unknown options, and text that cannot be decoded or parsed.
    """

    def __init__(
        self,
        *,
        path: str | None,
        encoding: str,
        errors: Literal["strict", "replace"],
        key: str,
        document: Literal["file", "line", "paragraph"],
        page: Callable[[str], str],
        split: Literal["auto", "document", "position"],
        val_fraction: float,
        test_fraction: float,
        seed: int,
        eos: bool,
    ) -> None:
        super().__init__(eos=eos)
        check_fractions(val_fraction, test_fraction)
        for name, value, known in (
            ("errors", errors, ("strict", "replace")),
            ("document", document, ("file", "line", "paragraph")),
            ("split", split, ("auto", "document", "position")),
        ):
            if value not in known:
                raise InputError(f"data.{name} ({value}) must be one of {', '.join(known)}")
        check_encoding(encoding, "data.encoding")
        if path is None:
            raise InputError(
                "data=text needs to know which text", "data.path=FILE, data.path=FOLDER or data.path='*.txt'"
            )
        self.files = find(path)
        self.encoding, self.errors, self.key, self.document, self.page = encoding, errors, key, document, page
        self.val_fraction, self.test_fraction, self.seed = val_fraction, test_fraction, seed
        if split == "auto":
            split = "position" if document == "file" and self._few_documents() else "document"
        self.split = split
        self._characters: int | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        return split_names(self.val_fraction, self.test_fraction)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "reader": "text",
            "files": [identity(file) for file in self.files],
            "encoding": self.encoding,
            "errors": self.errors,
            "key": self.key,
            "document": self.document,
            "page": Cleaning({"page": self.page}).key(),
            "split": [self.split, self.val_fraction, self.test_fraction, self.seed],
        }

    def size(self, split: str) -> int | None:
        size = plain_size(self.files) if all(file.is_file() for file in self.files) else None
        others = {"val": self.val_fraction, "test": self.test_fraction}
        return None if size is None else round(size * others.get(split, 1 - sum(others.values())))

    def describe(self) -> str:
        origin = self.files[0].name if len(self.files) == 1 else f"{len(self.files):,} files"
        return origin + (read_as(self.files) if self.encoding == AUTO else "")

    def records(self, split: str) -> Iterator[Text]:
        if self.split == "document":
            fractions = {"val_fraction": self.val_fraction, "test_fraction": self.test_fraction}
            return deal(self._all(), split, seed=self.seed, **fractions)
        if self._characters is None:
            self._characters = sum(len(piece.text) for piece in self._all())
        return stretch(self._all(), *tail_bounds(self._characters, self.val_fraction, self.test_fraction)[split])

    def _few_documents(self) -> bool:
        names: list[str] = []
        for file in self.files:
            names += members(file) if is_archive(file) and not real_file(file)[1] else [file.name]
            if len(names) >= FEW_FILES:
                return False
        return not any(kind(name)[0] in (*RECORDS, *CRAWLS) for name in names)

    def _all(self) -> Iterator[Text]:
        found = encodings(self.files) if self.encoding == AUTO else {}
        for content in contents(self.files):
            encoding = found.get(content.name, self.encoding)
            if content.suffix in RECORDS:
                for row in self._rows(content, encoding):
                    yield from pieces([unify_newlines(self._field(row))])
            elif content.suffix in CRAWLS:
                for page in warc.read(content, self.page):
                    yield from pieces([unify_newlines(page)])
            else:
                text = self._text(content, encoding)
                yield from pieces(text) if self.document == "file" else self._parts(text)

    def _text(self, content: Content, encoding: str) -> Iterable[str]:
        """The text of what is one document, in blocks."""
        if content.suffix in HTML:
            page = ""
            for block in text_of(content, encoding=encoding, errors=self.errors):
                page += block
                if len(page) > _PAGE:
                    raise InputError(f"{content.name} has more than {_PAGE:,} characters, too many for one web page")
            return [self.page(page)]
        if content.suffix == ".epub":
            return epub.read(content, self.page)
        if content.suffix == ".pdf":
            return pdf.read(content)
        return text_of(content, encoding=encoding, errors=self.errors)

    def _parts(self, text: Iterable[str]) -> Iterator[Text]:
        cut = parts(text, LINE) if self.document == "line" else paragraphs(text)
        # the end-of-text token stands for the separator; without one the text keeps it
        joint = "" if self.eos else "\n" if self.document == "line" else "\n\n"
        beginning = True
        for piece in cut:
            if not (beginning and piece.end and not piece.text.strip()):
                yield Text(piece.text + joint) if piece.end else piece
            beginning = piece.end

    def _rows(self, content: Content, encoding: str) -> Iterator[Row]:
        rows: Iterator[Row | Flaw]
        if content.suffix in (".parquet", ".pq"):
            rows = columnar.read_parquet(content)
        elif content.suffix in (".arrow", ".feather"):
            rows = columnar.read_arrow(content)
        else:
            blocks = text_of(content, encoding=encoding, errors=self.errors)
            is_list = content.suffix == ".json"
            rows = json_list.read(blocks, content.name, root=None) if is_list else json_lines.read(blocks, content.name)
        for row in rows:
            if isinstance(row, Flaw):
                raise InputError(f"{row.where}: {row.what}")
            yield row

    def _field(self, row: Row) -> str:
        if self.key not in row.values:
            have = ", ".join(row.values) or "none"
            raise InputError(
                f'{row.where}: no field "{self.key}"; the fields are: {have}', "data.key=FIELD chooses one"
            )
        value = row.values[self.key]
        if isinstance(value, list) and all(isinstance(line, str) for line in value):
            value = "\n".join(value)
        if not isinstance(value, str):
            raise InputError(f'{row.where}: field "{self.key}" must be text, not {str(value)[:40]}')
        return well_formed(value)
