"""llm bench: figures that follow from each other and from counts by hand, a complete JSON, clean errors."""

from __future__ import annotations

import itertools
import json
import math
from contextlib import nullcontext

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmcli import assembly, config, loading
from llmcli.bench import (
    beside,
    ceilings,
    flops,
    generation,
    measuring,
    preparing,
    starting,
    synthetic,
    tables,
    training,
)
from llmcli.commands import bench
from llmcli.errors import InputError
from llmcli.trainer import quiet_lightning

TINY = [
    "model.d_model=16",
    "model.n_layers=1",
    "model.n_heads=2",
    "batch.size=2",
    "batch.seq_len=16",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
]
TRANSFORMER = ["model.ngram_rows=[64]", *TINY]
MEDIAN = ("median", "min", "max")


class Ticks:
    """A clock that is one second further each time it is read."""

    def __init__(self) -> None:
        self.read = itertools.count()

    def __call__(self) -> float:
        return float(next(self.read))


@pytest.fixture(autouse=True)
def _small_ceilings(monkeypatch):
    """Rates that say nothing of the machine, in no time."""
    monkeypatch.setattr(ceilings, "SECONDS", 0.005)
    monkeypatch.setattr(ceilings, "MATRIX", {"cpu": 64})
    monkeypatch.setattr(ceilings, "MEMORY", {"cpu": 2**16})


@pytest.fixture
def parts_of(tmp_path):
    quiet_lightning()

    def build(*overrides, vocab_size=48):
        cfg = config.capture("train", list(overrides))
        return synthetic.parts(cfg, config.launch().choices, tmp_path, vocab_size=vocab_size)

    return build


# -- counts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=transformer", "model.ngram_rows=[64]"],
        ["model=transformer", "model.ngram_rows=[]", "model.tie_embeddings=true", "model.activation=swiglu"],
        ["model=transformer", "model.n_kv_heads=1", "model.n_layers=2"],
        ["model=gpt2"],
        ["model=mlp"],
    ],
    ids=lambda each: " ".join(each),
)
def test_operations_are_those_that_torch_counts(parts_of, overrides):
    size, length = 2, 16
    own = [each.partition("=")[0] for each in overrides]
    tiny = [each for each in TINY if each.partition("=")[0] not in own]
    if "model=mlp" in overrides:
        tiny = [each for each in tiny if not each.startswith("model.")]
    parts = parts_of(*overrides, *tiny)
    batch = next(iter(parts.data.train_dataloader()))
    with FlopCounterMode(display=False) as counted:
        parts.task._step(batch, "train").loss.backward()
    tokens = size * length
    assert flops.of_step(parts.task, tokens=tokens, targets=tokens, seq_len=length) == counted.get_total_flops()


def test_operations_and_bytes_by_hand(parts_of):
    task = parts_of("model=transformer", *TRANSFORMER).task
    vocabulary, width = 48, 16
    head, blocks = vocabulary * width, 4 * width**2 + 2 * 4 * width**2
    assert flops.matmul_weights(task) == (head, blocks)
    expected = 6 * (blocks * 100 + head * 30) + 12 * 1 * 8 * width * 100  # attention: layers, context, width, tokens
    assert flops.of_step(task, tokens=100, targets=30, seq_len=8) == expected
    tables = 16 * 8 // 2  # cosines and sines (16, 4) of positions
    assert flops.streamed_bytes(task) == 4 * (head + blocks + 2 * tables)
    tied = parts_of("model=transformer", *TRANSFORMER, "model.tie_embeddings=true").task
    assert flops.streamed_bytes(tied) == flops.streamed_bytes(task)
    assert flops.streamed_bytes(tied.bfloat16()) == flops.streamed_bytes(task) // 2


def test_random_tokens_fill_the_vocabulary(tmp_path):
    made = synthetic.random_tokens(tmp_path, vocab_size=40, train=5000, val=100, seed=3)
    ids = made.split("train").read(0, 5000)
    assert set(ids.tolist()) == set(range(16, 40)) and len(made.split("val")) == 100
    assert made.tokenizer.encode(made.tokenizer.decode(ids.tolist())) == ids.tolist()
    for wrong in (16, 2_000_000):
        with pytest.raises(InputError, match=f"vocab_size \\({wrong:,}\\) must be above 16"):
            synthetic.random_tokens(tmp_path, vocab_size=wrong, train=1, val=1, seed=1)


# -- time ----------------------------------------------------------------------------------------------------------


def test_each_side_has_its_turn():
    order = []
    found = measuring.in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3 and found == {"a": [None] * 3, "b": [None] * 3}
    assert measuring.repeated(lambda: None, Ticks(), at_least=3.0) == 1.0
    spread = measuring.Spread.of([4.0, 2.0, 3.0])
    assert spread.plain() == {"median": 3.0, "min": 2.0, "max": 4.0} and spread.show("{:.0f}", 10) == "30 (20-40)"
    assert measuring.unsteady({"x": spread}).startswith("x varied by 67%") and measuring.unsteady({}) is None


def test_a_busy_machine_is_told(monkeypatch):
    monkeypatch.setattr(measuring, "load", lambda: (1.9, 4))
    assert measuring.busy() is None
    monkeypatch.setattr(measuring, "load", lambda: (2.1, 4))
    assert "load average 2.1 on 4 cores" in measuring.busy()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_is_an_optimizer_step(parts_of, accumulate, monkeypatch):
    """By a clock that counts its readings: two of the whole fit, four parts of each step of the plain loop."""
    parts = parts_of("model=transformer", *TRANSFORMER, f"trainer.accumulate={accumulate}", "trainer.log_every=1")
    steps = []
    optimizer = type(parts.task.configure_optimizers()["optimizer"])
    step = optimizer.step
    monkeypatch.setattr(optimizer, "step", lambda self, *args, **kw: (steps.append(1), step(self, *args, **kw))[1])
    trainer, seconds = training.fit(parts, Ticks(), 4)
    assert len(steps) == training.WARM_UP + 4 + 1 and seconds == 1 / 4
    shared = training.Fitted(parts, torch.device("cpu"), Ticks(), trainer.precision_plugin.train_step_context)
    steps.clear()
    found = training.split_step(shared, 2)
    assert len(steps) == training.WARM_UP + 2
    assert found == {"data": accumulate, "forward": accumulate, "backward": accumulate, "optimizer": 1.0}
    assert beside.bare(shared)(5) == 1 / 5


def test_every_loop_takes_batches_apart_as_the_fit_does(parts_of, monkeypatch):
    parts = parts_of("model=transformer", *TRANSFORMER, "batch.size=5", "trainer.micro_batch=2")
    rows: list[int] = []
    inner = parts.task.model.forward
    monkeypatch.setattr(parts.task.model, "forward", lambda ids, **more: rows.append(len(ids)) or inner(ids, **more))
    watch = measuring.Stopwatch("cpu", torch.device("cpu"))
    trainer, _ = training.fit(parts, watch, 1)
    assert set(zip(rows[::3], rows[1::3], rows[2::3], strict=True)) == {(2, 2, 1)}
    shared = training.Fitted(parts, torch.device("cpu"), watch, trainer.precision_plugin.train_step_context)
    reference = torch.nn.Embedding(48, 2)

    def mean(batch):
        rows.append(len(batch["ids"]))
        return reference(batch["ids"]).mean()

    of_another = beside.of_module(shared, reference, mean)
    for loop in (lambda steps: training.split_step(shared, steps), beside.bare(shared), of_another):
        rows.clear()
        loop(1)
        assert rows == [2, 2, 1] * (training.WARM_UP + 1)


def test_a_loop_beside_adds_up_to_the_mean_over_the_batch(parts_of):
    gradients = []
    for more in ([], ["trainer.micro_batch=2"]):
        parts = parts_of("model=transformer", *TRANSFORMER, "batch.size=5", "trainer.clip_norm=null", *more)
        shared = training.Fitted(
            parts, torch.device("cpu"), measuring.Stopwatch("cpu", torch.device("cpu")), nullcontext
        )
        torch.manual_seed(0)
        layer = torch.nn.Embedding(48, 2)
        kept = []
        layer.weight.register_post_accumulate_grad_hook(lambda weight, kept=kept: kept.append(weight.grad.clone()))
        beside.of_module(shared, layer, lambda batch, layer=layer: layer(batch["ids"]).square().mean())(1)
        gradients.append(kept[2 if more else 0])  # of the first step, after its last piece
    torch.testing.assert_close(*gradients)


def test_figures_of_training_follow_from_each_other(parts_of):
    parts = parts_of("model=transformer", *TRANSFORMER)
    watch = measuring.Stopwatch("cpu", torch.device("cpu"))
    found = training.measure(
        parts, watch, rounds=1, steps=2, beside=lambda shared: beside.blocks(shared, ["bare", "transformers"])
    )
    step = found["step_seconds"]["median"]
    assert found["steps"] == 2 and found["tokens_per_step"] == 32
    assert found["tokens_per_second"]["median"] == pytest.approx(32 / step)
    assert sum(each["median"] for each in found["split_seconds"].values()) == pytest.approx(step)
    assert list(found["split_seconds"]) == ["data", "forward", "backward", "optimizer", "overhead"]
    assert found["flop_per_step"] == flops.of_step(parts.task, tokens=32, targets=32, seq_len=16)
    rate = found["flop_per_step"] / step
    assert found["model_flop_per_second"]["median"] == pytest.approx(rate)
    used = rate / found["matmul_flop_per_second"]["median"]
    assert found["model_flop_utilisation"]["median"] == pytest.approx(used)
    for side in ("bare", "transformers"):
        other = found["beside"][side]
        ratio = found["tokens_per_second"]["median"] / other["tokens_per_second"]["median"]
        assert other["llm_is_faster_by"]["median"] == pytest.approx(ratio)


@pytest.mark.parametrize(("precision", "bits"), [("32", 32), ("bf16", 16), ("int8", 8), ("int4", 4)])
def test_bytes_of_prepared_weights_are_what_lies_in_memory(parts_of, precision, bits):
    """Packed and quantised layers among them; scales and zeros, of which small layers have many, come on top."""
    tiny = ["model.ngram_rows=[]", *TINY, "model.d_model=64", "model.d_ff=256", "model.tie_embeddings=true"]
    task = parts_of("model=transformer", *tiny, vocab_size=64).task.eval()  # kernels pad rows to multiples of 64
    head, blocks = flops.matmul_weights(task)
    assert head == 64 * 64 and blocks == (4 * 64 + 2 * 256) * 64
    loading.prepare(task, precision, "cpu")
    found = flops.streamed_bytes(task)
    tables = 2 * 4 * 16 * 32  # cosines and sines of a fused block, (16, 32), at most in float32
    more = {8: 2 * (head + blocks) / 64, 4: 4 * (head + blocks) / 32}.get(bits, 0)  # a scale a row; and a zero, a group
    expected = bits / 8 * (head + blocks) + more
    assert expected <= found <= expected + tables


def test_hidden_tokens_alone_go_through_the_head_of_a_masked_model(parts_of):
    parts = parts_of("task=masked_lm", "model=bert", *TINY)
    watch = measuring.Stopwatch("cpu", torch.device("cpu"))
    found = training.measure(parts, watch, rounds=1, steps=1)
    head, other = flops.matmul_weights(parts.task)
    attention = 12 * 1 * 16 * 16 * 32  # layers, context, width, tokens
    targets = (found["flop_per_step"] - attention - 6 * other * 32) / (6 * head)
    assert targets == int(targets) and 1 <= targets < 16


def test_transformers_has_the_same_shape(parts_of):
    narrow = ["model.n_kv_heads=1", "model.activation=swiglu", "model.d_ff=24", "model.qk_norm=false"]
    task = parts_of("model=transformer", *TINY, "model.ngram_rows=[]", "model.tie_embeddings=true", *narrow).task
    theirs = beside.llama(task.model)
    norms = 3 * 16  # ours have no weights
    assert sum(each.numel() for each in theirs.parameters()) == sum(each.numel() for each in task.parameters()) + norms
    with pytest.raises(InputError, match="not of GPT2"):
        beside.llama(parts_of("model=gpt2", *TINY).task.model)


def test_figures_of_generation_follow_from_each_other(parts_of):
    task = parts_of("model=transformer", *TRANSFORMER).task.eval()
    watch = measuring.Stopwatch("cpu", torch.device("cpu"))
    strategy = config.build(config.compose("train", ["decoding=greedy"]).decoding)
    others = {"transformers": beside.generating(beside.llama(task.model), watch)}
    found = generation.measure(task, strategy, watch, batch_sizes=[1, 3], prompt=4, new=5, rounds=1, beside=others)
    assert [each["batch_size"] for each in found["batches"]] == [1, 3]
    for batch in found["batches"]:
        ours, theirs = (batch[name]["decode_tokens_per_second"]["median"] for name in ("llm", "transformers"))
        assert batch["transformers"]["llm_is_faster_by"]["median"] == pytest.approx(ours / theirs)
        read = found["weights_bytes"] * ours / batch["batch_size"]  # bytes a second
        share = batch["llm"]["share_of_bandwidth"]["median"]
        assert share == pytest.approx(read / batch["memory_bytes_per_second"]["median"])
        first = batch["llm"]["first_token_seconds"]["median"]
        assert batch["llm"]["prompt_tokens_per_second"]["median"] == pytest.approx(4 * batch["batch_size"] / first)


def test_every_token_is_timed(parts_of):
    task = parts_of("model=transformer", *TRANSFORMER).task.eval()
    strategy = config.build(config.compose("train", ["decoding=greedy"]).decoding)
    assert generation.write(task, strategy, [[20, 21], [22, 23]], 5, Ticks()) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert beside.generating(beside.llama(task.model), Ticks())(torch.full((2, 3), 20), 4) == [1.0, 2.0, 3.0, 4.0]


def test_lengths_fit_the_context():
    assert generation.lengths(None, None, None) == (128, 64)
    assert generation.lengths(64, None, None) == (32, 32)
    assert generation.lengths(64, 60, 4) == (60, 4)
    with pytest.raises(InputError, match=r"prompt_tokens \(60\) and new_tokens \(5\) are more than .* \(64\)"):
        generation.lengths(64, 60, 5)
    with pytest.raises(InputError, match="new_tokens"):
        generation.lengths(64, 60, 1)


def test_ceilings_are_rates():
    ticks = Ticks()  # whose first second is enough
    assert ceilings.matmul("bfloat16", torch.device("cpu"), ticks, size=8) == 2 * 8**3
    assert ceilings.bandwidth(torch.device("cpu"), ticks, size=4096) == 4096


def test_preparing_counts_the_bytes_of_the_text(corpus, monkeypatch):
    cfg = config.compose("prepare", ["data=text", f"data.path={corpus}", "tokenizer=byte", "prepare.workers=1"])
    found = preparing.measure(cfg, Ticks(), rounds=2)
    size = corpus.stat().st_size - corpus.read_bytes().count(b"\n\n")
    assert found["bytes"] == pytest.approx(size, abs=2) and found["vocab_size"] == 272
    assert found["bytes_per_second"] == dict.fromkeys(MEDIAN, float(found["bytes"]))
    missing = config.compose("prepare", ["data=wikitext2", "tokenizer=byte"])
    with pytest.raises(InputError, match="not on this machine"):
        preparing.measure(missing, Ticks(), rounds=1)


@pytest.mark.slow
def test_start_up_is_timed_in_processes_of_its_own():
    found = starting.measure(rounds=1)
    assert found["wall"].keys() == found["cpu"].keys()
    found = found["wall"]
    named = {name.removesuffix("_seconds"): value["median"] for name, value in found.items()}
    assert 0 < named["python"] < min(named["imports"], named["first_step"], named["first_token"])
    assert named["first_step_over_imports"] == pytest.approx(named["first_step"] - named["imports"])


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_command(llm):
    words = ["bench", *TRANSFORMER, "rounds=2", "steps=2", "clock=cpu", "batch_sizes=[1,2]", "compare=[bare]"]
    done = llm(*words, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert {"command", "machine", "versions", "config", "precision", "ceilings", "train", "generate"} <= set(found)
    assert found["command"][1:3] == ["bench", TRANSFORMER[0]] and found["rounds"] == 2
    assert {"processor", "cores", "threads", "load_average"} <= set(found["machine"])
    assert set(found["ceilings"]) == {"float32", "bfloat16", "memory"}
    assert found["config"]["model"]["d_model"] == 16 and found["precision"] == "32-true"
    assert found["parameters"] > 0 and set(found["train"]["beside"]) == {"bare"}
    assert found["generate"]["prompt_tokens"] == 8 and len(found["generate"]["batches"]) == 2
    for value in spreads(found):
        assert math.isfinite(value["median"]) and value["min"] <= value["median"] <= value["max"]
    assert "precision" in done.err and "float32" in done.err


def spreads(node):
    if isinstance(node, dict) and set(node) == set(MEDIAN):
        yield node
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from spreads(child)


def test_the_tables(llm):
    done = llm("bench", *TRANSFORMER, "rounds=1", "steps=2", "clock=cpu", "batch_sizes=[1]", "decoding=sample")
    assert done.code == 0, done.err
    rows = [line.partition("  ")[0] for line in done.out.splitlines()]
    assert {"the machine", "memory, read", "training", "tokens/s", "model FLOP utilisation", "step"} <= set(rows)
    assert {"generation", "batch 1: prompt, tokens/s", "batch 1: decode, tokens/s"} <= set(rows)
    assert "\x1b" not in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("what=[trian]", "what has no 'trian'. Did you mean train?"),
        ("what=train", "what: expected list[str]"),
        ("what=[]", "what=[] measures nothing"),
        ("compare=[torch]", "compare has no 'torch'."),
        ("batch_sizes=[0]", "batch_sizes[0] (0) must be at least 1"),
        ("batch_sizes=[]", "batch_sizes=[] generates nothing"),
        ("batch_sizes=[a]", "batch_sizes: expected list[int]"),
        ("rounds=0", "rounds (0) must be at least 1"),
        ("vocab_size=0", "vocab_size (0) must be at least 1"),
        ("rounds=many", "rounds: expected int"),
        ("steps=0", "steps (0) must be at least 1"),
        ("steps=1.5", "steps: expected"),
        ("clock=sun", "clock must be wall or cpu, not 'sun'"),
        ("roundz=3", "Did you mean rounds=3?"),
        ("resume=latest", "resume=latest is for llm train"),
        ("--dry_run=true", "dry_run=True is for llm train"),
        ("vocab_size=5", "vocab_size (5) must be above 16"),
        ("prompt_tokens=300", "are more than the model's context (256)"),
        ("model.d_model=30 model.n_heads=4", "model.d_model (30) must be divisible by model.n_heads (4)"),
        ("model=textcnn", "cannot be trained with task=language_modeling"),
        ("model=textcnn task=classification data=python_topics", "measures what learns from running text"),
        ("decoding=beam", "a search gives its tokens at the end"),
        ("precision=int5", "precision must be one of auto, 32, bf16, int8, int4, not int5"),
        ("model.d_model=24 model.n_heads=2 model.d_ff=40 precision=int8", "run has none that it could keep so"),
        ("model=gpt2 compare=[transformers]", "knows the shape of model=transformer, not of GPT2"),
        ("task=masked_lm model=bert what=[generate]", "task=masked_lm does not continue a text"),
    ],
)
def test_what_is_wrong_is_said(llm, words, message):
    small = [] if "d_model" in words or "textcnn" in words else ["model.d_model=16", "model.n_heads=2"]
    done = llm("bench", *small, *words.split())
    assert done.code == 2 and message in done.err and "Traceback" not in done.err, done.err


def test_ctrl_c_ends_it(llm, monkeypatch):
    def pressed(self, trainer, pl_module, batch, batch_idx):
        raise KeyboardInterrupt

    monkeypatch.setattr(training._Times, "on_train_batch_start", pressed)
    done = llm("bench", *TRANSFORMER, "what=[train]", "rounds=1", "steps=2")
    assert done.code == 130 and done.out == "" and "Traceback" not in done.err


def test_start_up_is_told_by_the_clock_that_is_asked_for(llm, monkeypatch):
    taken = {"wall": 2.0, "cpu": 1.0}
    made = {
        clock: {f"{name}_seconds": dict.fromkeys(MEDIAN, seconds) for name in tables.STARTS}
        for clock, seconds in taken.items()
    }
    monkeypatch.setattr(starting, "measure", lambda *, rounds: made)
    for clock, seconds in taken.items():
        done = llm("bench", "what=[start]", f"clock={clock}")
        assert done.code == 0 and done.out.count(f"{seconds:.2f} s") == len(tables.STARTS), done.out
        assert ("processor time" in done.out) == (clock == "cpu")


def test_the_choices_of_compare_are_those_that_there_are(parts_of):
    assert set(bench.COMPARE) == {"bare", "transformers"}
    with pytest.raises(KeyError):
        beside.blocks(None, ["other"])
    assert isinstance(parts_of("model=transformer", *TRANSFORMER), assembly.Parts)
