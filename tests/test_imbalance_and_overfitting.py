"""Each means against rare classes and overfitting changes what a run comes to, in the way that it is for.

One word of a text says its class, mostly; the others say nothing. In `rare` one class in eight is rare, and the word is
so often wrong that the frequent class remains the better guess for every text. In `noisy` there are so many other words
that the training texts can be known by heart.
"""

from __future__ import annotations

import json
import random

import pytest

STEPS = 80
RUN = [
    "model=dan", "model.d_model=16", "model.n=1", "model.rows=0", "model.dropout=0", "task.dropout=0", "tokenizer=word",
    "optimizer=adam", "optimizer.lr=0.03", "schedule=constant", f"trainer.max_steps={STEPS}", "trainer.accelerator=cpu",
    f"trainer.val_every={STEPS}", "batch.size=32", "callbacks.samples=null",
]  # fmt: skip


def write(folder, train, *, rare, told, words):
    """Splits of texts of six words; rare and told: the probabilities of the class, and that the word is right."""
    draw = random.Random(1)
    for split, number in (("train", train), ("val", 400)):
        lines = ["text,label"]
        for _ in range(number):
            second = draw.random() < rare
            said = second == (draw.random() < told)
            text = [f"noise{draw.randrange(words)}" for _ in range(5)] + ["odd" if said else "even"]
            lines.append(f"{' '.join(text)},{'second' if second else 'first'}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["data=labeled_text", f"data.path={folder}"]


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rare"), 600, rare=1 / 8, told=0.8, words=20)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    return write(tmp_path_factory.mktemp("noisy"), 160, rare=1 / 2, told=0.85, words=60)


def train(data, folder, *options):
    """The run's folder, and its figures on the validation split after the last step."""
    from llmcli import cli

    run = folder / "run"
    assert cli.main(["train", *data, *RUN, *options, f"hydra.run.dir={run}"]) == 0
    return run, json.loads((run / "metrics.json").read_text())


@pytest.fixture(scope="module")
def plain(rare, noisy, tmp_path_factory):
    """Without any of the means."""
    return {name: train(data, tmp_path_factory.mktemp(name)) for name, data in (("rare", rare), ("noisy", noisy))}


def confidence(llm, run):
    """Mean probability of the label that a text is given."""
    asked = [f"noise{first} noise{first + 1} {word}" for first in range(20) for word in ("odd", "even")]
    answers = llm("predict", f"ckpt={run}", *(part for text in asked for part in ("--text", text)), "top=1", "--json")
    shares = [json.loads(line)["classes"][0]["probability"] for line in answers.out.splitlines()]
    return sum(shares) / len(shares)


@pytest.mark.parametrize("option", ["task.class_weights=inverse", "batch.balance=over", "batch.balance=under"])
def test_rare_classes_are_found(rare, plain, tmp_path, option):
    _, found = train(rare, tmp_path, option)
    assert found["val_recall"] > plain["rare"][1]["val_recall"] + 0.1


@pytest.mark.parametrize("option", ["task.focal_gamma=2", "task.label_smoothing=0.2"])
def test_answers_are_less_sure(llm, noisy, plain, tmp_path, option):
    run, _ = train(noisy, tmp_path, option)
    assert confidence(llm, run) < confidence(llm, plain["noisy"][0]) - 0.05


@pytest.mark.parametrize("option", ["task.dropout=0.8", "model.dropout=0.5", "augment=[random_deletion]"])
def test_less_is_learned_by_heart(noisy, plain, tmp_path, option):
    options = [option, *(["augment.random_deletion.rate=0.3"] if "augment" in option else [])]
    _, found = train(noisy, tmp_path, *options)
    assert found["val_loss"] < plain["noisy"][1]["val_loss"] - 0.05


def test_early_stopping_ends_a_run_that_no_longer_improves(noisy, tmp_path):
    _, found = train(
        noisy, tmp_path, "callbacks=early_stopping", "callbacks.early_stopping.patience=2", "trainer.val_every=10"
    )
    assert found["steps"] < STEPS and found["best_step"] == found["steps"] - 2 * 10
