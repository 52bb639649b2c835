"""What a command imports before it begins, and Ctrl-C in the middle of it."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmcli.cli import COMMANDS
from llmcli.imports import in_one_go

ENV = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
# what one command or option needs, beside what Lightning imports of its own accord
LATER = (
    "sklearn", "seqeval", "nltk", "sacrebleu", "tensorboard", "transformers", "matplotlib", "scipy", "pyarrow",
    "gensim", "ftfy", "opencc", "rjieba", "pypinyin", "selectolax", "symspellpy", "py3langid", "rensa", "datasketch",
    "llguidance", "datasets", "warcio", "pypdf", "zstandard", "pandas",
)  # fmt: skip


def print_stopping() -> None:
    sys.stderr.write("stopping …\n")


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=ENV)


def test_training_and_generating_import_nothing_that_only_others_need():
    done = _run(
        "import sys, torch, pytorch_lightning; before = set(sys.modules)\n"
        "import llmcli.commands.generate, llmcli.commands.train, llmcli.assembly, llmcli.report.summary\n"
        "import llmcli.checkpoint, llmcli.decoding.generate, llmcli.models.transformer\n"
        "import llmcli.tasks.language_modeling\n"
        f"found = {{name.partition('.')[0] for name in set(sys.modules) - before}} & set({LATER})\n"
        "print(sorted(found))"
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


# stops itself in the middle of torch, where an `except` of the package may take it for something else
INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch.nn":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from llmcli.cli import main
sys.exit(main(["generate", "--prompt", "a"]))
"""


def test_ctrl_c_amid_the_imports_is_one_line_and_130():
    done = _run(INTERRUPTED)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopping …\n")


@pytest.fixture
def no_torch(monkeypatch):
    """As in a process that has not imported it."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    yield
    gc.unfreeze()


def test_imports_are_not_searched_for_garbage(no_torch):
    frozen = gc.get_freeze_count()
    with in_one_go(print_stopping):
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > frozen


def test_a_failed_import_leaves_all_as_it_was(no_torch):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ImportError, match="no such module"), in_one_go(print_stopping):
        raise ImportError("no such module")
    assert gc.isenabled() and signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_waits_for_the_end_and_a_second_one_does_not(no_torch, capsys):
    done = []
    with pytest.raises(KeyboardInterrupt), in_one_go(print_stopping):
        signal.raise_signal(signal.SIGINT)
        done.append("first")
    with pytest.raises(KeyboardInterrupt), in_one_go(print_stopping):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("second")
    assert done == ["first"] and capsys.readouterr().err == "stopping …\n" * 2


def test_with_torch_there_nothing_is_done(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", sys)
    with in_one_go(print_stopping):
        assert gc.isenabled()


def test_commands_name_modules_that_exist():
    root = Path(__file__).resolve().parents[1]
    for command in COMMANDS.values():
        assert all((root / f"{name.replace('.', '/')}.py").is_file() for name in command.imports)


# Ctrl-C as the first step begins, or before, when the signal still is Python's own
PRESSED = """
import signal
import pytorch_lightning as pl


class Pressed(pl.Callback):
    def __init__(self, *, hook: str) -> None:
        setattr(self, hook, lambda *given, **named: signal.raise_signal(signal.SIGINT))
"""


@pytest.mark.parametrize("hook", ["setup", "on_train_batch_start"])
def test_ctrl_c_before_or_amid_the_first_step(llm, small, tmp_path, monkeypatch, hook):
    (tmp_path / "pressed.py").write_text(PRESSED, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    tiny = ["model.n_heads=2", "model.ngram_rows=[64]", "+callbacks.pressed._target_=pressed.Pressed"]
    try:
        code = llm("train", *small, *tiny, f"+callbacks.pressed.hook={hook}", f"hydra.run.dir={tmp_path / 'run'}").code
    except SystemExit as left:
        code = left.code
    assert code == 130
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "interrupted"
