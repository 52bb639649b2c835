"""Published corpora: found at a path of the user's, or downloaded once and checked."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

from llmcli.data.cache import sha256_file
from llmcli.data.published_files import PublishedFiles
from llmcli.data.readers.stream import LINE, blocks, parts, pieces
from llmcli.data.records import Text
from llmcli.data.source import Report, TextSource, check_fractions, split_names, stretch, tail_bounds
from llmcli.errors import InputError

_utf8 = partial(blocks, encoding="utf-8", errors="strict")


class SingleText(TextSource):
    """One published text, of which the last characters are val and test.

    path: the file, or a folder that holds it under the name it has in `url`; None downloads it.
    Raises InputError for a path that is not there.
    """

    def __init__(
        self,
        *,
        path: str | None,
        url: str,
        sha256: str,
        val_fraction: float,
        test_fraction: float,
        eos: bool,
    ) -> None:
        super().__init__(eos=eos)
        check_fractions(val_fraction, test_fraction)
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self._files = PublishedFiles(path=path, urls={"text": [url]}, sha256={"text": [sha256]})

    @property
    def splits(self) -> tuple[str, ...]:
        return split_names(self.val_fraction, self.test_fraction)

    def obtain(self, report: Report) -> None:
        self._files.obtain(report)

    def missing(self) -> list[str]:
        return self._files.missing()

    def fingerprint(self) -> dict[str, Any]:
        file = sha256_file(self._files["text"][0])
        return {"reader": "single_text", "file": file, "split": [self.val_fraction, self.test_fraction]}

    def describe(self) -> str:
        return self._files.origin

    def records(self, split: str) -> Iterator[Text]:
        file = self._files["text"][0]
        bounds = tail_bounds(sum(map(len, _utf8(file))), self.val_fraction, self.test_fraction)
        return stretch(pieces(_utf8(file)), *bounds[split])


class SplitFiles(TextSource):
    """A published corpus with a file for each split.

    path: a folder that holds the files under the names they have in `urls`; None downloads them. document: "line" makes
    every line one, empty lines too, whose newline the end-of-text token stands for.
    Raises InputError for a path that is not there and for `urls` and `sha256` with different splits.
    """

    def __init__(
        self,
        *,
        path: str | None,
        urls: dict[str, str],
        sha256: dict[str, str],
        document: Literal["file", "line"],
        eos: bool,
    ) -> None:
        super().__init__(eos=eos)
        if "train" not in urls or urls.keys() != sha256.keys():
            raise InputError(
                f"data.urls ({', '.join(urls)}) and data.sha256 ({', '.join(sha256)}) must name the same splits, "
                "train among them"
            )
        if document not in ("file", "line"):
            raise InputError(f"data.document ({document}) must be one of file, line")
        self.document = document
        one_each = ({split: [value] for split, value in given.items()} for given in (urls, sha256))
        self._files = PublishedFiles(path=path, urls=next(one_each), sha256=next(one_each))

    @property
    def splits(self) -> tuple[str, ...]:
        return self._files.names

    def obtain(self, report: Report) -> None:
        self._files.obtain(report)

    def missing(self) -> list[str]:
        return self._files.missing()

    def fingerprint(self) -> dict[str, Any]:
        files = {split: sha256_file(self._files[split][0]) for split in self.splits}
        return {"reader": "split_files", "files": files, "document": self.document}

    def describe(self) -> str:
        return self._files.origin

    def records(self, split: str) -> Iterator[Text]:
        text = _utf8(self._files[split][0])
        if self.document == "file":
            return pieces(text)
        joint = "" if self.eos else "\n"
        return (Text(piece.text + joint) if piece.end else piece for piece in parts(text, LINE))
