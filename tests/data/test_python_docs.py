from __future__ import annotations

import platform
import sysconfig

import pytest

from llmcli.data.readers.python_docs import PythonDocs
from llmcli.errors import InputError

MODULE = '''"""A module\\'s docstring."""
raise SystemExit("nobody may run this")


class Box(dict, metaclass=type):
    """Holds things."""

    def put(self, thing: str, *, at: int = 0) -> None:
        """Put a thing in.

        Like this:
            box.put(1)
        """

    async def wait(self):
        """Wait."""

    def silent(self):
        pass
'''


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small standard library instead of the real one."""
    files = {
        "box.py": MODULE,
        "copy_of_box.py": MODULE.replace("class Box", "class Box2"),
        "shop/__init__.py": '"""A package."""\n',
        "test/test_box.py": '"""Not a text to learn from."""\n',
        "pydoc_data/topics.py": "topics = {'assert': 'The assert statement\\n', 'again': 'The assert statement'}\n",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def make(**changes):
    settings = {"val_fraction": 0.0, "test_fraction": 0.0, "seed": 0, "eos": True}
    return PythonDocs(**{**settings, **changes})


def test_documents_are_topics_and_docstrings_under_their_signatures(library):
    assert [piece.text for piece in make().records("train")] == [
        "The assert statement\n",
        "module box\n\nA module's docstring.\n",
        "class box.Box(dict)\n\nHolds things.\n",
        "def box.Box.put(self, thing: str, *, at: int=0) -> None\n\nPut a thing in.\n\nLike this:\n    box.put(1)\n",
        "async def box.Box.wait(self)\n\nWait.\n",
        "module copy_of_box\n\nA module's docstring.\n",
        "class copy_of_box.Box2(dict)\n\nHolds things.\n",
        "def copy_of_box.Box2.put(self, thing: str, *, at: int=0) -> None\n\n"
        "Put a thing in.\n\nLike this:\n    box.put(1)\n",
        "async def copy_of_box.Box2.wait(self)\n\nWait.\n",
        "module shop\n\nA package.\n",
    ]


def test_a_library_without_the_language_reference_gives_the_docstrings(library):
    whole = make().fingerprint()
    (library / "pydoc_data" / "topics.py").unlink()
    assert len(list(make().records("train"))) == 9
    assert make().describe().endswith(", without the language reference")
    assert make().fingerprint() != whole


def test_the_fingerprint_follows_the_sources(library):
    before = make().fingerprint()
    assert make().fingerprint() == before and before["python"] == platform.python_version()
    assert make(seed=1).fingerprint() != before
    (library / "box.py").write_text('"""Another."""\n', encoding="utf-8")
    assert make().fingerprint() != before


def test_a_library_without_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(InputError, match="has no source files to read"):
        make()


def test_the_library_of_this_python():
    source = make(val_fraction=0.1)
    train, val = ([piece.text for piece in source.records(split)] for split in ("train", "val"))
    assert sum(map(len, train + val)) > 1_500_000
    assert len({*train, *val}) == len(train) + len(val) > 5_000
    assert len(val) / len(train + val) == pytest.approx(0.1, abs=0.02)
    assert any(text.startswith("def json.dumps(obj, *, skipkeys=False") for text in train + val)
    assert not any(text.startswith(("module test.", "module idlelib")) for text in train + val)
