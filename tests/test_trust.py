"""A checkpoint from elsewhere runs no code, writes no file and fetches nothing, whatever its config says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import llmcli
from llmcli import config
from llmcli.catalog import Catalog
from llmcli.errors import CheckpointError
from llmcli.trust import check_targets

SECTIONS = (
    "data", "tokenizer", "batch", "model", "task", "optimizer", "schedule", "trainer", "decoding", "callbacks",
    "logger",
)  # fmt: skip
LINEAR = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}


def built(section: str, node: dict) -> object:
    """What a checkpoint builds from `node` as one of its sections."""
    return config.build(OmegaConf.create({section: node})[section], trusted=config.trusted())


# -- what may be named ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "pathlib.Path.write_text",
        "torch.load",
        "torch.hub.load",
        "torch.utils.cpp_extension.load_inline",
        "torch.nn.modules.module.torch.load",
        "torch.nn.functional.relu",
        "torch.nn.modules.module.warnings.warn",
        "torch.nn.parallel.DistributedDataParallel",
        "torch.optim.optimizer.os.system",
        "llmcli.api.load",
        "llmcli.load",
        "llmcli.schema.locate",
        "llmcli.preparation.prepare_data",
        "llmcli.data.cache.write_atomic",
        "llmcli.files.write_atomic",
        "llmcli.data.download.fetch",
        "llmcli.data.published_files.fetch",
        "llmcli.data.prepare.shutil.rmtree",
        "llmcli.tokenizers.store.save",
        "llmcli.tokenizers.store.load",
        "llmcli.text.normalize.unicodedata.normalize",
        "llmcli.models.transformer.nn.Linear",
        "llmcli.models.transformer.torch.load",
        "llmcli.checkpoint.os.system",
        "llmcli.heads.torch.load",
        "llmcli.runs.delete",
        "llmcli.cli.main",
        "llmcli.__main__.main",
        "llmcli.ui.sys.exit",
        "llmcli_evil.thing",
        "",
    ],
)
@pytest.mark.parametrize("section", SECTIONS)
def test_no_section_may_name(target, section):
    for node in ({"_target_": target}, {"x": [{"y": {"_target_": target}}]}):
        with pytest.raises(CheckpointError, match="is not trusted as its") as caught:
            built(section, node)
        assert target in str(caught.value)


def test_a_section_may_name_what_the_config_files_of_its_group_name_and_no_other_groups():
    for section in SECTIONS:
        for option in Catalog([config.config_dir()]).options(section):
            node = OmegaConf.to_container(OmegaConf.load(option.path), resolve=False)
            plain = json.loads(json.dumps(node).replace("${", ""))
            check_targets(plain, section)
            if "_target_" in json.dumps(node):
                with pytest.raises(CheckpointError, match="not trusted"):
                    check_targets(plain, "batch" if section != "batch" else "model")


def test_layers_optimizers_and_cleaning_steps():
    assert isinstance(built("model", LINEAR), torch.nn.Linear)
    partial = built("optimizer", {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1})
    assert partial([torch.nn.Parameter(torch.ones(1))]).defaults["lr"] == 0.1
    step = {"_target_": "llmcli.text.normalize.unicode_normalize", "_partial_": True, "form": "NFC"}
    assert built("clean", {"unicode": step})["unicode"]("e\u0301") == "\xe9"
    for section, node in (("decoding", LINEAR), ("model", step)):
        with pytest.raises(CheckpointError, match="not trusted"):
            built(section, node)


def test_a_node_outside_every_section_may_name_nothing():
    with pytest.raises(CheckpointError, match="not trusted"):
        config.build(LINEAR, trusted=())


def test_trust_does_not_reach_what_a_package_imports(tmp_path, monkeypatch):
    (tmp_path / "thin_package.py").write_text("from os import system\nimport torch\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LLM_TRUST", "thin_package")
    for target in ("thin_package.system", "thin_package.torch.load", "thin_packages.x", "os.system"):
        with pytest.raises(CheckpointError, match="not trusted"):
            built("model", {"_target_": target})


# -- what a hostile file does --------------------------------------------------------------------------------------


@pytest.fixture
def hostile(trained, tmp_path):
    """Save a run whose config `change` has changed; the run folder."""

    def make(change) -> Path:
        folder = Path(shutil.copytree(trained, tmp_path / "hostile"))
        for path in (folder / "checkpoints").glob("*.ckpt"):
            content = torch.load(path, weights_only=True)
            change(content["llm"]["config"])
            torch.save(content, path)
        return folder

    return make


@pytest.fixture(params=["generate", "eval", "resume", "api"])
def use(request, llm):
    """Use a run folder in each of the ways; the message of the refusal."""

    def call(folder: Path) -> str:
        if request.param == "api":
            with pytest.raises(CheckpointError) as caught:
                llmcli.load(folder).evaluate()
            return str(caught.value)
        arguments = {
            "generate": ["generate", f"ckpt={folder}", "--prompt", "the", "max_new_tokens=2"],
            "eval": ["eval", f"ckpt={folder}"],
            "resume": ["train", f"resume={folder}", "trainer.max_steps=14"],
        }[request.param]
        result = llm(*arguments)
        assert result.code == 2
        return result.err

    return call


def _nested(mark: Path) -> dict:
    path = {"_target_": "pathlib.Path", "_args_": [str(mark)]}
    return {"_target_": "pathlib.Path.write_text", "_args_": [path, "owned"]}


def test_an_interpolation_that_makes_a_node_is_refused(hostile, use, tmp_path):
    mark = tmp_path / "mark"
    write = f"{{_target_:pathlib.Path.write_text,_args_:[{{_target_:pathlib.Path,_args_:['{mark}']}},'owned']}}"
    folder = hostile(lambda config: config["model"].update(dropout=f"${{oc.create:{write}}}"))
    assert "holds the interpolation ${oc.create" in use(folder)
    assert not mark.exists()


def test_a_reference_to_another_node_is_refused(hostile, use, tmp_path):
    mark = tmp_path / "mark"

    def change(config):
        config["evil"] = _nested(mark)
        config["batch"]["size"] = "${evil}"

    assert "holds the interpolation ${evil}" in use(hostile(change))
    assert not mark.exists()


def test_the_environment_is_not_read(hostile, use):
    folder = hostile(lambda config: config["data"].update(path="${oc.env:HOME}"))
    assert "holds the interpolation ${oc.env:HOME}" in use(folder)


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "llmcli.schema.locate", "target": "antigravity"},
        {"_target_": "llmcli.api.load", "run": "elsewhere"},
        {"_target_": "llmcli.files.write_atomic", "path": "mark", "content": "owned"},
        {"_target_": "llmcli.data.download.fetch", "url": "file:///etc/hostname", "sha256": "0", "cache_dir": "."},
        {"_target_": "torch.hub.load", "repo_or_dir": "a/b", "model": "c"},
        {"_target_": "llmcli.models.transformer.torch.load", "f": "x"},
    ],
    ids=lambda node: node["_target_"],
)
def test_a_function_is_refused_wherever_it_hides(hostile, use, tmp_path, node):
    folder = hostile(lambda config: config["model"].update(dropout=node))
    before = sorted(tmp_path.iterdir())
    assert f"names {node['_target_']}, which is not trusted" in use(folder)
    assert sorted(tmp_path.iterdir()) == before


def test_text_that_no_checkpoint_may_hold_is_refused_before_training(llm, small):
    result = llm("train", *small, "model.n_heads=2", r"callbacks.samples.prompt='a \${b}'", "hydra.run.dir=run")
    assert result.code == 2 and "may not hold the characters ${" in result.err
    assert not Path("run").exists()


@pytest.mark.parametrize("section", ["clean", "batch", "trainer"])
def test_other_data_does_not_lift_the_trust_that_the_rest_of_the_run_needs(hostile, llm, corpus, tmp_path, section):
    mark = tmp_path / "mark"
    folder = hostile(lambda config: config.update({section: {**(config[section] or {}), "evil": _nested(mark)}}))
    text = ["data=text", f"data.path={corpus}", "data.seed=5", "split=train"]
    result = llm("eval", f"ckpt={folder}", *text)
    assert not mark.exists()
    assert section == "trainer" or (result.code == 2 and f"is not trusted as its {section}" in result.err)
