"""The pages say what is so: their commands compose, those marked as runnable run, their links lead somewhere.

A fenced block may have a comment line before it: `<!-- run -->` (its `llm` lines or its Python are run, all blocks of
a page one after the other in one folder) or `<!-- file: PATH -->` (written to PATH in that folder first).
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from llmcli import catalog, cli, config
from llmcli.data.readers import python_docs
from llmcli.data.readers.python import files as python_files

ROOT = Path(__file__).resolve().parents[1]
PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.is_file()]
# What the pages promise to run "in seconds" is run here in moments: these values are added to every training run, and
# the default data is the docstrings of a few modules.
SMALL = {
    "trainer.max_steps": 3,
    "trainer.val_every": 3,
    "trainer.val_batches": 1,
    "trainer.accelerator": "cpu",
    "batch.size": 2,
    "batch.seq_len": 16,
    "callbacks.samples.max_new_tokens": 4,
}
FEW_MODULES = {"argparse.py", "random.py", "statistics.py", "string.py", "textwrap.py"}
_BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    mark: str
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        return self.text.replace("\\\n", " ").splitlines()

    @property
    def commands(self) -> list[list[str]]:
        """The arguments of every line that calls llm."""
        return [shlex.split(line, comments=True)[1:] for line in self.lines if line.startswith("llm ")]


def blocks(page: Path) -> list[Block]:
    return [Block(found["mark"] or "", found["language"], found["text"]) for found in _BLOCK.finditer(read(page))]


def read(page: Path) -> str:
    return page.read_text("utf-8")


def write_files(page: Path, folder: Path) -> None:
    for block in blocks(page):
        if block.mark.startswith("file: "):
            path = folder / block.mark.removeprefix("file: ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")


def single(override: str) -> list[str]:
    """Each value that a sweep gives this key; the override itself where it gives one."""
    key, _, value = override.partition("=")
    if "," not in value and not re.match(r"(choice|range|glob)\(", value):
        return [override]
    parsed = OverridesParser.create().parse_override(override)
    return [f"{key}={each}" for each in parsed.sweep_string_iterator()] if parsed.is_sweep_override() else [override]


def composed(words: list[str]) -> tuple[cli.Arguments, list[DictConfig]]:
    """The arguments of a command line and its config; of a sweep the configs of its values, one changed at a time."""
    arguments = cli.read(words[0], words[1:])
    root, variants = cli.COMMANDS[words[0]].config, [arguments.overrides]
    if arguments.multirun:
        values = [single(override) for override in arguments.overrides]
        first = [each[0] for each in values]
        variants = [[*first[:i], each, *first[i + 1 :]] for i, group in enumerate(values) for each in group]
    configs = []
    for overrides in variants:
        cfg = config.capture(str(root), overrides, config_dirs=arguments.config_dirs)
        assert cfg is not None
        if cfg.get("resume") is None:
            config.validate(cfg)
        configs.append(cfg)
    return arguments, configs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_composes(page, tmp_path, monkeypatch, llm):
    write_files(page, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    inline = re.findall(r"`llm ((?:train|eval|generate|prepare|runs)\b[^`]*)`", re.sub(_BLOCK, "", read(page)))
    fenced = [words for block in blocks(page) if block.language == "bash" for words in block.commands]
    for words in [*fenced, *map(shlex.split, inline)]:
        if words[0].startswith("-") or cli.COMMANDS[words[0]].config is None or "--help" in words:
            assert llm(*words).code == 0, words
        else:
            composed(words)


RUNNABLE = [page for page in PAGES if any(block.mark == "run" for block in blocks(page))]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_what_is_marked_runs(page, tmp_path, monkeypatch, llm):
    everything = python_files.source_files
    monkeypatch.setattr(
        python_files, "source_files", lambda folder: (f for f in everything(folder) if f.name in FEW_MODULES)
    )
    monkeypatch.setattr(python_docs, "TOPICS", Path("left", "out"))
    write_files(page, tmp_path)
    for block in blocks(page):
        if block.mark != "run":
            continue
        if block.language == "python":
            exec(compile(block.text, str(page), "exec"), {"__name__": "__main__"})
            continue
        for line in block.lines:
            words = shlex.split(line, comments=True)
            if words[:1] == ["export"]:
                for name, value in (word.split("=", 1) for word in words[1:]):
                    if name == "PYTHONPATH":
                        monkeypatch.syspath_prepend(value)
                    monkeypatch.setenv(name, value)
            elif words:
                assert words[0] == "llm", f"{page.name}: {line} is not run by this test"
                done = llm(*words[1:], *smaller(words[1:]))
                assert done.code == 0, f"{line}\n{done.err}"


def smaller(words: list[str]) -> list[str]:
    """What makes a command quick without changing what it shows."""
    if words[0] == "generate":
        return ["max_new_tokens=8"]
    if words[0] not in ("train", "prepare") or "--help" in words or "--cfg" in words:
        return []
    arguments, (cfg, *_) = composed(words)
    if any(override.startswith("resume=") for override in arguments.overrides):
        return []
    small = dict(SMALL)
    if str(cfg.tokenizer._target_).endswith("subword.train"):
        small["tokenizer.vocab_size"] = 300
    return [f"{key}={value}" for key, value in small.items() if OmegaConf.select(cfg, key, default=small) is not small]


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(_BLOCK, "", read(page)), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for link in _LINK.findall(re.sub(_BLOCK, "", read(page))):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_options_that_are_named_exist(page):
    text = re.sub(_BLOCK, "", read(page))
    for path in re.findall(r"`((?:llmcli|configs|tests|scripts|docs)/[\w/.-]+\.\w+)`", text):
        assert (ROOT / path).exists(), f"{page.name}: {path}"
    for group, option in re.findall(r"`(data|tokenizer|batch|model|task|optimizer|schedule|decoding)=(\w+)`", text):
        if option != "null":
            assert (ROOT / "configs" / group / f"{option}.yaml").exists(), f"{page.name}: {group}={option}"
    defaults = catalog.Catalog([catalog.config_dir()]).defaults("train").values()
    for option in re.findall(r"`(\w+)` \(default\)", text):
        assert option in defaults, f"{page.name}: {option} is no default"


def test_every_option_is_on_a_page():
    text = "".join(read(page) for page in PAGES if page.parent.name == "docs")
    shelf = catalog.Catalog([catalog.config_dir()])
    for group in set(shelf.defaults("train")) - {"experiment"}:
        for option in shelf.options(group):
            assert re.search(rf"`{option.name}`|{group}={option.name}\b", text), f"no page has {group}={option.name}"


def test_the_example_model_keeps_the_contract(tmp_path, monkeypatch):
    """The promises of tests/models/test_contract.py that a mistake would break: look-ahead, padding, packing, steps."""
    write_files(ROOT / "docs" / "extending.md", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mylab.bag", raising=False)
    torch.manual_seed(0)
    node = OmegaConf.load(tmp_path / "conf" / "model" / "bag.yaml")
    model = config.build(OmegaConf.merge(node, {"vocab_size": 30, "causal": True, "window": 3, "d_model": 8}))
    ids = torch.randint(0, 30, (2, 9))
    with torch.no_grad():
        whole = model(ids)
        changed = ids.clone()
        changed[:, 5] += 1
        changed %= 30
        assert torch.equal(model(changed)[:, :5], whole[:, :5])
        assert not torch.equal(model(changed)[:, 5:], whole[:, 5:])
        padded = torch.cat((torch.zeros_like(ids[:, :2]), ids), dim=1)
        mask = torch.arange(11).expand(2, 11) >= 2
        torch.testing.assert_close(model(padded, mask=mask)[:, 2:], whole)
        segments = (torch.arange(9) >= 4).long().expand(2, 9)
        torch.testing.assert_close(model(ids, segment_ids=segments)[:, 4:], model(ids[:, 4:]))
        state, parts = model.init_state(2, 9), []
        for piece in ids.split((4, 1, 4), dim=1):
            hidden, state = model.step(piece, state)
            parts.append(hidden)
        torch.testing.assert_close(torch.cat(parts, dim=1), whole)
