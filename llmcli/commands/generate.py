"""llm generate: continue prompts with a run, or turn sources into their targets."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from omegaconf import DictConfig

from llmcli import config as configs
from llmcli import runs, ui
from llmcli.errors import InputError
from llmcli.schema import mismatch

_LINE_BREAK = re.compile(r"\s*[\r\n]\s*")

if TYPE_CHECKING:
    from llmcli.checkpoint import Loaded
    from llmcli.decoding.codes import FromCodes
    from llmcli.decoding.constrained import Constraint
    from llmcli.decoding.generate import Found, Generation
    from llmcli.tokenizers.base import Tokenizer


def run(cfg: DictConfig, texts: dict[str, list[str]]) -> int:
    import torch

    from llmcli import attention_maps, checkpoint
    from llmcli.decoding.base import Drafting
    from llmcli.decoding.codes import CodeModel
    from llmcli.decoding.generate import generate
    from llmcli.loading import precision_of, prepare
    from llmcli.strategies import strategy_of
    from llmcli.trainer import accelerator_of, quiet_lightning

    quiet_lightning()
    configs.validate(cfg)
    precision = precision_of(cfg.precision)
    drawn = None if cfg.attention is None else attention_maps.check_path(str(cfg.attention))
    path = runs.resolve(cfg.ckpt, "use")
    if cfg.ckpt in (None, "latest"):
        ui.say("run", str(path))
    loaded = checkpoint.load(path)
    if not loaded.task.generates:
        both_ways = getattr(getattr(loaded.task, "model", None), "causal", None) is False
        raise InputError(
            f"{path} is a {type(loaded.task).__name__} run, which does not generate text"
            + (": its model reads in both directions" if both_ways else ""),
            _offers(loaded.task, cfg.ckpt or path),
        )
    if hasattr(loaded.task, "template"):
        ui.note(f"hint: llm chat ckpt={cfg.ckpt or path} talks with it")
    kind, _ = accelerator_of(str(cfg.accelerator), 1, key="accelerator")
    if remark := prepare(loaded.task, precision, kind, generating=True):
        ui.say("precision", remark)

    sources = hasattr(loaded.task, "bind")  # what comes out stands for itself and continues nothing
    coded = isinstance(loaded.task, CodeModel)  # and may come from no text
    # one text for each line, or output and input would no longer match
    prompts = texts.get("prompt") or _lines(texts, sources=sources, needed=sources and not coded)
    if drawn is not None:
        attention_maps.check(loaded, len(prompts) * int(cfg.num_samples))
    strategy = strategy_of(loaded, cfg.get("decoding"))
    constraint = _constraint(cfg.constraint, loaded.tokenizer)
    num_samples, as_json = int(cfg.num_samples), bool(cfg.json)
    from_codes = _from_codes(loaded, cfg, prompts)
    streaming = bool(cfg.stream) and not as_json and not sources and len(prompts) * num_samples == 1
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
            from_codes or loaded.task,
            loaded.tokenizer,
            prompts if from_codes is None else from_codes.prompts,
            strategy=strategy,
            max_new_tokens=int(cfg.max_new_tokens),
            num_samples=num_samples if from_codes is None else 1,
            stop=texts.get("stop", []),
            seed=int(cfg.seed),
            unknown=_unknown(str(cfg.unknown)),
            constraint=constraint,
            prefix=texts.get("prefix", [""])[-1],
            skip_blank=sources and "prompt" not in texts,
            aligned=sources and as_json,
            on_text=show if streaming else None,
        )
    if from_codes is not None:
        results = [replace(result, prompt="") for result in results]
    seconds = time.monotonic() - began
    tokens = sum(len(result.ids) for result in results)
    # what guessing tokens ahead was worth; all else takes a step for each
    steps = sum(result.steps for result in results) if isinstance(strategy, Drafting) else 0
    per_step = {"tokens_per_step": round(tokens / steps, 3)} if steps else {}
    if streaming:
        if not begun:
            ui.begin_stream(prompts[0])
        ui.end_stream()
    elif as_json:
        plain = [_plain(result, loaded.tokenizer) for result in results]
        ui.out_json({"results": plain, "seed": int(cfg.seed), "ckpt": str(path), **per_step})
    elif sources:
        for result in results:
            for text in [found.text for found in result.n_best] or [result.text]:
                ui.out(ui.printable(_LINE_BREAK.sub(" ", text)))  # a line is a text
    else:
        for i, result in enumerate(results):
            if i:
                ui.out("---")
            ui.out(f"{result.prompt}{result.text}")
    said = [result for result in results if str(result.prompt).strip()]
    if drawn is not None and said:
        forced = loaded.tokenizer.encode(texts.get("prefix", [""])[-1])
        encode = loaded.tokenizer.of_sources.encode
        pairs = [(encode(str(result.prompt)), [*forced, *result.ids]) for result in said]
        written = attention_maps.write_attention(drawn, loaded, *zip(*pairs, strict=True))
        ui.note(f"attention: {', '.join(map(str, written))}")
    if dropped := max(result.prompt_dropped for result in results):
        ui.note(f"the first {dropped:,} tokens of the prompt were not read: it is longer than the model's context")
    if constraint is not None and (open_ended := sum(result.finish_reason == "length" for result in results)):
        ui.warn(f"{open_ended} of {len(results)} texts reached max_new_tokens before their rule let them end")
    guessed = "".join(f", {each:.1f} tokens per step of the model" for each in per_step.values())
    ui.note(f"{tokens} tokens, {tokens / max(seconds, 1e-9):,.0f} tokens/s{guessed}, seed {cfg.seed}")
    return 0


def _from_codes(loaded: Loaded, cfg: DictConfig, prompts: Sequence[str]) -> FromCodes | None:
    """Texts that no text is read for: between two prompts, or drawn where there is none; None: all else."""
    from llmcli.decoding.codes import CodeModel, between, drawn
    from llmcli.decoding.generate import encode_prompt

    task, steps = loaded.task, cfg.interpolate
    if wrong := mismatch(steps, int | None):
        raise InputError(f"interpolate: {wrong}")
    if not isinstance(task, CodeModel):
        if steps is not None:
            raise InputError(
                f"interpolate={steps} goes from the code of one text to that of another; {loaded.path} is a "
                f"{type(task).__name__} run, which has none",
                "llm train model=vae learns codes",
            )
        return None
    if steps is not None:
        unknown = _unknown(str(cfg.unknown))
        return between(task, [encode_prompt(loaded.tokenizer, each, unknown) for each in prompts if each], steps)
    return drawn(task, int(cfg.num_samples), seed=int(cfg.seed)) if prompts == [""] else None


def _constraint(cfg: DictConfig, tokenizer: Tokenizer) -> Constraint | None:
    from llmcli.decoding.constrained import Constraint

    asked = configs.resolved(cfg)
    if all(value is None or value == [] for value in asked.values()):
        return None
    for name in ("choices", "banned"):
        if asked[name] is not None and not isinstance(asked[name], list):
            raise InputError(f"constraint.{name} ({asked[name]}) must be a list", f"'constraint.{name}=[yes,no]'")
        asked[name] = asked[name] and [str(each) for each in asked[name]]  # an override reads 1 as a number
    return Constraint(
        tokenizer,
        choices=asked["choices"],
        pattern=None if asked["pattern"] is None else str(asked["pattern"]),
        schema=None if asked["schema"] is None else _schema(Path(str(asked["schema"]))),
        banned=asked["banned"] or (),
    )


def _schema(path: Path) -> dict[str, Any]:
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise InputError(f"constraint.schema={path}: {err.strerror}") from err
    except ValueError as err:  # no UTF-8, no JSON
        raise InputError(f"constraint.schema={path} is no JSON: {err}") from err
    if not isinstance(schema, dict):
        raise InputError(f"constraint.schema={path} holds no JSON object, which a schema is")
    return schema


def _plain(result: Generation, tokenizer: Tokenizer) -> dict[str, Any]:
    plain = {"prompt": result.prompt, **_text(result, tokenizer), "prompt_dropped": result.prompt_dropped}
    if result.alignment:
        reader = tokenizer.of_sources
        source = reader.encode(str(result.prompt))
        plain["alignment"] = [
            {"source": each.source, "token": reader.token(source[each.source]), "weight": round(each.weight, 4)}
            for each in result.alignment
        ]
    if result.n_best:
        plain["n_best"] = [{**_text(found, tokenizer), "score": round(found.score, 6)} for found in result.n_best]
    return plain


def _text(result: Generation | Found, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "text": result.text,
        "ids": list(result.ids),
        "tokens": [tokenizer.token(index) for index in result.ids],
        "logprobs": [round(value, 6) for value in result.logprobs],
        "finish_reason": result.finish_reason,
    }


def _offers(task: Any, ckpt: str | Path) -> str:
    """What a run that generates nothing is good for."""
    if hasattr(task, "predict"):
        return f"llm predict ckpt={ckpt} answers with it"
    if hasattr(task, "vectors"):
        return f"llm export ckpt={ckpt} to=vectors.txt writes its word vectors"
    return f"llm eval ckpt={ckpt} scores it"


def _lines(texts: dict[str, list[str]], *, sources: bool, needed: bool) -> list[str]:
    """From --prompt-file, else standard input (both one prompt a line), else the empty prompt.

    sources: each line is one, also one without text; else those are left out. needed: there must be one.
    """
    if texts.get("prompt_file"):
        name = texts["prompt_file"][-1]
        try:
            content = Path(name).read_bytes()
        except OSError as err:
            raise InputError(f"--prompt-file {name}: {err.strerror}") from err
        source = f"--prompt-file {name}"
    elif not sys.stdin.isatty():
        content, source = sys.stdin.buffer.read(), "standard input"
        if not content and not needed:
            return [""]
    elif needed:
        raise InputError("there is no source", "--prompt TEXT, --prompt-file FILE, or standard input")
    else:
        return [""]
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        byte = content[err.start]
        raise InputError(f"{source} is not UTF-8: byte 0x{byte:02x} at offset {err.start}") from err
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
    prompts = [line for line in lines if line or sources]
    if not prompts:
        raise InputError(f"{source} holds no prompt", "one prompt a line")
    return prompts


def _unknown(choice: str) -> Literal["error", "replace"]:
    if choice not in ("error", "replace"):
        raise InputError(f"unknown must be error or replace, not {choice!r}")
    return cast(Literal["error", "replace"], choice)
