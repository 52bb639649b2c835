"""The rows of scripts/ablations.py are options that exist, and compare what they say."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmcli import config

_spec = importlib.util.spec_from_file_location("ablations", Path(__file__).parents[1] / "scripts" / "ablations.py")
ablations = importlib.util.module_from_spec(_spec)
sys.modules["ablations"] = ablations  # where its dataclass looks for its module
_spec.loader.exec_module(ablations)


@pytest.mark.parametrize(("name", "steps"), [("shakespeare", 300), ("wikitext2", 300), ("88s", 640)])
def test_rows_differ_from_the_first_and_see_the_same_number_of_tokens(name, steps):
    table = ablations.TABLES[name]
    composed = {row: config.compose("train", table.options(row)) for row in table.rows}
    first, *others = composed.values()
    assert all(other != first for other in others)
    tokens = {row: each.trainer.max_steps * each.batch.size * each.batch.seq_len for row, each in composed.items()}
    assert set(tokens.values()) == {steps * first.batch.size * first.batch.seq_len}, tokens


def test_settings_for_88_seconds_are_chosen_on_training_text():
    table = ablations.TABLES["88s"]
    for row in table.rows:
        composed = config.compose("train", table.options(row))
        # the last tenth of the text, the published validation split, is neither learned from nor looked at
        assert (composed.data.val_fraction, composed.data.test_fraction) == (0.045, 0.1)


def test_what_is_done_with_the_same_options_is_found_again(tmp_path, monkeypatch, capsys):
    table = ablations.Table(base="", rows={"one": "", "no cap": "x=1"})
    monkeypatch.setattr(ablations, "TABLES", {"toy": table})
    of_rows = {"": (2.0, 4.0), "x=1": (1.5, 2.5), "x=2": (1.0, 3.0)}
    losses = {(row, seed): loss for row, both in of_rows.items() for seed, loss in zip("12", both, strict=True)}
    trained = []

    def train(command, **given):
        words = of_rows.keys() & set(command)
        seed = next(each.partition("=")[2] for each in command if each.startswith("seed="))
        trained.append((next(iter(words), ""), seed))
        Path(next(each.partition("=")[2] for each in command if each.startswith("hydra.run.dir="))).mkdir(parents=True)
        out = json.dumps({"val_loss": losses[trained[-1]], "steps": 300})
        return SimpleNamespace(returncode=0, stdout=out, stderr="")

    monkeypatch.setattr(ablations.subprocess, "run", train)
    monkeypatch.setattr("sys.argv", ["ablations.py", "toy", str(tmp_path), "1,2", "data.path=here"])

    def printed():
        trained.clear()
        ablations.main()
        return capsys.readouterr().out.splitlines()[2:]

    first = "| one | 3.000 (2.000 to 4.000) | +0.000 | 300 | 0 |"
    second = "| no cap | 2.000 (1.500 to 2.500) | -1.000 | 300 | 0 |"
    assert printed() == [first, second] and trained == [("", "1"), ("", "2"), ("x=1", "1"), ("x=1", "2")]
    assert printed() == [first, second] and not trained
    table.rows["no cap"] = "x=2"
    changed = "| no cap | 2.000 (1.000 to 3.000) | -1.000 | 300 | 0 |"
    assert printed() == [first, changed] and trained == [("x=2", "1"), ("x=2", "2")]
    table.rows["no cap"] = "x=1"
    assert printed() == [first, second] and not trained
    monkeypatch.setattr("sys.argv", ["ablations.py", "toy", str(tmp_path), "1,2", "data.path=there"])
    assert printed() == [first, second] and len(trained) == 4
