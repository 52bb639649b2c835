"""The rows of scripts/ablations.py are options that exist, and compare what they say."""

import importlib.util
import sys
from pathlib import Path

import pytest

from llmcli import config

_spec = importlib.util.spec_from_file_location("ablations", Path(__file__).parents[1] / "scripts" / "ablations.py")
ablations = importlib.util.module_from_spec(_spec)
sys.modules["ablations"] = ablations  # where its dataclass looks for its module
_spec.loader.exec_module(ablations)


@pytest.mark.parametrize("name", ["shakespeare", "wikitext2"])
def test_rows_differ_from_the_first_and_see_the_same_number_of_tokens(name):
    table = ablations.TABLES[name]
    composed = {row: config.compose("train", table.options(row)) for row in table.rows}
    first, *others = composed.values()
    assert all(other != first for other in others)
    tokens = {row: each.trainer.max_steps * each.batch.size * each.batch.seq_len for row, each in composed.items()}
    assert set(tokens.values()) == {300 * first.batch.size * first.batch.seq_len}, tokens


def test_settings_for_88_seconds_are_chosen_on_training_text():
    table = ablations.TABLES["88s"]
    for row in table.rows:
        composed = config.compose("train", table.options(row))
        assert composed.trainer.max_time == "88s"
        # the last tenth of the text, the published validation split, is neither learned from nor looked at
        assert (composed.data.val_fraction, composed.data.test_fraction) == (0.045, 0.1)


def test_what_is_done_is_found_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablations, "TABLES", {"toy": ablations.Table(base="", rows={"one": "", "no cap": "x=1"})})
    for row, losses in {"one": (2.0, 4.0), "no-cap": (1.5, 2.5)}.items():
        for seed, loss in zip("12", losses, strict=True):
            folder = tmp_path / "toy" / row / seed
            folder.mkdir(parents=True)
            (folder / "row.json").write_text(f'{{"val_loss": {loss}, "steps": 300, "processor": 7.4}}')
    monkeypatch.setattr("sys.argv", ["ablations.py", "toy", str(tmp_path), "1,2"])
    ablations.main()
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| one | 3.000 (2.000 to 4.000) | +0.000 | 300 | 7 |",
        "| no cap | 2.000 (1.500 to 2.500) | -1.000 | 300 | 7 |",
    ]
