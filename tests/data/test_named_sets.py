"""The data sets that have a name: their configs, and the counts of the real ones."""

from __future__ import annotations

import re

import pytest
from omegaconf import OmegaConf

from llmcli import catalog, config

FOLDER = catalog.config_dir() / "data"
NAMED = sorted(path.stem for path in FOLDER.glob("*.yaml") if "urls:" in path.read_text("utf-8"))
PUBLISHED = [name for name in NAMED if OmegaConf.load(FOLDER / f"{name}.yaml").urls]

# examples in train, val and test; folder; those that are left out because they cannot be read
COUNTS = {
    "sst2": ((6920, 872, 1821), "sst2", 0),
    "chnsenticorp": ((9600, 1200, 1200), "chnsenticorp", 0),
    "thucnews": ((45_000, 10_000, 10_000), "thucnews", 0),
    "conll2003_en": ((14_041, 3250, 3453), "conll2003_en", 0),
    "cluener2020": ((9693, 1054, 1343), "cluener2020", 1),
    "multi30k_de_en": ((29_000, 1014, 1000), "multi30k_en_de", 0),
    "samsum": ((14_731, 818, 819), "samsum", 0),
    "csl_topic": ((8000, 1000, 1000), "csl", 0),
    "subjqa": ((2303, 257, 707), "subjqa", 57),
    "xquad_en": ((0, 0, 1190), "xquad", 0),
    "xquad_zh": ((0, 0, 1190), "xquad", 0),
    "cmrc2018": ((0, 1000, 3219), "cmrc2018", 2),
    "dailydialog": ((11_118, 1000, 1000), "dailydialog", 0),
    "dailydialog_act": ((87_159, 8069, 7740), "dailydialog", 1),
    "dailydialog_emotion": ((87_159, 8069, 7740), "dailydialog", 1),
    "blimp": ((0, 0, 67_000), "blimp", 0),
    "lambada": ((0, 0, 5153), "lambada", 0),
}
# examples in all splits together, where no split is published
WHOLE = {
    "cmn_eng": (29_153, "cmn_eng", 2),
    "csl_headline": (2000, "csl", 0),
    "alpaca": (4998, "alpaca_partial", 2),
    "alpaca_en_demo": (999, "instruct_demo", 0),
    "alpaca_zh_demo": (1000, "instruct_demo", 0),
    "llms_from_scratch": (1100, "instruct_demo", 0),
    "llms_from_scratch_preference": (1094, "instruct_demo", 6),
    "tang_poems": (57_603, "tang_poems", 0),
}


def load(name, path=None):
    """The config of a data set, without composing all the others, which takes longer than reading most sets."""
    node = OmegaConf.load(FOLDER / f"{name}.yaml")
    node.pop("defaults", None)
    return OmegaConf.create({"data": {**node, "path": path}})


@pytest.mark.parametrize("name", PUBLISHED)
def test_configs_say_licence_urls_and_hashes(name):
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    assert re.match(r"# \S.*\n# licence: \S", text)
    cfg = load(name)
    config.validate(cfg)
    source = config.build(cfg.data)  # touches no file
    listed = OmegaConf.to_container(cfg.data.urls)
    flat = [
        url
        for each in (listed.values() if isinstance(listed, dict) else [listed])
        for url in ([each] if isinstance(each, str) else each)
    ]
    assert source.missing() == [url.partition("#")[0] for url in flat]
    assert all(url.startswith("https://") for url in flat)
    assert all(re.fullmatch(r"[0-9a-f]{64}", word) for word in re.findall(r"\b\w{64}\b", text))


def records(name, folder):
    source = config.build(load(name, str(folder)).data)
    counts = {split: sum(1 for _ in source.records(split)) for split in source.splits}
    return counts, sum(source.left_out.values())


@pytest.mark.shared_data
@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_published_splits(name, real_data):
    counts, folder, left_out = COUNTS[name]
    found = records(name, real_data / folder)
    assert found == ({split: n for split, n in zip(("train", "val", "test"), counts, strict=True) if n}, left_out)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", WHOLE)
def test_counts_of_sets_without_published_splits(name, real_data):
    total, folder, left_out = WHOLE[name]
    counts, flawed = records(name, real_data / folder)
    assert (sum(counts.values()), flawed) == (total, left_out)
    assert all(counts.values())


@pytest.mark.shared_data
def test_cmn_eng_holds_out_the_same_pairs_in_both_directions(real_data):
    def split(turned):
        cfg = load("cmn_eng", str(real_data / "cmn_eng"))
        if turned:
            cfg.data.reader.source, cfg.data.reader.target, cfg.data.split_by = 2, 1, "target"
        return [(pair.source, pair.target)[:: -1 if turned else 1] for pair in config.build(cfg.data).records("test")]

    assert split(turned=False) == split(turned=True)
    assert len(split(turned=False)) == 1_000
