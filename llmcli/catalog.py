"""What the config folders offer, read as text: help and completion must not wait for Hydra (standard library only).

The YAML read here is the shape that this project writes: one key a line, nested by indentation, a comment behind a key
being its meaning and the first line of a file being the meaning of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z_][\w-]*):(?:\s+(?P<value>.*))?$")
_PACKAGE = re.compile(r"# @package (?!_)(\S+)")  # where the keys of a file stand, other than below its group
_INCLUDED = re.compile(r"^\s*-\s+([\w-]+)\s*$")
_DEFAULT = re.compile(r"^\s*-\s+(?:optional\s+)?(?P<group>[\w/]+):\s*(?P<option>[\w-]+|\[\])\s*(?:#.*)?$")
_QUOTED_OR_COMMENT = re.compile(r"""^((?:"[^"]*"|'[^']*'|[^"'#]|(?<=\S)#)*)(?:#\s?(.*))?$""")
_HIDDEN = ("defaults", "hydra", "facts")  # root sections that are not the user's to set


def config_dir() -> Path:
    """The folder of this package's YAML: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


@dataclass(frozen=True)
class Key:
    """One key of a YAML file: dotted name, default as written, meaning."""

    name: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Option:
    """One YAML file of a group."""

    name: str
    meaning: str
    path: Path


class Catalog:
    """The groups, options and keys below config folders, of which the first that has a file wins."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = [folder for folder in folders if folder.is_dir()]

    def groups(self) -> list[str]:
        names = {
            child.name
            for folder in self.folders
            for child in folder.iterdir()
            if child.is_dir() and child.name not in _HIDDEN and any(child.glob("*.yaml"))
        }
        return sorted(names)

    def options(self, group: str) -> list[Option]:
        found: dict[str, Option] = {}
        for folder in self.folders:
            for path in sorted((folder / group).glob("*.yaml")):
                found.setdefault(path.stem, Option(path.stem, meaning(path), path))
        return [found[name] for name in sorted(found)]

    def roots(self, name: str) -> list[Path]:
        """The file of a root config and those that it is made of (`- train` in its defaults)."""
        path = next((found for folder in self.folders if (found := folder / f"{name}.yaml").is_file()), None)
        if path is None:
            return []
        matches = filter(None, map(_INCLUDED.match, _lines(path)))
        included = [match[1] for match in matches if match[1] != "_self_"]
        return [path, *(each for other in included for each in self.roots(other))]

    def defaults(self, root: str) -> dict[str, str]:
        """Group -> option of a root config, in its order ("null" where there is none)."""
        lines = [line for path in self.roots(root) for line in _lines(path)]
        return {found["group"]: found["option"] for line in lines if (found := _DEFAULT.match(line))}

    def root_keys(self, root: str) -> list[Key]:
        """The keys of a root config itself, without its groups."""
        found = [key for path in self.roots(root) for key in keys(path)]
        return [key for key in found if key.name.partition(".")[0] not in _HIDDEN]

    def group_keys(self, group: str, option: str) -> list[Key]:
        path = next((each.path for each in self.options(group) if each.name == option), None)
        if path is None:
            return []
        section = next((found[1] for line in _lines(path) if (found := _PACKAGE.match(line))), group)
        return [Key(f"{section}.{key.name}", key.default, key.meaning) for key in keys(path)]


def meaning(path: Path) -> str:
    """The comment on the first line of a file, "" where there is none; Hydra's `# @package` line stands before it."""
    first = next((line for line in _lines(path) if not line.startswith("# @package")), "")
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def keys(path: Path) -> list[Key]:
    """The keys of one file that a user may set, nested ones dotted; not Hydra's own (`_target_`, `defaults`)."""
    found: list[Key] = []
    parents: list[tuple[int, str]] = []
    for line in _lines(path):
        match = _KEY.match(line.rstrip())
        if match is None:
            continue
        indent, name = len(match["indent"]), match["key"]
        while parents and parents[-1][0] >= indent:
            parents.pop()
        dotted = ".".join([*(parent for _, parent in parents), name])
        value, comment = _split_comment(match["value"] or "")
        parents.append((indent, name))
        if dotted.split(".")[0] != "defaults" and not name.startswith("_"):
            found.append(Key(dotted, value, comment))
    sections = {".".join(key.name.split(".")[:-1]) for key in found}
    return [key for key in found if key.default or key.name not in sections]


def _split_comment(text: str) -> tuple[str, str]:
    match = _QUOTED_OR_COMMENT.match(text)
    if match is None:
        return text.strip(), ""
    return match[1].strip(), (match[2] or "").strip()


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n")
