"""Files that were published somewhere: found in a folder of the user's, or downloaded once and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from llmcli.data.cache import cache_root
from llmcli.data.download import fetch, place
from llmcli.data.source import Report
from llmcli.errors import InputError


class PublishedFiles:
    """Where the files of each name are: under the user's path, or in the cache once they are downloaded.

    urls, sha256: of the files of each name. path: a folder that holds them under the names they have in `urls`, or the
    file where there is one; None downloads them. Raises InputError for a path that does not hold them all, and
    for `urls` and `sha256` that do not go together.
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
                self._found[key] = fetch(url, sha256, _downloads(), report)

    def missing(self) -> list[str]:
        absent = [wanted for key, wanted in self._wanted.items() if key not in self._found]
        return [url for url, sha256 in absent if not place(url, sha256, _downloads()).is_file()]

    def __getitem__(self, name: str) -> list[Path]:
        """The files of a name in the order of its URLs."""
        self.obtain(lambda stage, done, total: None)
        return [path for (each, _), path in self._found.items() if each == name]

    def _under(self, path: Path) -> dict[tuple[str, int], Path]:
        if path.is_file() and len(self._wanted) == 1:
            return dict.fromkeys(self._wanted, path)
        way_out = "data.path=null downloads the data"
        if not path.is_dir():
            what = "file or folder" if len(self._wanted) == 1 else "folder"
            raise InputError(f"data.path: there is no {what} {path}", way_out)
        found = {key: path / Path(urlsplit(url).path).name for key, (url, _) in self._wanted.items()}
        for file in found.values():
            if not file.is_file():
                raise InputError(f"data.path: the folder {path} has no {file.name}", way_out)
        return found


def _counted(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {size}" for name, size in sizes.items()) or "none"


def _downloads() -> Path:
    return cache_root() / "downloads"
