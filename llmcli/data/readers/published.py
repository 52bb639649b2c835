"""Published corpora: found at a path of the user's, or downloaded once and checked."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from llmcli.data.cache import cache_root, sha256_file
from llmcli.data.download import fetch, place
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
        self._files = _Files(path, {"text": url}, {"text": sha256})

    @property
    def splits(self) -> tuple[str, ...]:
        return split_names(self.val_fraction, self.test_fraction)

    def obtain(self, report: Report) -> None:
        self._files.obtain(report)

    def missing(self) -> list[str]:
        return self._files.missing()

    def fingerprint(self) -> dict[str, Any]:
        file = sha256_file(self._files["text"])
        return {"reader": "single_text", "file": file, "split": [self.val_fraction, self.test_fraction]}

    def describe(self) -> str:
        return self._files.origin

    def records(self, split: str) -> Iterator[Text]:
        file = self._files["text"]
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
        self._files = _Files(path, urls, sha256)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._files.urls)

    def obtain(self, report: Report) -> None:
        self._files.obtain(report)

    def missing(self) -> list[str]:
        return self._files.missing()

    def fingerprint(self) -> dict[str, Any]:
        files = {split: sha256_file(self._files[split]) for split in self.splits}
        return {"reader": "split_files", "files": files, "document": self.document}

    def describe(self) -> str:
        return self._files.origin

    def records(self, split: str) -> Iterator[Text]:
        text = _utf8(self._files[split])
        if self.document == "file":
            return pieces(text)
        joint = "" if self.eos else "\n"
        return (Text(piece.text + joint) if piece.end else piece for piece in parts(text, LINE))


class _Files:
    """Where each named file is: under the user's path, or in the cache once it is downloaded."""

    def __init__(self, path: str | None, urls: dict[str, str], sha256: dict[str, str]) -> None:
        self.urls, self.sha256 = urls, sha256
        self._path = None if path is None else Path(path).expanduser()
        self._found = {} if self._path is None else _under(self._path, urls)

    @property
    def origin(self) -> str:
        """The last folder of where the files come from."""
        return (self._path or Path(urlsplit(next(iter(self.urls.values()))).path).parent).name

    def obtain(self, report: Report) -> None:
        for name, url in self.urls.items():
            if name not in self._found:
                self._found[name] = fetch(url, self.sha256[name], _downloads(), report)

    def missing(self) -> list[str]:
        absent = [(name, url) for name, url in self.urls.items() if name not in self._found]
        return [url for name, url in absent if not place(url, self.sha256[name], _downloads()).is_file()]

    def __getitem__(self, name: str) -> Path:
        self.obtain(lambda stage, done, total: None)
        return self._found[name]


def _downloads() -> Path:
    return cache_root() / "downloads"


def _under(path: Path, urls: dict[str, str]) -> dict[str, Path]:
    if path.is_file() and len(urls) == 1:
        return dict.fromkeys(urls, path)
    if not path.is_dir():
        what = "file or folder" if len(urls) == 1 else "folder"
        raise InputError(f"data.path: there is no {what} {path}", "data.path=null downloads the data")
    found = {name: path / Path(urlsplit(url).path).name for name, url in urls.items()}
    for file in found.values():
        if not file.is_file():
            raise InputError(f"data.path: the folder {path} has no {file.name}", "data.path=null downloads the data")
    return found
