"""Files that were published somewhere: found in a folder of the user's, or downloaded once and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

from llmcli.data.cache import cache_root
from llmcli.data.download import fetch, place
from llmcli.data.open_file import is_archive
from llmcli.data.source import Report
from llmcli.errors import InputError

_WAY_OUT = "data.path=null downloads the data"


class PublishedFiles:
    """Where the files of each name are: under the user's path, or in the cache once they are downloaded.

    urls, sha256: of the files of each name. What follows a # in a URL is the member of the archive that is meant, or
    another name that a copy of the file may have. path: a folder that holds the files under the names they have in
    `urls`; the file or the archive, where all come from one; None downloads them. Raises InputError for a path that
    does not hold them all, and for `urls` and `sha256` that do not go together.
    """

    def __init__(
        self, *, path: str | None, urls: Mapping[str, Sequence[str]], sha256: Mapping[str, Sequence[str]]
    ) -> None:
        sizes = [{name: len(each) for name, each in given.items()} for given in (urls, sha256)]
        if sizes[0] != sizes[1]:
            raise InputError(
                f"data.urls ({_counted(sizes[0])}) and data.sha256 ({_counted(sizes[1])}) must name the same files"
            )
        self.names = tuple(urls)
        self._wanted = {
            (name, index): (url, sha256[name][index]) for name in urls for index, url in enumerate(urls[name])
        }
        self._path = None if path is None else Path(path).expanduser()
        self._found = {} if self._path is None else self._under(self._path)

    @property
    def origin(self) -> str:
        """The last folder of where the files come from."""
        first = next(iter(self._wanted.values()))[0]
        return (self._path or Path(urlsplit(first).path).parent).name

    def obtain(self, report: Report) -> None:
        for key, (url, sha256) in self._wanted.items():
            if key not in self._found:
                self._found[key] = _inside(fetch(_file(url), sha256, _downloads(), report), url)

    def missing(self) -> list[str]:
        absent = [wanted for key, wanted in self._wanted.items() if key not in self._found]
        return [_file(url) for url, sha256 in absent if not place(_file(url), sha256, _downloads()).is_file()]

    def __getitem__(self, name: str) -> list[Path]:
        """The files of a name in the order of its URLs."""
        self.obtain(lambda stage, done, total: None)
        return [path for (each, _), path in self._found.items() if each == name]

    def _under(self, path: Path) -> dict[tuple[str, int], Path]:
        one_file = len({_file(url) for url, _ in self._wanted.values()}) == 1
        if path.is_file() and one_file:
            return {key: _inside(path, url) for key, (url, _) in self._wanted.items()}
        if not path.is_dir():
            raise InputError(f"data.path: there is no {'file or folder' if one_file else 'folder'} {path}", _WAY_OUT)
        return {key: _copy(path, url) for key, (url, _) in self._wanted.items()}


def _copy(folder: Path, url: str) -> Path:
    """The file of a URL in a folder, by its own name or the one that the URL gives it; of an archive the member."""
    name, inside = Path(urlsplit(url).path).name, urlsplit(url).fragment
    names = list(dict.fromkeys([inside, Path(inside).name, name] if inside else [name]))
    for each in names:
        if (folder / each).is_file():
            return _inside(folder / each, url) if each == name else folder / each
    raise InputError(f"data.path: the folder {folder} has no {' or '.join(names)}", _WAY_OUT)


def _inside(file: Path, url: str) -> Path:
    """The member of an archive that a URL names; the file itself where it names none."""
    inside = urlsplit(url).fragment
    return file / inside if inside and is_archive(file) else file


def _file(url: str) -> str:
    return urldefrag(url).url


def _counted(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {size}" for name, size in sizes.items()) or "none"


def _downloads() -> Path:
    return cache_root() / "downloads"
