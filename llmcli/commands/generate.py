"""llm generate: continue prompts with a run."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Literal, cast

from omegaconf import DictConfig

from llmcli import config as configs
from llmcli import runs, ui
from llmcli.errors import InputError


def run(cfg: DictConfig, texts: dict[str, list[str]]) -> int:
    import torch

    from llmcli import checkpoint
    from llmcli.decoding.generate import generate
    from llmcli.trainer import accelerator_of, quiet_lightning

    quiet_lightning()
    configs.validate(cfg)
    prompts = _prompts(texts)
    path = runs.resolve(cfg.ckpt, "use")
    if cfg.ckpt in (None, "latest"):
        ui.say("run", str(path))
    strategy = configs.build(cfg.decoding)
    loaded = checkpoint.load(path)
    if not hasattr(loaded.task, "step"):
        raise InputError(f"{path} is a {type(loaded.task).__name__} run, which does not generate text")
    kind, _ = accelerator_of(str(cfg.accelerator), 1, key="accelerator")
    loaded.task.to(torch.device(kind))

    num_samples, as_json = int(cfg.num_samples), bool(cfg.json)
    streaming = bool(cfg.stream) and not as_json and len(prompts) * num_samples == 1
    begun = False

    def show(row: int, piece: str) -> None:
        nonlocal begun
        if not begun:  # only now is it known that the prompt can be read
            ui.begin_stream(prompts[0])
        begun = True
        ui.stream(piece)

    began = time.monotonic()
    with torch.inference_mode():
        results = generate(
            loaded.task,
            loaded.tokenizer,
            prompts,
            strategy=strategy,
            max_new_tokens=int(cfg.max_new_tokens),
            num_samples=num_samples,
            stop=texts.get("stop", []),
            seed=int(cfg.seed),
            unknown=_unknown(str(cfg.unknown)),
            on_text=show if streaming else None,
        )
    seconds = time.monotonic() - began
    tokens = sum(len(result.ids) for result in results)
    if streaming:
        if not begun:
            ui.begin_stream(prompts[0])
        ui.end_stream()
    elif as_json:
        ui.out_json({"results": [_plain(result) for result in results], "seed": int(cfg.seed), "ckpt": str(path)})
    else:
        for i, result in enumerate(results):
            if i:
                ui.out("---")
            ui.out(f"{result.prompt}{result.text}")
    if dropped := max(result.prompt_dropped for result in results):
        ui.note(f"the first {dropped:,} tokens of the prompt were not read: it is longer than the model's context")
    ui.note(f"{tokens} tokens, {tokens / max(seconds, 1e-9):,.0f} tokens/s, seed {cfg.seed}")
    return 0


def _plain(result: Any) -> dict[str, Any]:
    return {
        "prompt": result.prompt,
        "text": result.text,
        "ids": list(result.ids),
        "logprobs": [round(value, 6) for value in result.logprobs],
        "finish_reason": result.finish_reason,
        "prompt_dropped": result.prompt_dropped,
    }


def _prompts(texts: dict[str, list[str]]) -> list[str]:
    """From --prompt, else --prompt-file, else standard input (both one prompt a line), else the empty prompt."""
    if texts.get("prompt"):
        return texts["prompt"]
    if texts.get("prompt_file"):
        name = texts["prompt_file"][-1]
        try:
            content = Path(name).read_bytes()
        except OSError as err:
            raise InputError(f"--prompt-file {name}: {err.strerror}") from err
        source = f"--prompt-file {name}"
    elif not sys.stdin.isatty():
        content, source = sys.stdin.buffer.read(), "standard input"
        if not content:
            return [""]
    else:
        return [""]
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as err:
        byte = content[err.start]
        raise InputError(f"{source} is not UTF-8: byte 0x{byte:02x} at offset {err.start}") from err
    prompts = [line.removesuffix("\r") for line in lines if line.removesuffix("\r")]
    if not prompts:
        raise InputError(f"{source} holds no prompt", "one prompt a line")
    return prompts


def _unknown(choice: str) -> Literal["error", "replace"]:
    if choice not in ("error", "replace"):
        raise InputError(f"unknown must be error or replace, not {choice!r}")
    return cast(Literal["error", "replace"], choice)
