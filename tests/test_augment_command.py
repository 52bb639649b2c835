"""`llm train augment=[...]`: from the command line to the batches."""

from __future__ import annotations

import random

import pytest

from llmcli import files

STEPS = ["augment=[random_deletion,synonyms]", "augment.synonyms.path=synonyms.txt"]
SMALL = [
    "model=dan",
    "model.rows=64",
    "model.d_model=16",
    "optimizer=adam",
    "batch.size=8",
    "trainer.max_steps=3",
    "prepare.workers=1",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with labelled texts and synonyms."""
    monkeypatch.chdir(tmp_path)
    draw, words = random.Random(1), {"good": ["lovely", "warm"], "bad": ["dull", "slow"]}
    rows = ["text,label"]
    for label in draw.choices(list(words), k=60):
        one, other = draw.choices(words[label], k=2)
        rows.append(f"scene {len(rows)} of the film was a {one} story with {other} music,{label}")
    (tmp_path / "films.csv").write_text("\n".join(rows))
    (tmp_path / "synonyms.txt").write_text("lovely, charming\ndull, boring\n")
    return tmp_path


def test_augmentation_changes_what_is_learned_and_not_what_is_scored(llm, folder):
    found = []
    for number, more in enumerate(([], STEPS)):
        run = f"hydra.run.dir=run-{number}"
        result = llm("train", "data=labeled_text", "data.path=films.csv", *SMALL, "trainer.accelerator=cpu", *more, run)
        assert result.code == 0, result.err
        found.append(files.read_json(folder / f"run-{number}" / "metrics.json")["val_loss"])
    assert found[0] != found[1]
    (folder / "synonyms.txt").unlink()  # what is scored is not changed, so the steps are not needed
    assert llm("eval", "ckpt=run-1", "accelerator=cpu").code == 0


def test_labels_are_weighed_by_their_names(llm, folder):
    table = (folder / "films.csv").read_text()
    (folder / "stars.csv").write_text(table.replace(",good\n", ",5\n").replace(",bad\n", ",1\n"))
    told = ["train", "data=labeled_text", *SMALL, "trainer.accelerator=cpu", "--dry-run"]
    for path, label in (("films.csv", "good"), ("stars.csv", "5")):
        result = llm(*told, f"data.path={path}", f"batch.label_weights={{{label}: 2.0}}")
        assert result.code == 0, result.err
    refused = llm(*told, "data.path=stars.csv", "batch.label_weights={4: 2.0}")
    assert refused.code == 2
    assert "batch.label_weights: no training example has the label '4'\n       labels: 1, 5" in refused.err


def test_running_text_has_no_augmentation(llm, corpus):
    result = llm(
        "train",
        "data=text",
        f"data.path={corpus}",
        "tokenizer=byte",
        *SMALL[-1:],
        "augment=[random_deletion]",
        "--dry-run",
    )
    assert result.code == 2
    assert "changes labelled, tagged or paired examples; this data holds running text" in result.err
