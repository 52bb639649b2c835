"""llm export: write what a run has learned for other programs: word vectors."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from llmcli import runs, ui
from llmcli.errors import InputError


def run(cfg: DictConfig, texts: dict[str, list[str]]) -> int:
    from llmcli import checkpoint, vectors
    from llmcli.trainer import quiet_lightning

    quiet_lightning()
    if cfg.to is None:
        raise InputError("to is not set: the file to write", "llm export to=vectors.txt")
    path, target = runs.resolve(cfg.ckpt, "use"), Path(str(cfg.to))
    if cfg.ckpt in (None, "latest"):
        ui.say("run", str(path))
    loaded = checkpoint.load(path)
    if not hasattr(loaded.task, "vectors"):
        raise InputError(f"{path} is a {type(loaded.task).__name__} run, which has no word vectors to export")
    form = cfg.format or ("word2vec_binary" if ".bin" in target.suffixes else "word2vec")
    words, matrix = loaded.task.vectors(loaded.tokenizer)
    written = vectors.write(target, words, matrix.numpy(), form)
    figures = {"path": str(target), "format": form, "words": written, "dimensions": matrix.size(1)}
    if cfg.json:
        ui.out_json(figures)
    else:
        ui.note(f"{written:,} vectors of {matrix.size(1)} dimensions in {target} ({form})")
    if left := len(words) - written:
        ui.note(f"{left:,} words that hold white space are left out: the formats cannot have them")
    return 0
