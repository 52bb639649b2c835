"""llm generate: continue prompts with a run."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

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
    loaded = checkpoint.load(path)
    if not hasattr(loaded.task, "step"):
        raise InputError(f"{path} is a {type(loaded.task).__name__} run, which does not generate text")
    kind, _ = accelerator_of(str(cfg.accelerator), 1)
    loaded.task.to(torch.device(kind))

    num_samples, as_json = int(cfg.num_samples), bool(cfg.json)
    streaming = bool(cfg.stream) and not as_json and len(prompts) * num_samples == 1
    if streaming:
        ui.begin_stream(prompts[0])
    began = time.monotonic()
    with torch.inference_mode():
        results = generate(
            loaded.task,
            loaded.tokenizer,
            prompts,
            strategy=configs.build(cfg.decoding),
            max_new_tokens=int(cfg.max_new_tokens),
            num_samples=num_samples,
            stop=texts.get("stop", []),
            seed=int(cfg.seed),
            on_text=(lambda index, piece: ui.stream(piece)) if streaming else None,
        )
    seconds = time.monotonic() - began
    tokens = sum(len(result.ids) for result in results)
    if streaming:
        ui.end_stream()
    elif as_json:
        ui.out_json({"results": [_plain(result) for result in results], "seed": int(cfg.seed), "ckpt": str(path)})
    else:
        for i, result in enumerate(results):
            if i:
                ui.out("---")
            ui.out(f"{result.prompt}{result.text}")
    ui.note(f"{tokens} tokens, {tokens / max(seconds, 1e-9):,.0f} tokens/s, seed {cfg.seed}")
    return 0


def _plain(result: Any) -> dict[str, Any]:
    return {
        "prompt": result.prompt,
        "text": result.text,
        "ids": list(result.ids),
        "logprobs": [round(value, 6) for value in result.logprobs],
        "finish_reason": result.finish_reason,
    }


def _prompts(texts: dict[str, list[str]]) -> list[str]:
    """From --prompt, else --prompt-file, else standard input (both one prompt a line), else the empty prompt."""
    if texts.get("prompt"):
        return texts["prompt"]
    if texts.get("prompt_file"):
        name = texts["prompt_file"][-1]
        try:
            lines = Path(name).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as err:
            raise InputError(f"--prompt-file {name}: {err.strerror if isinstance(err, OSError) else err}") from err
        source = name
    elif not sys.stdin.isatty():
        lines, source = sys.stdin.read().splitlines(), "standard input"
        if not lines:
            return [""]
    else:
        return [""]
    prompts = [line for line in lines if line]
    if not prompts:
        raise InputError(f"{source} holds no prompt", "one prompt a line")
    return prompts
