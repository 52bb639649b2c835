"""init=RUN: what a new run has of an earlier one, what is told of it, and what is refused."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from llmcli import checkpoint

STILL = [  # one step that moves nothing, so that weights can be compared
    "optimizer=sgd", "optimizer.lr=0", "trainer.max_steps=1", "trainer.precision=32-true", "trainer.accelerator=cpu",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    """Drawing them takes longer than these runs."""
    monkeypatch.setattr("llmcli.results.draw", lambda *told, **named: None)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    draw = random.Random(0)
    words = {"good": ("fine", "great", "lovely"), "bad": ("dull", "poor", "awful")}
    rows = [f"number {i} is {draw.choice(words[label])},{label}" for i in range(30) for label in words]
    path = tmp_path_factory.mktemp("reviews") / "reviews.csv"
    path.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return ["data=labeled_text", f"data.path={path}", "data.val_fraction=0.2", "batch.size=8", "batch.seq_len=16"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, cache, small, reviews):
    """Runs by name, each trained once: what follows the first word are its options."""
    from llmcli import cli

    folder, text = tmp_path_factory.mktemp("origins"), [each for each in small if not each.startswith("callbacks")]
    small_gpt2 = ["model=gpt2", "model.d_model=16", "model.n_heads=2", "model.n_layers=1"]
    recipes = {
        "gpt2": [*text, "model=gpt2", "model.n_heads=2", "trainer.max_steps=2"],
        "lstm": [*text, "model=lstm", "model.d_hidden=16", "tokenizer=char", "trainer.max_steps=2"],
        "ngram": [*text[:3], "tokenizer=byte", "model=ngram", "batch.seq_len=16"],
        "words": [*text[:3], "model=word2vec", "model.d_model=16", "trainer.max_epochs=1", "batch.seq_len=16"],
        "classes": [*reviews, *small_gpt2, "tokenizer=byte", "trainer.max_steps=2"],
    }

    def make(name: str) -> Path:
        run = folder / name
        if not run.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("LLM_CACHE", str(cache))
                patch.setenv("LLM_RUN_DIR", "")
                told = [*recipes[name], "trainer.accelerator=cpu", f"hydra.run.dir={run}"]
                assert cli.main(["train", *told]) == 0
        return run

    return make


def load(run):
    return checkpoint.load(Path(run) / "checkpoints" / "best.ckpt")


def same(one, other, *, of="model."):
    ours, theirs = (each.task.state_dict() for each in (one, other))
    return all(torch.equal(value, theirs[name]) for name, value in ours.items() if name.startswith(of))


def test_a_classifier_has_the_backbone_and_the_tokenizer_of_a_language_model(llm, made, reviews):
    origin = made("gpt2")
    done = llm("train", *reviews, f"init={origin}", *STILL, "hydra.run.dir=run")
    assert done.code == 0, done.err
    ours, theirs = load("run"), load(origin)
    assert same(ours, theirs) and ours.tokenizer.files() == theirs.tokenizer.files()
    assert ours.config["model"] == theirs.config["model"]  # causal too, whatever the task usually wants
    assert ours.content["llm"]["choices"]["model"] == "gpt2" and ours.content["llm"]["choices"]["tokenizer"] == "byte"
    told = " ".join(done.err.split())
    assert f"init 20 tensors (7,920 parameters) of {origin} (gpt2, language_modeling); new: head.linear.weight," in told
    recorded = ours.config["init"]
    assert recorded["new"] == ["head.linear.weight", "head.linear.bias"] and recorded["left"] == []
    assert recorded["path"] == str(origin) and len(recorded["sha256"]) == 64
    assert recorded == OmegaConf.to_container(OmegaConf.load("run/config.yaml"))["init"]


def test_it_resumes_and_scores_without_the_run_it_began_with(llm, made, reviews, tmp_path):
    origin = shutil.copytree(made("gpt2"), tmp_path / "origin")
    options = [*reviews, f"init={origin}", "optimizer=adamw", "schedule=constant", "trainer.accelerator=cpu"]
    options += ["trainer.precision=32-true", "trainer.val_every=2"]
    assert llm("train", *options, "trainer.max_steps=4", "hydra.run.dir=whole").code == 0
    assert llm("train", *options, "trainer.max_steps=2", "hydra.run.dir=cut").code == 0
    shutil.rmtree(origin)
    done = llm("train", "resume=cut", "trainer.max_steps=4")
    assert done.code == 0, done.err
    one, other = (checkpoint.read(Path(name) / "checkpoints" / "last.ckpt") for name in ("whole", "cut"))
    assert one["global_step"] == other["global_step"] == 4
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())
    assert one["llm"]["config"]["init"] == other["llm"]["config"]["init"]
    assert llm("eval", "ckpt=cut").code == 0


def test_the_head_is_taken_where_the_task_and_its_labels_are_the_same(llm, made, reviews, tmp_path):
    origin = made("classes")
    assert llm("train", *reviews, f"init={origin}", *STILL, "hydra.run.dir=again").code == 0
    assert same(load("again"), load(origin), of="head.") and load("again").config["init"]["new"] == []
    other = tmp_path / "other.csv"
    other.write_text(Path(reviews[1].partition("=")[2]).read_text().replace(",bad", ",poor"), encoding="utf-8")
    done = llm("train", *reviews, f"data.path={other}", f"init={origin}", *STILL, "hydra.run.dir=renamed")
    assert done.code == 0 and "left: head.linear.weight, head.linear.bias" in " ".join(done.err.split()), done.err
    assert not same(load("renamed"), load(origin), of="head.") and same(load("renamed"), load(origin))


def test_a_language_model_goes_on_with_the_texts_of_labelled_data(llm, made, reviews):
    origin = made("lstm")
    texts = ["prepare.as_text=true", "task=language_modeling", "batch=windows", "batch.size=2", "batch.seq_len=8"]
    refused = llm("train", *reviews, f"init={origin}", *STILL, *texts[1:], "hydra.run.dir=run")
    assert refused.code == 2 and "prepare.as_text=true batch=windows" in refused.err
    done = llm("train", *reviews, f"init={origin}", *STILL, *texts, "~callbacks.samples", "hydra.run.dir=run")
    assert done.code == 0, done.err
    assert same(load("run"), load(origin), of="") and load("run").config["init"]["new"] == []
    assert llm("eval", "ckpt=run").code == 0  # its own data, as texts again


def test_a_key_of_the_model_may_change_and_shapes_that_no_longer_fit_are_told(llm, made, reviews):
    origin = made("gpt2")
    assert llm("train", *reviews, f"init={origin}", "model.dropout=0.3", *STILL, "hydra.run.dir=drop").code == 0
    assert load("drop").config["model"]["dropout"] == 0.3 and same(load("drop"), load(origin))
    turned = [*reviews, f"init={origin}", "model=gpt2", "model.causal=false", "model.max_seq_len=32", *STILL]
    done = llm("train", *turned, "hydra.run.dir=turned")
    assert done.code == 0, done.err
    config = load("turned").config
    assert config["model"]["causal"] is False and config["model"]["d_model"] == 16  # the rest is the run's
    name = "model.position_embedding.weight"
    assert f"other shapes: {name} (16, 16), here (32, 16)" in " ".join(done.err.split())
    assert name in config["init"]["new"] and name in config["init"]["left"]


def test_another_model_takes_what_has_its_name_and_shape(llm, made, reviews):
    origin = made("gpt2")
    dan = ["model=dan", "model.d_model=16", "clean=[lowercase]"]
    done = llm("train", *reviews, f"init={origin}", *dan, *STILL, "hydra.run.dir=run")
    assert done.code == 0, done.err
    assert same(load("run"), load(origin), of="model.input_embedding") and load("run").config["init"]["tensors"] == 1
    assert "its text had clean=[], this has clean=[lowercase]" in " ".join(done.err.split())


def test_word_vectors_become_the_input_embedding(llm, made, reviews):
    origin = made("words")
    done = llm("train", *reviews, f"init={origin}", "model=dan", "model.d_model=16", *STILL, "hydra.run.dir=run")
    assert done.code == 0, done.err
    words, vectors = load(origin).task.vectors(load(origin).tokenizer)
    table, tokenizer = load("run").task.model.input_embedding.weight, load("run").tokenizer
    for word, vector in zip(words, vectors, strict=True):
        assert torch.equal(table[tokenizer.encode(word)[0]], vector)


@pytest.mark.parametrize(
    ("origin", "options", "message"),
    [
        ("gpt2", ["tokenizer=word"], "tokenizer=word is not the one of init="),
        ("gpt2", ["tokenizer=byte", "model=textcnn"], "none of its weights fits TextCNN"),
        ("gpt2", ["batch.seq_len=32"], "batch.seq_len (32) is above model.max_seq_len (16)"),
        ("gpt2", ["task=masked_lm", "prepare.as_text=true", "batch=windows", "batch.seq_len=16"], "model.causal=false"),
        ("gpt2", ["model.qk_norm=true"], 'there is no config key "model.qk_norm"'),
        ("classes", ["task=language_modeling"], "its model reads both ways, and task=language_modeling predicts"),
        ("ngram", [], "(ngram, counting) was counted, not trained"),
        ("words", ["model=textcnn"], "the vectors of"),
        ("gpt2", ["resume=run"], "resume continues a run as it was: init cannot change"),
    ],
)
def test_what_does_not_go_together_is_refused_before_there_is_a_run(llm, made, reviews, origin, options, message):
    if "resume=run" in options:
        options = [f"resume={made('classes')}"]
    refused = llm("train", *([] if "resume" in str(options) else reviews), f"init={made(origin)}", *options)
    assert refused.code == 2 and message in refused.err, refused.err
    assert not Path("runs").exists()


def test_a_path_without_a_run_and_a_file_that_is_none(llm, reviews, tmp_path):
    refused = llm("train", *reviews, "init=nowhere")
    assert refused.code == 2 and "there is no run or checkpoint nowhere" in refused.err
    (tmp_path / "odd.ckpt").write_bytes(b"odd")
    refused = llm("train", *reviews, "init=odd.ckpt")
    assert refused.code == 2 and "cannot read odd.ckpt: it is truncated or not a checkpoint" in refused.err


def test_an_origin_that_names_what_is_not_trusted_is_refused(llm, made, reviews, tmp_path):
    content = checkpoint.read(made("gpt2") / "checkpoints" / "best.ckpt")
    for section in ("model", "tokenizer"):
        config = content["llm"]["config"]
        before, config[section] = config[section], {**config[section], "_target_": "os.system"}
        torch.save(content, tmp_path / "odd.ckpt")
        config[section] = before
        refused = llm("train", *reviews, "init=odd.ckpt")
        assert refused.code == 2 and f"names os.system, which is not trusted as its {section}" in refused.err


def test_a_context_that_the_model_cannot_read_is_made_shorter_and_said(llm, made, reviews):
    """What the user did not ask for: batch=examples has 256 ids, the run's model reads 16."""
    usual = [each for each in reviews if not each.startswith("batch.seq_len")]
    done = llm("train", *usual, f"init={made('gpt2')}", *STILL, "hydra.run.dir=run")
    assert done.code == 0, done.err
    assert "batch.seq_len=16, not 256: the model of init=" in " ".join(done.err.split())
    config = load("run").config
    assert config["batch"]["seq_len"] == config["task"]["seq_len"] == 16


def test_a_head_of_other_meaning_is_not_taken(llm, reviews, tmp_path):
    """Two classes that exclude each other, or may both hold; numbers in another unit."""
    dan = ["model=dan", "model.d_model=8", "model.n=1", "model.rows=0", "tokenizer=byte"]
    assert llm("train", *reviews, *dan, *STILL, "hydra.run.dir=classes").code == 0
    assert llm("train", *reviews, *STILL, "init=classes", "task.several=true", "hydra.run.dir=several").code == 0
    assert load("several").config["init"]["new"] == ["head.linear.weight", "head.linear.bias"]
    values = ["task=regression", "data.reader.label=null", "data.reader.value=value", *dan, *STILL]
    for name, scale in (("metres", 1), ("feet", 3)):
        rows = [f"number {i},{scale * i}" for i in range(20)]
        (tmp_path / f"{name}.csv").write_text("text,value\n" + "\n".join(rows) + "\n", encoding="utf-8")
    run = ["train", *reviews, *values]
    assert llm(*run, f"data.path={tmp_path / 'metres.csv'}", "hydra.run.dir=metres").code == 0
    for name, new in (("metres", []), ("feet", ["head.linear.weight", "head.linear.bias"])):
        done = llm(*run, f"data.path={tmp_path / name}.csv", "init=metres", f"hydra.run.dir=from_{name}")
        assert done.code == 0, done.err
        assert load(f"from_{name}").config["init"]["new"] == new
