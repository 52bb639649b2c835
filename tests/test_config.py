"""Composing, checking and building configs: exact errors, what reaches constructors, what a checkpoint may name."""

import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from llmcli import config
from llmcli.errors import InputError
from llmcli.optim import schedules
from llmcli.schema import mismatch
from llmcli.text.normalize import lowercase


class Toy:
    """A target with one parameter of each kind."""

    def __init__(
        self,
        *,
        width: int,
        rate: float = 0.1,
        kind: Literal["a", "b"] = "a",
        flag: bool = False,
        name: str | None = None,
        sizes: list[int] | None = None,
        inner: Any = None,
    ) -> None:
        if width < 0:
            raise ValueError(f"width ({width}) must be positive")
        if width == 13:
            raise InputError("width (13) is unlucky", hint="take 14")
        if width == 0:
            raise KeyError("a bug")
        self.width, self.rate, self.sizes, self.inner = width, rate, sizes, inner


@dataclass(frozen=True)
class Settings:
    steps: int
    time: str | float | None = None


def scaled(values: Sequence[float], factor: float) -> list[float]:
    return [value * factor for value in values]


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    module = types.ModuleType("toys")
    for each in (Toy, Settings, scaled):
        setattr(module, each.__name__, each)
    monkeypatch.setitem(sys.modules, "toys", module)


def toy(**values):
    return OmegaConf.create({"model": {"_target_": "toys.Toy", "width": 4, **values}, "facts": {"size": "???"}})


# -- composing --------------------------------------------------------------------------------------------------


def test_composing_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = list(sys.argv)
    config.capture("train", ["data=text", f"hydra.run.dir={tmp_path}/new"])
    assert list(tmp_path.iterdir()) == []
    assert not GlobalHydra.instance().is_initialized() and HydraConfig.instance().cfg is None
    assert sys.argv == typed and Path.cwd() == tmp_path


def test_launch_tells_what_was_asked_for(tmp_path):
    config.capture("train", ["model=lstm", "data.eos=false", "hydra.run.dir=a/b"], config_dirs=[str(tmp_path)])
    launch = config.launch()
    assert launch.command == "train"
    assert launch.overrides == ["model=lstm", "data.eos=false"]
    assert (launch.choices["model"], launch.choices["data"]) == ("lstm", "python_docs")
    assert "experiment" not in launch.choices
    assert launch.run_dir == "a/b" and launch.config_dirs == [str(tmp_path)]
    config.capture("train", [])
    assert config.launch().run_dir is None


def test_data_brings_its_tokenizer_and_the_command_line_still_wins(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "poems.yaml").write_text(
        "# poems\ndefaults:\n  - override /tokenizer@_global_.tokenizer: char\n_target_: toys.Toy\n"
    )
    composed = config.compose("train", ["data=poems"], config_dirs=[str(tmp_path)])
    assert composed.tokenizer == config.compose("train", ["tokenizer=char"]).tokenizer
    composed = config.compose("train", ["data=poems", "tokenizer=byte"], config_dirs=[str(tmp_path)])
    assert composed.tokenizer == config.compose("train", ["tokenizer=byte"]).tokenizer
    assert config.compose("eval", ["data=poems"], config_dirs=[str(tmp_path)]).data == {"_target_": "toys.Toy"}


def test_a_users_folder_comes_first(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "lstm.yaml").write_text("# mine\n_target_: toys.Toy\nwidth: 7\n")
    assert config.compose("train", ["model=lstm"], config_dirs=[str(tmp_path)]).model.width == 7
    assert config.compose("train", ["model=lstm"]).model._target_ != "toys.Toy"


@pytest.mark.parametrize(
    "path",
    [
        "my book (1).txt",
        "a/b=c, d.txt",
        "100% [draft}.txt",
        "it's.txt",
        "${oc.env:HOME} (2).txt",
        'a"b(.txt',
        "日本 (1).txt",
    ],
)
def test_a_plain_value_outside_the_grammar_is_taken_literally(path):
    assert config.compose("train", ["data=text", f"data.path={path}"]).data.path == path


def test_an_existing_file_with_a_comma_is_one_value(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"data.path=a,b.txt names several values"):
        config.compose("train", ["data=text", "data.path=a,b.txt"])
    (tmp_path / "a,b.txt").touch()
    assert config.compose("train", ["data=text", "data.path=a,b.txt"]).data.path == "a,b.txt"


def test_prepare_takes_every_override_of_train():
    overrides = ["data=text", "data.path=x", "tokenizer=char", "model=lstm", "trainer.max_steps=3"]
    assert config.compose("prepare", overrides) == config.compose("train", overrides)


def test_resolved_is_plain_and_complete():
    cfg = OmegaConf.create({"a": {"b": "${c}", "d": [1, 2.5, None, True]}, "c": "x"})
    assert config.resolved(cfg) == {"a": {"b": "x", "d": [1, 2.5, None, True]}, "c": "x"}
    with pytest.raises(InputError, match="cannot be resolved"):
        config.resolved(OmegaConf.create({"a": "${nowhere}"}))


def test_with_facts_leaves_the_original_alone():
    cfg = toy(sizes=["${facts.size}"])
    changed = config.with_facts(cfg, {"size": 9})
    assert changed.model.sizes[0] == 9
    assert OmegaConf.is_missing(cfg.facts, "size")


# -- checking ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": "abc"}, "model.width: expected int, got 'abc'"),
        ({"width": 1.5}, "model.width: expected int, got 1.5"),
        ({"width": True}, "model.width: expected int, got True"),
        ({"rate": "fast"}, "model.rate: expected float, got 'fast'"),
        ({"rate": None}, "model.rate: expected float, got None"),
        ({"kind": "c"}, "model.kind: expected one of a, b, got 'c'"),
        ({"flag": 1}, "model.flag: expected bool, got 1"),
        ({"name": 3}, "model.name: expected str or null, got 3"),
        ({"sizes": [1, "x"]}, "model.sizes: expected list[int] or null, got [1, 'x']"),
        ({"widht": 3}, 'there is no config key "model.widht". Did you mean model.width?'),
        ({"inner": {"_target_": "toys.Toy", "width": "x"}}, "model.inner.width: expected int, got 'x'"),
        ({"inner": [{"_target_": "toys.Toy"}]}, "model.inner.0.width is missing"),
        ({"rate": "${nowhere}"}, "model.rate: Interpolation key 'nowhere' not found"),
        ({"_target_": "toys.Tyo"}, "_target_ toys.Tyo: toys has no Tyo. Did you mean Toy?"),
        ({"_target_": "no_such.Thing"}, "_target_ no_such.Thing: there is no module no_such"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(values, message):
    with pytest.raises(InputError) as caught:
        config.validate(toy(**values))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "values",
    [
        {"rate": 1, "kind": "b", "flag": True, "name": None, "sizes": [1, 2]},
        {"width": "${facts.size}"},
        {"sizes": ["${facts.size}"]},
        {"inner": {"_target_": "toys.scaled", "_partial_": True, "factor": 2}},
        {"inner": {"_target_": "toys.Settings", "steps": 3, "time": "10m"}},
    ],
)
def test_right_values_pass(values):
    config.validate(toy(**values))


def test_a_missing_value_says_how_to_give_it():
    config.capture("train", ["data=text"])
    cfg = OmegaConf.create({"data": {"_target_": "toys.Settings", "steps": "???"}})
    with pytest.raises(InputError, match=r"data\.steps is not set") as caught:
        config.validate(cfg)
    assert caught.value.hint == "llm train data=text data.steps=STEPS"


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, float, True),
        (True, int, False),
        (True, float, False),
        ("a", Literal["a"], True),
        (1, Literal[True], False),
        ([1, 2], tuple[int, int], True),
        ([1, 2, 3], tuple[int, int], False),
        ([1, 2, 3], tuple[int, ...], True),
        ({"a": 1}, dict[str, int], True),
        ({"a": "x"}, Mapping[str, int], False),
        ([1.0], Sequence[float], True),
        ("abc", Sequence[str], False),
        (None, int | None, True),
        ("x", Callable[[str], str], True),
        (3, Any, True),
    ],
)
def test_fit_of_plain_values(value, hint, fits):
    assert (mismatch(value, hint) is None) is fits


# -- building ---------------------------------------------------------------------------------------------------


def test_constructors_get_plain_containers_and_untouched_extras():
    settings = Settings(steps=3)
    built = config.build(toy(sizes=[1, 2]).model, inner=settings)
    assert type(built.sizes) is list
    assert built.inner is settings


def test_a_partial_stays_one_and_keeps_its_extras():
    node = OmegaConf.create({"_target_": "toys.scaled", "_partial_": True})
    assert config.build(node, factor=3.0)([1.0, 2.0]) == [3.0, 6.0]


def test_sections_and_nothing():
    assert config.build(None) is None
    built = config.build(OmegaConf.create({"one": {"_target_": "toys.Toy", "width": 1}}))
    assert built["one"].width == 1


@pytest.mark.parametrize("nested", [False, True])
def test_a_refused_value_is_an_input_error_with_its_key(nested):
    bad = {"_target_": "toys.Toy", "width": -1}
    cfg = toy(inner=bad) if nested else OmegaConf.create({"model": bad})
    with pytest.raises(InputError) as caught:
        config.build(cfg.model)
    assert str(caught.value) == f"model{'.inner' if nested else ''}: width (-1) must be positive"


@pytest.mark.parametrize("nested", [False, True])
def test_an_input_error_keeps_its_hint(nested):
    bad = {"_target_": "toys.Toy", "width": 13}
    cfg = toy(inner=bad) if nested else OmegaConf.create({"model": bad})
    with pytest.raises(InputError, match=r"width \(13\) is unlucky") as caught:
        config.build(cfg.model)
    assert caught.value.hint == "take 14"


@pytest.mark.parametrize("nested", [False, True])
def test_a_bug_in_a_constructor_stays_what_it_is(nested):
    bad = {"_target_": "toys.Toy", "width": 0}
    cfg = toy(inner=bad) if nested else OmegaConf.create({"model": bad})
    with pytest.raises(KeyError, match="a bug"):
        config.build(cfg.model)


def test_partials_call_their_target_without_asking_hydra_each_time():
    cfg = config.compose("train", ["schedule=linear", "clean=[lowercase]"])
    assert config.build(cfg.schedule).func is schedules.linear
    assert config.build(cfg.clean)["lowercase"].func is lowercase
