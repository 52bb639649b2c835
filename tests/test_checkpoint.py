"""Checkpoints are whole, written atomically, and never run code."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli import checkpoint, files, runs
from llmcli.errors import CheckpointError, LLMError

TINY = ["model=transformer", "model.n_heads=2", "model.ngram_rows=[64]"]


@pytest.fixture
def run(llm, small, tmp_path) -> Path:
    folder = tmp_path / "run"
    assert llm("train", *small, *TINY, f"hydra.run.dir={folder}").code == 0
    return folder


def _rewrite(path: Path, change) -> Path:
    content = torch.load(path, weights_only=True)
    change(content)
    changed = path.with_name("changed.ckpt")
    torch.save(content, changed)
    return changed


def test_a_checkpoint_alone_generates_and_evaluates(run, llm, tmp_path):
    alone = tmp_path / "elsewhere" / "model.ckpt"
    alone.parent.mkdir()
    (run / "checkpoints" / "best.ckpt").rename(alone)
    for path in sorted(run.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    result = llm("generate", f"ckpt={alone}", "--prompt", "the cat", "max_new_tokens=5")
    assert result.code == 0
    assert result.out.startswith("the cat")
    assert llm("eval", f"ckpt={alone}", "--json").code == 0


def test_only_plain_containers_and_tensors(run):
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["llm"]["config"]["model"]["vocab_size"] == 272
    assert set(content["llm"]) >= {"format", "config", "tokenizer", "data", "seed", "versions", "tokens_seen"}

    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return type(value).__name__ in ("dict", "OrderedDict") and all(map(plain, value.values()))
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, float, bool, bytes) or isinstance(value, torch.Tensor)

    assert plain(content)


class _Harmful:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, llm):
    mark = tmp_path / "was-run"
    hostile = tmp_path / "hostile.ckpt"
    torch.save({"llm": {"format": 1}, "state_dict": {}, "x": _Harmful(mark)}, hostile)
    result = llm("eval", f"ckpt={hostile}")
    assert result.code == 2
    assert "would run code" in result.err
    hostile.write_bytes(pickle.dumps(_Harmful(mark)))
    assert llm("generate", f"ckpt={hostile}", "--prompt", "x").code == 2
    assert not mark.exists()


@pytest.mark.parametrize("part", ["model", "task", "batch"])
def test_foreign_targets_are_refused(run, llm, part):
    def poison(content):
        content["llm"]["config"][part]["_target_"] = "os.system"

    changed = _rewrite(run / "checkpoints" / "best.ckpt", poison)
    result = llm("eval", f"ckpt={changed}")
    assert result.code == 2
    assert "os.system" in result.err


def test_resume_refuses_foreign_targets_too(run, llm):
    def poison(content):
        content["llm"]["config"]["callbacks"]["samples"]["_target_"] = "os.system"

    changed = _rewrite(run / "checkpoints" / "last.ckpt", poison)
    changed.replace(run / "checkpoints" / "last.ckpt")
    result = llm("train", f"resume={run}", "trainer.max_steps=14")
    assert result.code == 2
    assert "os.system" in result.err


def test_truncated_and_foreign_files(run, llm, tmp_path):
    good = (run / "checkpoints" / "best.ckpt").read_bytes()
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(good[: len(good) // 2])
    assert "truncated or not a checkpoint" in llm("eval", f"ckpt={cut}").err
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {"w": torch.ones(2)}}, foreign)
    result = llm("eval", f"ckpt={foreign}")
    assert result.code == 2
    assert "is not a checkpoint of llm" in result.err


@pytest.mark.parametrize("content", [b"", b"ab", b"\x80\x02", b"PK", b"PK\x03\x04" + b"x" * 100])
def test_a_file_that_is_no_archive_is_no_checkpoint(llm, tmp_path, content):
    path = tmp_path / "short.ckpt"
    path.write_bytes(content)
    result = llm("generate", f"ckpt={path}", "--prompt", "x")
    assert result.code == 2
    assert "truncated or not a checkpoint" in result.err and "run code" not in result.err


@pytest.mark.parametrize("part", ["config", "tokenizer", "data"])
def test_a_checkpoint_without_one_of_its_parts_is_refused(run, llm, part):
    changed = _rewrite(run / "checkpoints" / "best.ckpt", lambda content: content["llm"].pop(part))
    for arguments in (["generate", f"ckpt={changed}", "--prompt", "x"], ["eval", f"ckpt={changed}"]):
        result = llm(*arguments)
        assert result.code == 2
        assert f"is not a whole checkpoint: it lacks {part}" in result.err
    bare = _rewrite(run / "checkpoints" / "best.ckpt", lambda content: content.update(llm={"format": 1}))
    assert "is not a whole checkpoint: it lacks config" in llm("eval", f"ckpt={bare}").err


@pytest.mark.parametrize("section", ["model", "facts", "data"])
def test_a_config_without_one_of_its_sections_is_refused(run, section):
    changed = _rewrite(run / "checkpoints" / "best.ckpt", lambda content: content["llm"]["config"].pop(section))
    with pytest.raises(CheckpointError, match=f"it lacks config.{section}"):
        checkpoint.read(changed)


def test_another_format_version_says_which(run):
    def older(content):
        content["llm"]["format"] = 99

    with pytest.raises(CheckpointError, match="format 99, this llm"):
        checkpoint.read(_rewrite(run / "checkpoints" / "best.ckpt", older))


def test_weights_of_another_model_do_not_fit(run):
    def wider(content):
        content["llm"]["config"]["model"]["d_model"] = 32

    with pytest.raises(CheckpointError, match="do not fit the model"):
        checkpoint.load(_rewrite(run / "checkpoints" / "best.ckpt", wider))


def test_a_tokenizer_of_another_run_is_noticed(run, llm, small, tmp_path):
    other = tmp_path / "other"
    assert llm("train", *small, *TINY, "tokenizer=char", f"hydra.run.dir={other}").code == 0
    theirs = torch.load(other / "checkpoints" / "best.ckpt", weights_only=True)["llm"]["tokenizer"]

    def swap(content):
        content["llm"]["tokenizer"] = theirs

    with pytest.raises(CheckpointError, match="its tokenizer has 39 ids and its model 272"):
        checkpoint.load(_rewrite(run / "checkpoints" / "best.ckpt", swap))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    """torch.save wraps the error of a disk that is really full in one of its own."""
    path = tmp_path / "last.ckpt"
    checkpoint.save({"step": 1}, path)
    written = torch.save

    def to_a_full_device(content, file):
        with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123
            written(content, full)

    monkeypatch.setattr(torch, "save", to_a_full_device)
    with pytest.raises(LLMError, match=f"cannot write {path}: No space left on device"):
        checkpoint.save({"step": torch.zeros(100_000)}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_ends_training_with_code_1_and_keeps_the_run(llm, small, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    written = torch.save

    def full_after_the_first(content, file):
        if any((folder / "checkpoints").glob("*.ckpt")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(content, file)

    monkeypatch.setattr(torch, "save", full_after_the_first)
    result = llm("train", *small, *TINY, f"hydra.run.dir={folder}")
    assert result.code == 1
    assert "No space left on device" in result.err
    assert files.read_json(folder / "status.json")["state"] == "failed"
    assert checkpoint.load(runs.resolve(str(folder), "use")).task is not None


def test_what_ckpt_means(run, tmp_path):
    assert runs.resolve(str(run), "use").name == "best.ckpt"
    assert runs.resolve(str(run), "resume").name == "last.ckpt"
    assert runs.resolve(str(run / "checkpoints" / "last.ckpt"), "use").name == "last.ckpt"
    assert runs.resolve(None, "use", root=tmp_path) == run / "checkpoints" / "best.ckpt"
    assert runs.resolve("latest", "use", root=tmp_path) == run / "checkpoints" / "best.ckpt"
    with pytest.raises(CheckpointError, match="there is no run or checkpoint nowhere"):
        runs.resolve("nowhere", "use")
    with pytest.raises(CheckpointError, match="there is no run with a checkpoint"):
        runs.resolve(None, "use", root=tmp_path / "empty")


def test_python_api(run):
    loaded = llmcli.load(run)
    [first] = loaded.generate("the dog", max_new_tokens=6, temperature=0)
    [again] = llmcli.load(run).generate("the dog", max_new_tokens=6, temperature=0)
    assert first.text == again.text
    figures = loaded.evaluate()
    assert figures["perplexity"] == pytest.approx(2.718281828 ** figures["loss"], rel=1e-6)
