"""The code keeps to docs/architecture.md: who imports whom, and what every YAML file is."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from llmcli import catalog, config, schema
from llmcli.models.base import EncoderOnly

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text("utf-8"))
    for path in sorted((ROOT / "llmcli").rglob("*.py"))
}
EVERYBODYS = ("errors", "mistakes")


# -- imports -------------------------------------------------------------------------------------------------------


def rows(heading: str) -> dict[str, list[str]]:
    """The table of docs/architecture.md that begins with this heading: first cell -> the names in the second."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    table = page.split(f"| {heading} |", 1)[1].split("\n\n", 1)[0]
    lines = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    return {re.findall("`(.+?)`", first)[0]: re.findall("`(.+?)`", second) for first, second in lines}


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `if TYPE_CHECKING`, which no program runs."""
    yield node
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    for child in ast.iter_child_nodes(node):
        yield from executed(child)


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of the modules that a file imports, at its top or in its functions."""
    found = set()
    for node in executed(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute here"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}  # a module, or what a module has
            found |= {name if name in MODULES else node.module for name in whole}
    return found


def below(name: str, parents: list[str] | tuple[str, ...]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def part_of(module: str) -> str:
    """llmcli.data.readers.text -> data."""
    return module.removeprefix("llmcli.").partition(".")[0]


OURS, LIBRARIES = rows("part"), rows("library")
NAMED = [name for name in MODULES if name != "llmcli"]


@pytest.mark.parametrize("part", sorted({part_of(name) for name in NAMED}))
def test_imports_run_one_way(part):
    assert part in OURS, f"docs/architecture.md has no row for {part}"
    allowed = [*OURS[part], *EVERYBODYS, part]
    for module in (name for name in NAMED if part_of(name) == part):
        for name in imported(MODULES[module]):
            if name.startswith("llmcli."):
                assert below(name.removeprefix("llmcli."), allowed), f"{module} imports {name}"


def test_the_tables_name_only_what_is_there():
    known = [name.removeprefix("llmcli.") for name in MODULES]
    named = {*OURS, *(name for names in (*OURS.values(), *LIBRARIES.values()) for name in names)}
    assert named <= set(known)


@pytest.mark.parametrize("module", NAMED)
def test_libraries_are_imported_by_their_owners(module):
    for name in imported(MODULES[module]):
        library = name.partition(".")[0]
        if library == "llmcli" or library in sys.stdlib_module_names:
            continue
        assert library in LIBRARIES, f"{module} imports {library}, which has no owner in docs/architecture.md"
        assert below(module.removeprefix("llmcli."), LIBRARIES[library]), f"{module} imports {library}"


def test_every_dependency_has_an_owner_and_the_other_way_round():
    """A library that nothing uses is no dependency, one that is used is declared."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    listed = text.split("\ndependencies = [", 1)[1].split("\n]", 1)[0]
    declared = {name.replace("-", "_") for name in re.findall(r'^\s*"([\w-]+)', listed, flags=re.MULTILINE)}
    # a distribution's name and its package's
    packages = {{"hydra_core": "hydra"}.get(name, name) for name in declared} | {"lightning_fabric"}
    assert packages == set(LIBRARIES)


def test_one_place_loads_checkpoints_and_unpickles_nothing():
    loads = [
        (module, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords})
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert [module for module, _ in loads] == ["llmcli.checkpoint"]
    assert loads[0][1]["weights_only"] == "True"
    pickling = {
        module
        for module, tree in MODULES.items()
        if any(below(name, ("pickle", "cloudpickle", "dill")) for name in imported(tree))
    }
    assert pickling == {"llmcli.data.workers"}  # what a process says to those that it started itself, never a file


def test_only_ui_writes():
    """And cli and completion, for what must not wait for rich."""
    for module, tree in MODULES.items():
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert "print" not in called, module
        if module not in ("llmcli.ui", "llmcli.cli", "llmcli.commands.completion"):
            assert not any(below(name, ("sys.stdout", "sys.stderr")) for name in called), module


def test_one_place_builds():
    callers = {
        module for module, tree in MODULES.items() if any(below(name, ("hydra.utils",)) for name in imported(tree))
    }
    assert callers == {"llmcli.config"}


def test_the_commands_are_imported_without_torch():
    commands = [name for name in MODULES if name.startswith("llmcli.commands.")]
    code = f"import sys, {', '.join(commands)}; print(*({{'torch', 'pytorch_lightning', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


# -- YAML ----------------------------------------------------------------------------------------------------------

OPTIONS = [
    pytest.param(group, option.name, id=f"{group}={option.name}")
    for shelf in [catalog.Catalog([catalog.config_dir()])]
    for group in shelf.groups()
    for option in shelf.options(group)
]
# What the program itself hands to a partial; everything else stands in the YAML.
FACTS = {
    "vocab_size": 100, "pad_id": 0, "bos_id": 2, "eos_id": 3, "names": ["a", "b"], "name_counts": [3, 1],
}  # fmt: skip
HANDED_OVER = {
    "clean": {"text"},
    "data": {"text"},
    "batch": {"prepared", "seed", "contiguous", "accumulate", "encode"},
    "optimizer": {"module"},
    "schedule": {"progress", "step"},
    "task": {"model", "optimizer", "schedule"},
    "tokenizer": {"texts"},
}
NEEDED = {  # what an option cannot do without
    "batch=cooccurrences": "model=glove",
    "task=word_vectors": "model=word2vec",
    "task=linear_classification": "model=tfidf",
    "data=hf": "data.path=owner/name",
    "data=hf_text": "data.path=owner/name",
    "augment=synonyms": "augment.synonyms.path=synonyms.txt",
    "augment=random_insertion": "augment.random_insertion.path=synonyms.txt",
    "augment=neighbours": "augment.neighbours.path=vectors.txt",
}


def composed(group: str, option: str) -> DictConfig:
    needed = [value for key, value in NEEDED.items() if key == f"{group}={option}"]
    if group == "template":  # keys of these tasks
        needed = ["task=chat"]
    if group == "model" and issubclass(target_of(group, option), EncoderOnly):
        needed = ["task=classification"]
    if group == "data" and not needed and needs_path(OmegaConf.load(ROOT / "configs" / "data" / f"{option}.yaml")):
        needed = ["data.path=corpus.txt"]
    cfg = config.compose("train", [f"{group}={option}", *needed])
    return config.with_facts(cfg, FACTS)


def target_of(group: str, option: str) -> Any:
    return schema.locate(str(OmegaConf.load(ROOT / "configs" / group / f"{option}.yaml")._target_))


def needs_path(source: Any) -> bool:
    """Whether it is the user who says what is read."""
    urls = source.get("urls") or source.get("url") or (source.get("files") or {}).get("urls")
    return "path" in source and source.path is None and not urls


def targets(node: Any) -> Iterator[DictConfig]:
    if not isinstance(node, DictConfig | ListConfig):
        return
    if isinstance(node, DictConfig) and "_target_" in node:
        yield node
    for child in node.values() if isinstance(node, DictConfig) else node:
        yield from targets(child)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_begins_with_its_meaning(path):
    first = path.read_text("utf-8").splitlines()[0]
    assert re.fullmatch(r"# \S.{8,110}", first), first
    assert not first.endswith(".")


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_the_keys_are_the_parameters_of_the_target(group, option):
    """None unknown, none of the wrong type, none missing that the program does not hand over itself."""
    cfg = composed(group, option)
    config.validate(cfg)
    for node in targets(cfg[group] if group in cfg else OmegaConf.create()):
        parameters = inspect.signature(schema.locate(str(node["_target_"]))).parameters
        needed = {name for name, each in parameters.items() if each.default is inspect.Parameter.empty}
        given = {str(key) for key in node if not str(key).startswith("_")}
        assert given <= set(parameters)
        assert needed - given <= (HANDED_OVER.get(group, set()) if node.get("_partial_") else set()), node["_target_"]


@pytest.mark.parametrize(
    ("group", "option"),
    [each for each in OPTIONS if each.values[0] not in ("experiment", "logger", "callbacks", "template")],
)
def test_every_option_builds(group, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {"corpus": "some text\n", "synonyms": "quick, fast\n", "vectors": "cat 1 0\ndog 0 1\n"}
    for name, content in files.items():
        (tmp_path / f"{name}.txt").write_text(content, encoding="utf-8")
    built = config.build(composed(group, option)[group])
    assert built is not None
    if group == "optimizer":
        weights = torch.nn.Linear(4, 4)
        optimizer = built(module=weights)
        before = weights.weight.detach().clone()
        weights(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
        assert not torch.equal(weights.weight, before)
    elif group == "schedule":
        factors = [built(progress, round(1000 * progress)) for progress in (0.0, 0.01, 0.3, 1.0)]
        assert all(0.0 <= factor <= 1.0 for factor in factors) and max(factors) > 0.5
    elif group == "model":
        assert getattr(built, "vocab_size", 100) == 100  # tfidf counts terms of its own


def test_the_groups_of_the_page_are_those_of_the_folder():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    table = page.split("| group |", 1)[1].split("\n\n", 1)[0]
    named = {name for line in table.splitlines()[2:] for name in re.findall("`(.+?)`", line.split("|")[1])}
    assert named == set(catalog.Catalog([catalog.config_dir()]).defaults("train"))
