"""Data sets for every kind of record, made from Python source that is on this machine already."""

from __future__ import annotations

import ast
import hashlib
import platform
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from llmcli.data.readers.python import files
from llmcli.data.source import R, Source, check_fractions, split_names
from llmcli.errors import InputError


@dataclass(frozen=True)
class Documented:
    """An object with a docstring.

    name: dotted. signature: its heading without the names of the modules and classes around it. doc: the docstring.
    """

    name: str
    node: files.Documented
    signature: str
    doc: str


@dataclass(frozen=True)
class Module:
    """A source file. package: the one of the config's packages that it belongs to. objects: those with a docstring."""

    package: str
    name: str
    file: Path
    tree: ast.Module
    objects: tuple[Documented, ...]


class PythonRecords(Source[R]):
    """Records that `examples` makes of one module at a time.

    packages: "stdlib", and packages or modules by their dotted names; one that is not installed is left out, and
    `describe` says so. max_characters: longer docstrings (or functions, where code is the text) are left out. A split
    gets whole modules, by a hash of their names. Of objects with the same docstring only the first counts, and likewise
    of records with the same inputs, so that nothing of train stands in another split.

    Raises InputError where none of the packages has source files here.
    """

    version: ClassVar[int]  # how records are made; a change makes prepared data out of date

    def __init__(
        self, *, packages: Sequence[str], max_characters: int, val_fraction: float, test_fraction: float, seed: int
    ) -> None:
        check_fractions(val_fraction, test_fraction)
        self.max_characters = max_characters
        self.val_fraction, self.test_fraction, self.seed = val_fraction, test_fraction, seed
        found = {package: files.modules(package) for package in packages}
        self.absent = [package for package, modules in found.items() if not modules]
        self._modules = {name: (package, file) for package, modules in found.items() for name, file in modules.items()}
        if not self._modules:
            raise InputError(f"none of data.packages ({', '.join(packages)}) is installed", "data.packages=[stdlib]")

    @abstractmethod
    def examples(self, module: Module) -> Iterator[R]: ...

    @property
    def splits(self) -> tuple[str, ...]:
        return split_names(self.val_fraction, self.test_fraction)

    def fingerprint(self) -> dict[str, Any]:
        content = hashlib.sha256()
        for name, (_, file) in self._modules.items():
            content.update(name.encode() + hashlib.sha256(file.read_bytes()).digest())
        return {
            "reader": f"{type(self).__module__}.{type(self).__qualname__}",
            "version": self.version,
            "python": platform.python_version(),
            "files": content.hexdigest(),
            "max_characters": self.max_characters,
            "split": [self.val_fraction, self.test_fraction, self.seed],
        }

    def describe(self) -> str:
        tops = dict.fromkeys(package.partition(".")[0] for package, _ in self._modules.values())
        versions = [f"{top} {version}" for top in tops if (version := _version(top))]
        without = f", without {', '.join(self.absent)}" if self.absent else ""
        return f"{', '.join([f'Python {platform.python_version()}', *versions])}{without}"

    def records(self, split: str) -> Iterator[R]:
        return iter(self._records[split])

    @cached_property
    def _records(self) -> dict[str, list[R]]:
        # some thousands, and parsing takes seconds while every split is read at least twice
        made: dict[str, list[R]] = {split: [] for split in self.splits}
        known: set[tuple[str, ...]] = set()
        for module in self._parsed():
            home = made[self._home(module.name)]
            for record in self.examples(module):
                if record.inputs() not in known:
                    known.add(record.inputs())
                    home.append(record)
        return made

    def _home(self, name: str) -> str:
        place = number(f"{self.seed} {name}") / 2**64
        if place < self.val_fraction:
            return "val"
        return "test" if place < self.val_fraction + self.test_fraction else "train"

    def _parsed(self) -> Iterator[Module]:
        known: set[str] = set()
        for name, (package, file) in self._modules.items():
            tree = files.parse(file)
            objects = []
            for node, dotted in files.documented(tree, name):
                doc = (ast.get_docstring(node) or "").strip()
                plain = " ".join(doc.casefold().split())
                if 0 < len(doc) <= self.max_characters and plain not in known:
                    known.add(plain)
                    objects.append(Documented(dotted, node, files.heading(node, dotted.rpartition(".")[2]), doc))
            yield Module(package, name, file, tree, tuple(objects))


def number(text: str) -> int:
    """A number below 2**64 that is drawn by the text."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _version(package: str) -> str | None:
    """The version of the distribution that brings a package; None for the standard library."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
