"""`llm train`, `llm eval` and what they leave: one way through on a small text, and what every option changes."""

from __future__ import annotations

import itertools
import json
import math
import platform
import struct
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import llmcli
from llmcli import checkpoint, config, files
from llmcli.callbacks.history import COLUMNS, read_rows
from llmcli.models.autoencoder import Autoencoder
from llmcli.models.base import EncoderOnly, WordVectorModel
from llmcli.models.encoder_decoder import EncoderDecoder
from llmcli.models.tfidf import Tfidf
from llmcli.schema import locate

CONFIGS = config.config_dir()
TINY = ["model=transformer", "model.n_heads=2", "model.ngram_rows=[64]"]
MODELS = {
    "transformer": ["model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.ngram_rows=[64]"],
    "gpt2": ["model.d_model=16", "model.n_layers=1", "model.n_heads=2"],
    "mlp": ["model.d_embed=8", "model.d_hidden=16"],
    "rnn": ["model.d_model=16", "model.d_hidden=16", "model.n_layers=1"],
    "lstm": ["model.d_model=16", "model.d_hidden=16", "model.n_layers=1"],
    "gru": ["model.d_model=16", "model.d_hidden=16", "model.n_layers=1"],
    "ngram": ["task=counting", "model.order=3"],
}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def validations(folder: Path) -> list[dict[str, str]]:
    return [row for row in read_rows(folder / "metrics.csv") if row["val_loss"]]


def steps(folder: Path) -> list[dict[str, str]]:
    return [row for row in read_rows(folder / "metrics.csv") if row["loss"]]


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return checkpoint.read(folder / "checkpoints" / f"{name}.ckpt")["state_dict"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def train(llm, small, tmp_path):
    """Train the small transformer with more overrides; the run's folder."""
    counter = iter(range(1000))

    def call(*more: str) -> Path:
        folder = tmp_path / f"run-{next(counter)}"
        result = llm("train", *small, *TINY, "trainer.max_steps=6", *more, f"hydra.run.dir={folder}")
        assert result.code == 0, result.err
        return folder

    return call


@pytest.fixture(scope="module")
def learned(small, cache, tmp_path_factory) -> Path:
    """A run of characters that is long enough to make use of its context."""
    from llmcli import cli

    folder = tmp_path_factory.mktemp("learned") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_CACHE", str(cache))
        patch.setenv("LLM_RUN_DIR", "")
        more = ["tokenizer=char", "trainer.max_steps=150", "trainer.val_every=50", f"hydra.run.dir={folder}"]
        assert cli.main(["train", *small, *TINY, *more]) == 0
    return folder


# -- what a run leaves ---------------------------------------------------------------------------------------------


def test_a_run_folder_is_whole(trained):
    names = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert names >= {
        "config.yaml", "status.json", "metrics.csv", "metrics.json", "curves.png",
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "checkpoints/step-00000012.ckpt",
    }  # fmt: skip
    assert any(name.startswith("tokenizer/") for name in names)
    assert not any(Path(name).name.startswith(".") for name in names)
    saved = OmegaConf.load(trained / "config.yaml")
    assert saved.facts.vocab_size == saved.model.vocab_size == 272
    assert saved.trainer.precision in ("32-true", "bf16-mixed") and saved.trainer.compile is False
    assert files.read_json(trained / "status.json")["state"] == "completed"


def test_metrics_json(trained):
    figures = files.read_json(trained / "metrics.json")
    assert set(figures) == {
        "val_loss", "val_perplexity", "val_accuracy", "val_bits_per_byte", "val_bits_per_character", "perplexity",
        "monitor", "higher_is_better", "best", "best_step", "steps", "tokens", "seconds", "tokens_per_second",
        "floor_loss", "run",
    }  # fmt: skip
    verdict = {"monitor": "val_loss", "higher_is_better": False, "best": figures["val_loss"]}
    status = files.read_json(trained / "status.json")
    assert verdict.items() <= figures.items() and verdict.items() <= status.items()
    assert figures["steps"] == 12 and figures["tokens"] == 12 * 4 * 16
    assert figures["perplexity"] == pytest.approx(math.exp(figures["val_loss"]), rel=1e-9)
    assert 0 < figures["floor_loss"] < figures["val_loss"]


def test_metrics_csv(trained):
    rows = read_rows(trained / "metrics.csv")
    assert list(rows[0])[: len(COLUMNS)] == list(COLUMNS)
    assert {"val_loss", "val_perplexity", "val_accuracy"} <= set(rows[0])
    assert [int(row["step"]) for row in steps(trained)] == list(range(1, 13))
    assert [int(row["step"]) for row in validations(trained)] == [5, 10, 12]
    assert [int(row["tokens"]) for row in steps(trained)] == [64 * step for step in range(1, 13)]


def test_curves_are_a_picture(trained):
    content = (trained / "curves.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n") and content.rstrip().endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 300 and height > 200


def test_stdout_is_empty_or_one_object(llm, small, tmp_path):
    quiet = llm("train", *small, *TINY, "trainer.max_steps=2", "hydra.run.dir=quiet")
    assert quiet.code == 0 and quiet.out == "" and "llm generate ckpt=quiet" in quiet.err
    spoken = llm("train", *small, *TINY, "trainer.max_steps=2", "hydra.run.dir=spoken", "--json")
    [line] = spoken.out.splitlines()
    assert json.loads(line) == files.read_json(tmp_path / "spoken" / "metrics.json")
    assert "\x1b" not in quiet.err + spoken.err


def test_dry_run(llm, small, trained):
    result = llm("train", *small, *TINY, "trainer.accumulate=3", "--dry-run", "--json")
    report = json.loads(result.out)
    assert not Path("runs").exists()
    assert report["parameters"] == sum(value.numel() for value in weights(trained).values())
    assert report["steps"] == 12 and report["tokens_per_step"] == 3 * 64 and report["tokens"] == 12 * 3 * 64
    shown = llm("train", *small, *TINY, "--dry-run")
    assert f"{report['parameters']:,}" in shown.out and not Path("runs").exists()


# -- budgets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "steps_done"),
    [
        (["trainer.max_steps=7"], 7),
        (["trainer.max_tokens=640"], 10),
        (["trainer.max_tokens=641"], 11),
        (["trainer.max_steps=9", "trainer.max_tokens=320"], 5),
        (["trainer.max_tokens=640", "trainer.accumulate=2"], 5),
    ],
)
def test_the_first_budget_that_is_used_up_ends_the_run_with_a_validation(train, budget, steps_done):
    folder = train("trainer.max_steps=null", "trainer.val_every=4", *budget)
    assert checkpoint.read(folder / "checkpoints" / "last.ckpt")["global_step"] == steps_done
    assert int(validations(folder)[-1]["step"]) == steps_done
    assert files.read_json(folder / "metrics.json")["steps"] == steps_done


def test_epochs(train, llm, small):
    epoch = ["trainer.max_steps=null", "trainer.max_epochs=2", "batch.size=32", "batch.seq_len=64"]
    planned = json.loads(llm("train", *small, *TINY, *epoch, "--dry-run", "--json").out)
    folder = train(*epoch)
    assert int(steps(folder)[-1]["step"]) == planned["steps"]
    assert planned["steps"] == 2 * (planned["train_tokens"] - 1) // 64 // 32 // 2 * 2
    assert {row["epoch"] for row in steps(folder)} == {"0", "1"}


def test_time(train):
    folder = train("trainer.max_steps=null", "trainer.max_time=1s")
    seconds = [float(row["seconds"]) for row in steps(folder)]
    assert 1.0 <= seconds[-1] < 5.0 and len(seconds) > 3
    assert int(validations(folder)[-1]["step"]) == len(seconds)
    rates = [float(row["lr"]) for row in steps(folder)]
    assert rates[-1] < 0.05 * max(rates)  # the schedule followed the clock


def test_the_schedule_follows_whichever_budget_is_set(train):
    linear = ["schedule=linear", "schedule.warmup=0", "schedule.final=0", "trainer.max_steps=null"]
    by_tokens = [float(row["lr"]) for row in steps(train(*linear, "trainer.max_tokens=640"))]
    by_steps = [float(row["lr"]) for row in steps(train(*linear, "trainer.max_steps=10"))]
    assert by_tokens == by_steps and len(by_steps) == 10
    falls = [a - b for a, b in itertools.pairwise(by_steps)]
    assert falls[:-1] == pytest.approx([0.1 * 0.02] * 8, rel=1e-6)
    assert by_steps[-1] <= 0.1 * by_steps[0]


def test_a_run_that_is_done_takes_no_further_step(train, llm):
    folder = train()
    before, figures = weights(folder), files.read_json(folder / "metrics.json")
    result = llm("train", f"resume={folder}")
    assert result.code == 0 and "step 6 is the end of the budget" in result.err
    assert same(weights(folder), before)
    after = files.read_json(folder / "metrics.json")
    assert all(after[key] == figures[key] for key in ("val_loss", "steps", "tokens", "best_step"))
    assert llm("train", f"resume={folder}", "trainer.max_steps=8").code == 0
    assert int(steps(folder)[-1]["step"]) == 8


# -- what each option changes --------------------------------------------------------------------------------------


def test_a_seed_reproduces_bit_for_bit_and_another_differs(train):
    first, again, other = train("model.dropout=0.1"), train("model.dropout=0.1"), train("model.dropout=0.1", "seed=2")
    assert same(weights(first), weights(again))
    assert [row["loss"] for row in steps(first)] == [row["loss"] for row in steps(again)]
    assert not same(weights(first), weights(other))
    assert same(weights(train("seed=-1")), weights(train("seed=-1")))


@pytest.mark.parametrize(
    "option",
    [
        "task.label_smoothing=0.2", "trainer.clip_norm=0.01", "trainer.accumulate=2", "optimizer.weight_decay=0.5",
        "optimizer.l1=0.01", "model.dropout=0.3", "batch.size=8", "optimizer.lr=0.001", "schedule=constant",
    ],
)  # fmt: skip
def test_options_that_change_the_weights(train, option):
    assert not same(weights(train()), weights(train(option)))


@pytest.mark.parametrize(
    ("option", "logged", "validated"),
    [
        ("trainer.log_every=3", [3, 5, 6], [5, 6]),
        ("trainer.val_every=2", [1, 2, 3, 4, 5, 6], [2, 4, 6]),
        ("callbacks.samples=null", [1, 2, 3, 4, 5, 6], [5, 6]),
        ("callbacks.samples.seed=5", [1, 2, 3, 4, 5, 6], [5, 6]),
    ],
)
def test_looking_at_a_run_does_not_change_it(train, option, logged, validated):
    plain, watched = train("model.dropout=0.1"), train("model.dropout=0.1", option)
    assert same(weights(plain), weights(watched))
    assert [int(row["step"]) for row in steps(watched)] == logged
    assert [int(row["step"]) for row in validations(watched)] == validated


def test_val_batches_reads_more_of_the_split(train):
    few, many = train("trainer.val_batches=1"), train("trainer.val_batches=8")
    assert same(weights(few), weights(many))
    assert validations(few)[-1]["val_loss"] != validations(many)[-1]["val_loss"]


def test_samples_continue_the_prompt(llm, small):
    prompt = "callbacks.samples.prompt=the cat"
    result = llm("train", *small, *TINY, "trainer.max_steps=2", prompt, "hydra.run.dir=run")
    assert " step 2  the cat ▸ " in result.err and '--prompt "the cat"' in result.err


def test_early_stopping_waits_for_its_patience(train):
    for patience, end in ((1, 4), (2, 6)):
        folder = train(
            "callbacks=early_stopping", f"callbacks.early_stopping.patience={patience}",
            "callbacks.early_stopping.min_delta=100", "trainer.max_steps=40", "trainer.val_every=2",
        )  # fmt: skip
        assert int(validations(folder)[-1]["step"]) == end
        assert checkpoint.read(folder / "checkpoints" / "last.ckpt")["global_step"] == end
    assert int(validations(train("callbacks=early_stopping", "trainer.val_every=2"))[-1]["step"]) == 6


def test_the_average_of_the_weights_is_what_is_validated_saved_and_scored(train, llm):
    plain, none, averaged = train(), train("callbacks=ema", "callbacks.ema.decay=0"), train("callbacks=ema")
    assert same(weights(plain, "best"), weights(none, "best"))
    assert not same(weights(plain, "best"), weights(averaged, "best"))
    assert [row["loss"] for row in steps(plain)] == [row["loss"] for row in steps(averaged)]
    figures = json.loads(llm("eval", f"ckpt={averaged}", "accelerator=cpu", "--json").out)
    assert figures["loss"] == pytest.approx(files.read_json(averaged / "metrics.json")["val_loss"], rel=1e-6)
    assert figures["loss"] != pytest.approx(files.read_json(plain / "metrics.json")["val_loss"], rel=1e-6)


# -- every option of the groups ------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_every_optimizer_learns_under_every_schedule(optimizer):
    build = config.build(OmegaConf.load(CONFIGS / "optimizer" / f"{optimizer}.yaml"))
    ids = torch.randint(0, 11, (4, 9), generator=torch.Generator().manual_seed(0))
    for name in options("schedule"):
        schedule = config.build(OmegaConf.load(CONFIGS / "schedule" / f"{name}.yaml"))
        torch.manual_seed(0)
        hidden = torch.nn.Linear(16, 16)
        model = torch.nn.Sequential(torch.nn.Embedding(11, 16), hidden, torch.nn.Tanh(), torch.nn.Linear(16, 11))
        update = build(model)
        scheduler = torch.optim.lr_scheduler.LambdaLR(update, lambda step, f=schedule: f((step + 0.5) / 30, step))
        losses = []
        before = hidden.weight.detach().clone()
        for _ in range(30):
            update.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
            update.step()
            scheduler.step()
            losses.append(float(loss.detach()))
        assert not torch.equal(hidden.weight, before), name
        assert losses[-1] < losses[0] - 0.01, name


@pytest.mark.parametrize(
    ("model", "optimizer", "schedule"),
    [
        ("transformer", "muon", "wsd"), ("gpt2", "adamw", "linear"), ("mlp", "adam", "inverse_sqrt"),
        ("rnn", "rmsprop", "constant"), ("lstm", "adagrad", "slanted_triangular"), ("gru", "nesterov", "cosine"),
        ("ngram", "sgd", "cosine"),
    ],
)  # fmt: skip
def test_every_model_trains_evaluates_and_generates(llm, small, model, optimizer, schedule):
    base = [each for each in small if not each.startswith("model.")]
    result = llm(
        "train", *base, f"model={model}", *MODELS[model], f"optimizer={optimizer}", f"schedule={schedule}",
        "trainer.max_steps=40", "trainer.val_every=10", "hydra.run.dir=run", "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    figures, losses = json.loads(result.out), [float(row["val_loss"]) for row in validations(Path("run"))]
    assert figures["val_loss"] < math.log(272) - 0.2 if model == "ngram" else losses[-1] < losses[0] - 0.01
    scored = json.loads(llm("eval", "ckpt=run", "accelerator=cpu", "--json").out)
    assert scored["loss"] == pytest.approx(figures["val_loss"], rel=1e-6)
    text = llm("generate", "ckpt=run", "--prompt", "the cat", "max_new_tokens=8", "accelerator=cpu")
    assert text.code == 0 and text.out.startswith("the cat")


def test_every_model_is_tested_above():
    generating = set()
    for name in options("model"):
        node = OmegaConf.load(CONFIGS / "model" / f"{name}.yaml")
        model = locate(str(node._target_))
        # encoders, translators, autoencoders, linear models and word vectors continue no text, and have their own tests
        if (
            not issubclass(model, EncoderOnly | EncoderDecoder | Autoencoder | Tfidf | WordVectorModel)
            and OmegaConf.to_container(node).get("causal") is not False
        ):
            generating.add(name)
    assert generating == set(MODELS)


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes(experiment):
    cfg = config.compose("train", [f"experiment={experiment}"])
    assert cfg.trainer.max_steps or cfg.trainer.max_time or cfg.trainer.max_tokens or cfg.trainer.max_epochs
    config.validate(cfg)


# -- a model of one's own ------------------------------------------------------------------------------------------

OWN_CODE = '''
"""A backbone that sees one token."""
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from llmcli.models.base import Backbone, State


@dataclass
class Counted(State):
    lengths: Tensor

    def reorder(self, index): return replace(self, lengths=self.lengths[index])
    def truncate(self, lengths): return replace(self, lengths=lengths)
    def clone(self): return replace(self, lengths=self.lengths.clone())
    def detach(self): return self


class OneToken(Backbone):
    kind = "window"

    def __init__(self, *, vocab_size: int, d_model: int, causal: bool) -> None:
        super().__init__()
        self.vocab_size, self.d_model, self.causal, self.max_seq_len = vocab_size, d_model, causal, None
        self.input_embedding = nn.Embedding(vocab_size, d_model)

    def forward(self, ids, mask=None, positions=None, segment_ids=None, inputs_embeds=None):
        return self.input_embedding(ids) if inputs_embeds is None else inputs_embeds

    def hidden_states(self, ids, mask=None): return [self(ids)]
    def init_weights(self): pass
    def init_state(self, batch_size, capacity): return Counted(torch.zeros(batch_size, dtype=torch.long))

    def step(self, ids, state, lengths=None):
        return self(ids), Counted(state.lengths + (ids.size(1) if lengths is None else lengths))
'''
OWN_YAML = """\
# sees one token
_target_: one_token_models.OneToken
vocab_size: ${facts.vocab_size}
causal: ${task.causal}
d_model: 8
"""


def test_a_model_of_ones_own_is_two_files_and_trusted_by_name(llm, small, tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "one_token_models.py").write_text(OWN_CODE, encoding="utf-8")
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "one_token.yaml").write_text(OWN_YAML, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "code")
    base = [each for each in small if not each.startswith("model.")]
    result = llm(
        "train", "--config-dir", str(tmp_path / "mine"), *base, "model=one_token", "model.d_model=12",
        "trainer.max_steps=6", "hydra.run.dir=own",
    )  # fmt: skip
    assert result.code == 0, result.err  # scoring the whole split loads the checkpoint: what the user wrote is trusted

    for arguments in (["generate", "ckpt=own", "--prompt", "the cat"], ["eval", "ckpt=own"], ["train", "resume=own"]):
        refused = llm(*arguments)
        assert refused.code == 2 and "one_token_models.OneToken, which is not trusted" in refused.err
        assert "LLM_TRUST=one_token_models" in refused.err
    with pytest.raises(llmcli.errors.CheckpointError, match="not trusted"):
        llmcli.load("own")
    assert llmcli.load("own", trusted=["one_token_models"]).generate("the", max_new_tokens=3)[0].ids

    monkeypatch.setenv("LLM_TRUST", "other, one_token_models")
    assert llm("generate", "ckpt=own", "--prompt", "the cat", "max_new_tokens=3").out.startswith("the cat")
    figures = json.loads(llm("eval", "ckpt=own", "--json").out)
    assert figures["loss"] == pytest.approx(files.read_json(Path("own/metrics.json"))["val_loss"], rel=1e-6)
    assert llm("train", "resume=own", "trainer.max_steps=8").code == 0


# -- eval ----------------------------------------------------------------------------------------------------------


def evaluate(llm, *more: str) -> dict:
    result = llm("eval", "accelerator=cpu", "--json", *more)
    assert result.code == 0, result.err
    [line] = result.out.splitlines()
    return json.loads(line)


def test_eval_reports_what_the_run_reported(llm, learned):
    figures, reported = evaluate(llm, f"ckpt={learned}"), files.read_json(learned / "metrics.json")
    assert set(figures) == {
        "loss", "perplexity", "accuracy", "bits_per_byte", "bits_per_character", "floor_loss", "split",
        "tokens", "unknown", "seconds", "ckpt",
    }  # fmt: skip
    assert figures["floor_loss"] == reported["floor_loss"]
    assert "floor_loss" not in evaluate(llm, f"ckpt={learned}", "split=train")  # which the n-grams are counted on
    for name in ("loss", "perplexity", "accuracy", "bits_per_byte", "bits_per_character"):
        assert figures[name] == pytest.approx(reported[f"val_{name}"], rel=1e-6), name
    assert figures["split"] == "val" and figures["unknown"] == 0
    assert figures["ckpt"] == str(learned / "checkpoints" / "best.ckpt")


def test_bits_per_byte_and_character_by_hand(llm, learned, corpus, tmp_path):
    lines = [line.replace("moon", "mooné") for line in corpus.read_text(encoding="utf-8").splitlines()]
    assert evaluate(llm, f"ckpt={learned}", "split=train")["loss"] < 2.0
    other = tmp_path / "other.txt"
    other.write_text("\n".join(lines), encoding="utf-8")
    text = ["data=text", f"data.path={other}", "data.document=line", "data.eos=true"]
    found = evaluate(llm, f"ckpt={learned}", *text, "data.val_fraction=0.1")
    source = config.build(config.compose("train", text).data)
    documents = "".join(piece.text for piece in source.records("val"))
    ends = sum(piece.end for piece in source.records("val"))
    assert found["tokens"] == len(documents) + ends and found["unknown"] == documents.count("é") > 0
    nats = found["loss"] * (found["tokens"] - 1)  # nothing comes before the first token
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(documents.encode()), rel=1e-9)
    assert found["bits_per_character"] == pytest.approx(nats / math.log(2) / len(documents), rel=1e-9)


def test_a_smaller_stride_gives_more_context_and_a_lower_loss(llm, learned):
    assert evaluate(llm, f"ckpt={learned}", "stride=4")["loss"] < 0.95 * evaluate(llm, f"ckpt={learned}")["loss"]


@pytest.mark.parametrize("stride", [1, 4, 16])
def test_each_label_is_scored_with_the_context_that_the_stride_leaves_it(llm, learned, corpus, tmp_path, stride):
    few = "\n".join(corpus.read_text(encoding="utf-8").splitlines()[:40])
    (tmp_path / "few.txt").write_text(few, encoding="utf-8")
    text = ["data=text", "data.path=few.txt", "data.document=line", "data.val_fraction=0.5"]
    found = evaluate(llm, f"ckpt={learned}", *text, f"stride={stride}")
    loaded = checkpoint.load(learned / "checkpoints" / "best.ckpt")
    ids = []
    for document in config.build(config.compose("train", text).data).records("val"):
        ids += [*loaded.tokenizer.encode(document.text), loaded.tokenizer.eos_id]
    assert found["tokens"] == len(ids) > 100
    total = 0.0
    with torch.inference_mode():
        for label in range(1, len(ids)):
            start = stride * max(0, math.ceil((label - 16) / stride))  # of the first window that reaches the label
            logits = loaded.task.head.logits(loaded.task.model(torch.tensor([ids[start:label]])))[0, -1]
            total -= float(logits.log_softmax(-1)[ids[label]])
    assert found["loss"] == pytest.approx(total / (len(ids) - 1), rel=1e-5)


def test_the_size_of_a_batch_does_not_matter(llm, learned):
    losses = [evaluate(llm, f"ckpt={learned}", f"batch_size={size}")["loss"] for size in (1, 7, 64)]
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-6)


def test_eval_shows_a_table(llm, learned):
    result = llm("eval", f"ckpt={learned}", "accelerator=cpu")
    assert result.code == 0 and "perplexity" in result.out and "bits_per_byte" in result.out


def test_another_text_is_scored_whole_unless_a_part_is_asked_for(llm, learned, corpus, tmp_path):
    lines = corpus.read_text(encoding="utf-8").splitlines()[:300]
    (tmp_path / "other.txt").write_text("\n".join(lines), encoding="utf-8")
    text = [f"ckpt={learned}", "data=text", "data.path=other.txt", "data.document=line"]
    whole = evaluate(llm, *text)
    assert whole == {**evaluate(llm, *text, "split=all"), "seconds": whole["seconds"]}
    assert whole["split"] == "all" and whole["tokens"] == sum(map(len, lines)) + len(lines)
    part = evaluate(llm, *text, "data.val_fraction=0.2")
    assert part["split"] == "val" and part["tokens"] < 0.4 * whole["tokens"]
    assert part["tokens"] + evaluate(llm, *text, "data.val_fraction=0.2", "split=train")["tokens"] == whole["tokens"]


def test_the_text_of_the_training_is_scored_on_its_own_val_whatever_it_is_called(llm, learned, corpus, tmp_path):
    own = evaluate(llm, f"ckpt={learned}")
    copy = tmp_path / "copy.txt"
    copy.write_bytes(corpus.read_bytes())
    for more in ([f"data.path={corpus}", "data.document=line"], [f"data.path={copy}"]):
        found = evaluate(llm, f"ckpt={learned}", "data=text", *more)
        assert {**found, "seconds": 0} == {**own, "seconds": 0}


def test_eval_refuses_the_runs_own_text_once_it_has_changed(llm, small, corpus, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_bytes(corpus.read_bytes())
    assert llm("train", *small, *TINY, "trainer.max_steps=2", f"data.path={mine}", "hydra.run.dir=run").code == 0
    mine.write_bytes(corpus.read_bytes() + b"one more line.\n")
    refused = llm("eval", "ckpt=run")
    assert refused.code == 2 and "the data has changed since the run began" in refused.err
    assert "data=... scores other text on purpose" in refused.err
    assert evaluate(llm, "ckpt=run", "data=text", "data.path=mine.txt")["split"] == "all"


def _with_data(trained: Path, folder: Path, data: str, fingerprint: dict) -> Path:
    """A checkpoint of the run that says it was trained on other data."""
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    content["llm"]["config"]["data"] = OmegaConf.to_container(config.compose("train", [f"data={data}"]).data)
    content["llm"]["data"]["fingerprint"] = fingerprint
    torch.save(content, folder / "other.ckpt")
    return folder / "other.ckpt"


def test_the_documentation_of_another_python_is_said_to_be_one(llm, trained, tmp_path):
    path = _with_data(trained, tmp_path, "python_docs", {"reader": "python_docs", "python": "3.1.4", "files": "0"})
    refused = llm("eval", f"ckpt={path}")
    assert refused.code == 2
    assert f"it was the documentation of Python 3.1.4, this is Python {platform.python_version()}" in refused.err


def test_a_checkpoint_does_not_decide_what_is_downloaded(llm, trained, tmp_path, monkeypatch):
    def no_download(*args: object, **kwargs: object) -> None:
        raise AssertionError("it wants to fetch something")

    monkeypatch.setattr("llmcli.data.download.urlopen", no_download)
    path = _with_data(trained, tmp_path, "tinyshakespeare", {"reader": "single_text"})
    for arguments in (["eval", f"ckpt={path}"], ["train", f"resume={path}"]):
        refused = llm(*arguments)
        assert refused.code == 2 and "the run's data is not on this machine any more: http" in refused.err


def test_less_memory_gives_the_same_weights(train):
    """Blocks recomputed: bit for bit, with dropout. All logits at once, and rows one by one: to rounding."""
    dropped = ("model.dropout=0.1", "model.n_layers=2")
    plain, again = weights(train(*dropped)), train(*dropped, "trainer.checkpoint_activations=true")
    assert same(plain, weights(again))
    whole, parts = weights(train()), weights(train("trainer.micro_batch=3", "trainer.loss_chunk=null"))
    assert whole.keys() == parts.keys() and not same(whole, parts)
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-2, atol=1e-3)


PAIRS = "data=reverse_copy data.train=100 data.val=10 data.test=0 data.letters=6 data.shortest=1 data.longest=7 "


@pytest.mark.parametrize(
    "asked",
    [
        PAIRS + "model=seq2seq_rnn model.d_model=16 model.dropout=0",
        PAIRS
        + "model=gpt2 task=sequence_to_sequence model.d_model=16 model.n_layers=1 model.n_heads=2 model.dropout=0",
        "data=python_topics tokenizer=word model=dan model.d_model=16 model.n=1 model.rows=0 task.dropout=0",
    ],
)
def test_examples_of_other_lengths_in_parts_give_the_same_weights(asked, llm, tmp_path):
    common = [
        "batch.size=8",
        "batch.max_tokens=null",
        "optimizer=sgd",
        "trainer.precision=32-true",
        "trainer.max_steps=3",
    ]
    common += ["trainer.val_batches=1", "trainer.accelerator=cpu", "callbacks.samples=null", "trainer.log_every=1"]
    for name, more in {"whole": [], "parts": ["trainer.micro_batch=3"]}.items():
        done = llm("train", *asked.split(), *common, *more, f"hydra.run.dir={tmp_path / name}")
        assert done.code == 0, done.err
    torch.testing.assert_close(weights(tmp_path / "parts"), weights(tmp_path / "whole"), rtol=1e-4, atol=1e-6)
    for whole, parts in zip(steps(tmp_path / "whole"), steps(tmp_path / "parts"), strict=True):
        assert float(parts["loss"]) == pytest.approx(float(whole["loss"]), rel=1e-4)
        assert parts["tokens"] == whole["tokens"]


def test_rows_that_fit_are_found_said_remembered_and_kept_for_resuming(llm, small, tmp_path, monkeypatch):
    from llmcli.tasks import base

    trials = []
    monkeypatch.setattr(base, "fitting", lambda *args, **more: trials.append(1) or 3)
    args = ("train", *small, *TINY, "trainer.max_steps=2", "trainer.micro_batch=auto", "model.d_model=12")
    first = llm(*args, f"hydra.run.dir={tmp_path / 'first'}")
    assert first.code == 0, first.err
    assert "3 rows go through the model at a time" in first.err and "(trainer.micro_batch=3)" in first.err
    second = llm(*args, f"hydra.run.dir={tmp_path / 'second'}")
    assert "trainer.micro_batch=3, as found before" in second.err and len(trials) == 1
    for name in ("first", "second"):
        assert OmegaConf.load(tmp_path / name / "config.yaml").trainer.micro_batch == 3
        saved = checkpoint.read(tmp_path / name / "checkpoints" / "last.ckpt")["llm"]["config"]
        assert saved["trainer"]["micro_batch"] == 3
    assert same(weights(tmp_path / "first"), weights(tmp_path / "second"))
    resumed = llm("train", f"resume={tmp_path / 'first'}", "trainer.max_steps=3")
    assert resumed.code == 0 and len(trials) == 1


def test_of_examples_tokens_are_found_and_remembered(llm, tmp_path, monkeypatch):
    from llmcli.tasks import base

    trials = []
    monkeypatch.setattr(base, "fitting", lambda *args, **more: trials.append(1) or 3)
    common = [*PAIRS.split(), "model=seq2seq_rnn", "model.d_model=16", "trainer.max_steps=2", "trainer.val_batches=1"]
    common += ["trainer.accelerator=cpu", "callbacks.samples=null", "batch.size=8", "trainer.micro_batch=auto"]
    found = []
    for name in ("first", "second"):
        done = llm("train", *common, f"hydra.run.dir={tmp_path / name}")
        assert done.code == 0, done.err
        trainer = OmegaConf.load(tmp_path / name / "config.yaml").trainer
        found.append((trainer.micro_batch, trainer.micro_tokens))
        said = f"trainer.micro_tokens={trainer.micro_tokens}"
        assert said + (", as found before" if trials[1:] or name == "second" else ")") in done.err
    assert len(trials) == 1 and found[0] == found[1] == (None, found[0][1]) and found[0][1] % 3 == 0
    assert same(weights(tmp_path / "first"), weights(tmp_path / "second"))
    both = llm("train", *common, "trainer.micro_tokens=64")
    assert both.code == 2 and "trainer.micro_batch=auto finds what trainer.micro_tokens=64 says" in both.err


def test_what_cannot_be_taken_apart_is_refused(llm, small):
    lstm = llm("train", *small, "model=lstm", "trainer.micro_batch=2", "trainer.max_steps=1")
    assert lstm.code == 2 and "cannot be taken apart" in lstm.err
    ddp = llm("train", *small, "trainer.strategy=ddp", "trainer.micro_batch=2", "trainer.max_steps=1")
    assert ddp.code == 2 and "trainer.strategy=ddp for several" in ddp.err
    blocks = llm("train", *small, "model=lstm", "trainer.checkpoint_activations=true", "trainer.max_steps=1")
    assert blocks.code == 2 and "made of blocks, and this one has none" in blocks.err
    topics = llm("train", "data=python_topics", "model=dan", "tokenizer=word", "trainer.loss_chunk=64")
    assert topics.code == 2 and "is for losses over a vocabulary, and this task has none" in topics.err


def test_documents_that_do_not_look_into_each_other_train_another_model(train, llm, small):
    folder = train("batch.across_documents=false")
    assert not same(weights(folder), weights(train()))
    assert llm("eval", f"ckpt={folder}").code == 0
    lstm = llm("train", *small, "model=lstm", "batch.across_documents=false", "trainer.max_steps=1")
    assert lstm.code == 2 and "batch.across_documents=false goes with task=language_modeling" in lstm.err
    counted = [each for each in small if not each.startswith("model.")]
    ngram = llm("train", *counted, "model=ngram", "batch.across_documents=false")
    assert ngram.code == 2 and "counts take the text as it runs" in ngram.err
