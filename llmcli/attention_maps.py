"""What the texts that a run made of sources looked at, drawn: `llm generate attention=map.html`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmcli import files, ui
from llmcli.checkpoint import Loaded
from llmcli.decoding.alignment import attention_of_heads
from llmcli.decoding.base import SourceModel
from llmcli.errors import InputError
from llmcli.report.attention import Looked, attention_page, draw_attention

MOST = 50  # texts that are drawn


def check_path(name: str) -> Path:
    """The path of a page. Raises InputError for one that cannot be written."""
    path = Path(name)
    if path.suffix != ".html":
        raise InputError(f"attention={path} must end in .html", "a picture, .png, is written beside the page")
    if not path.parent.is_dir():
        raise InputError(f"attention={path}: there is no folder {path.parent}")
    return path


def check(loaded: Loaded, count: int) -> None:
    """Raises InputError for more texts than can be drawn, and for a run that reads no source: before it writes any."""
    if count > MOST:
        raise InputError(f"attention= draws at most {MOST} texts, not {count:,}", "name fewer with --prompt")
    if not isinstance(loaded.task, SourceModel):
        raise _blind(loaded)


def _blind(loaded: Loaded) -> InputError:
    return InputError(
        f"{loaded.path} is a run of a model that does not say where it looks",
        "model=seq2seq_transformer, seq2seq_rnn and seq2seq_cnn do",
    )


def write_attention(
    path: Path, loaded: Loaded, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> list[Path]:
    """Write a page at `path` and, where there is a font for it, a picture beside it; returns their paths.

    sources, targets: the ids of texts and of what the run made of each. Raises InputError for more than MOST of
    them, and for a run whose model does not say where it looks.
    """
    check(loaded, len(sources))
    task, tokenizer = loaded.task, loaded.tokenizer
    found = attention_of_heads(task, sources, targets)
    if found is None:
        raise _blind(loaded)
    heads = int(getattr(task.model, "n_heads", 1))  # of each layer
    looked = [
        Looked(
            source=[*map(tokenizer.of_sources.token, source), "end"],
            target=[*map(tokenizer.token, target)],
            weights=weights.view(-1, min(heads, len(weights)), *weights.shape[1:]).tolist(),
            mean=weights.mean(0).tolist(),
        )
        for source, target, weights in zip(sources, targets, found, strict=True)
    ]
    picture = path.with_suffix(".png")
    files.write_atomic(path, attention_page(looked, subtitle=str(loaded.path)).encode())
    if draw_attention(picture, looked):
        return [path, picture]
    ui.note("no picture: matplotlib finds no font with Chinese characters, Noto Sans CJK SC say; the page shows them")
    return [path]
