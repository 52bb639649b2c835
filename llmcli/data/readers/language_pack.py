"""Translations that are on this machine once a package of them is installed: JupyterLab's Chinese language pack."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from llmcli.data.dealing import DealtRecords
from llmcli.data.records import TextPair
from llmcli.errors import InputError

Direction = Literal["en-zh", "zh-en"]

_PACK = "jupyterlab-language-pack-zh-CN"
_VERSION = 1  # how records are made; a change makes prepared data out of date
_CONTEXT = "\x04"  # gettext puts what a message is about before it, and this between
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_SLOT = re.compile(r"%\d+|\{\w*\}")  # what the program fills in: %1, {}


class LanguagePack(DealtRecords):
    """The messages of JupyterLab and its extensions in English and in Chinese, each message once.

    direction: "en-zh" or "zh-en". Messages that differ in white space and case alone are the same, and a message with
    several translations has the one that is given most often. Left out are messages that stay as they are (names,
    mostly) and those with other placeholders than their translation, like the singular of what Chinese says with a
    number; the rest keep theirs as they stand. The catalogues are read as files: nothing of the package is imported.

    Raises InputError when read without the package.
    """

    record = TextPair

    def __init__(self, *, direction: Direction, val_fraction: float, test_fraction: float, seed: int) -> None:
        if direction not in get_args(Direction):
            raise InputError(f"data.direction ({direction}) must be one of {', '.join(get_args(Direction))}")
        super().__init__(
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            stratify=False,
            seed=seed,
            flaws="error",
            unseen_labels="error",
        )
        self.direction = direction

    @property
    def own_splits(self) -> tuple[str, ...]:
        return ("train",)

    def read(self, own_split: str) -> Iterator[TextPair]:
        return iter(self._pairs)

    @property
    def left_out(self) -> dict[str, int]:
        return {reason: count for reason, count in self._counted.items() if count}

    def fingerprint(self) -> dict[str, Any]:
        content = hashlib.sha256()
        for file in self._catalogues:
            content.update(hashlib.sha256(file.read_bytes()).digest())
        return {
            "reader": f"{type(self).__module__}.{type(self).__qualname__}",
            "version": _VERSION,
            "files": content.hexdigest(),
            "direction": self.direction,
            **self.dealing(),
        }

    def describe(self) -> str:
        return f"{_PACK} {self._installed.version}, {self.direction}"

    @cached_property
    def _installed(self) -> metadata.Distribution:
        try:
            return metadata.distribution(_PACK)
        except metadata.PackageNotFoundError as err:
            raise InputError(f"data=jupyterlab_pairs needs the package {_PACK}", "pip install 'llmcli[pairs]'") from err

    @cached_property
    def _catalogues(self) -> list[Path]:
        listed = [
            file for file in self._installed.files or () if file.suffix == ".json" and "LC_MESSAGES" in file.parts
        ]
        if not listed:
            raise InputError(
                f"{_PACK} {self._installed.version} lists no catalogues", f"pip install --force-reinstall {_PACK}"
            )
        return [Path(str(file.locate())) for file in sorted(listed)]

    @cached_property
    def _pairs(self) -> list[TextPair]:
        spelled: dict[str, str] = {}
        given: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for english, chinese in self._kept:
            source, target = (english, chinese) if self.direction == "en-zh" else (chinese, english)
            given[spelled.setdefault("".join(source.casefold().split()), source)][target] += 1
        return [TextPair(source, targets.most_common(1)[0][0]) for source, targets in given.items()]

    @cached_property
    def _kept(self) -> list[tuple[str, str]]:
        return [message for message in self._messages if _reason(*message) is None]

    @cached_property
    def _counted(self) -> Counter[str]:
        """How many messages are left out for which reason, and repeat others."""
        reasons = Counter(reason for message in self._messages if (reason := _reason(*message)))
        reasons["that repeat others"] = len(self._kept) - len(self._pairs)
        return reasons

    @cached_property
    def _messages(self) -> list[tuple[str, str]]:
        """English and Chinese, in the order of the catalogues."""
        return [message for file in self._catalogues for message in _messages(file)]


def _messages(file: Path) -> Iterator[tuple[str, str]]:
    """A catalogue: {"": what it is, "context\\x04message": [its translation, that of its plural, ...], ...}."""
    for key, translations in json.loads(file.read_text("utf-8")).items():
        if key:
            yield key.rpartition(_CONTEXT)[2].strip(), translations[0].strip()


def _reason(english: str, chinese: str) -> str | None:
    """Why a message is left out; None: it is not."""
    if english == chinese or not _HAN.search(chinese):
        return "that stay as they are"
    if sorted(_SLOT.findall(english)) != sorted(_SLOT.findall(chinese)):
        return "with other placeholders than their translation"
    return None
