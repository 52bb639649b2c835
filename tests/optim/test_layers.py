"""Layers by depth: which parameter stands where, what is frozen, and the rate of each."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from llmcli import config
from llmcli.errors import InputError
from llmcli.heads import LanguageModelHead, SequenceHead
from llmcli.models.base import Backbone, EncoderOnly
from llmcli.models.gpt2 import GPT2
from llmcli.models.recurrent import Recurrent
from llmcli.models.textcnn import TextCNN
from llmcli.models.word2vec import Word2Vec
from llmcli.optim.layers import decay_rates, depths, freeze, learning_layers
from llmcli.schema import locate

FACTS = {
    "vocab_size": 40,
    "pad_id": 0,
    "bos_id": 2,
    "eos_id": 3,
    "sep_id": 5,
    "names": ["a", "b"],
    "name_counts": [1, 1],
}
OPTIONS = [path for path in sorted((config.config_dir() / "model").glob("*.yaml"))]
CLASSES = {path.stem: locate(str(OmegaConf.load(path)._target_)) for path in OPTIONS}
BACKBONES = [name for name, each in CLASSES.items() if issubclass(each, Backbone) and each.kind != "counts"]
NEEDED = {name: ["task=classification"] for name, each in CLASSES.items() if issubclass(each, EncoderOnly)}
gpt2 = partial(GPT2, vocab_size=40, max_seq_len=8, causal=True, d_model=8, n_layers=2, n_heads=2, dropout=0.0)


def task(model: nn.Module, head: nn.Module | None = None) -> nn.Module:
    made = nn.Module()
    made.model = model
    made.head = head or SequenceHead(d_model=model.d_model, outputs=2, pooling="mean", dropout=0.0)
    return made


def by_name(made: nn.Module) -> dict[str, int]:
    found = depths(made)
    return {name: found[parameter] for name, parameter in made.named_parameters()}


def test_the_embedding_is_below_the_blocks_and_what_comes_after_them_is_with_the_last():
    found = by_name(task(gpt2()))
    assert {found[name] for name in found if "_embedding." in name} == {0}
    assert {found[name] for name in found if name.startswith("model.blocks.0.")} == {1}
    assert {found[name] for name in found if name.startswith("model.blocks.1.")} == {2}
    assert found["model.final_norm.weight"] == 2
    assert found["head.linear.weight"] == found["head.linear.bias"] == 3


def test_layers_of_a_recurrent_model_and_filters_of_a_flat_one():
    lstm = Recurrent(
        cell="lstm", vocab_size=40, causal=True, d_model=8, d_hidden=12, n_layers=3, dropout_embedding=0.0,
        dropout_input=0.0, dropout_hidden=0.0, dropout_output=0.0, locked_dropout=True, weight_drop=0.0,
        tie_embeddings=True,
    )  # fmt: skip
    found = by_name(task(lstm))
    assert [found[f"model.layers.{i}.kernel.weight_hh_l0"] for i in range(3)] == [1, 2, 3]
    assert set(found.values()) == {0, 1, 2, 3, 4}
    cnn = TextCNN(vocab_size=40, causal=False, d_embed=8, widths=[2, 3], n_filters=4, dropout=0.0)
    filters = {f"model.filters.{i}.{kind}": 1 for i in (0, 1) for kind in ("weight", "bias")}
    heads = {"head.linear.weight": 2, "head.linear.bias": 2}
    assert by_name(task(cnn)) == {"model.input_embedding.weight": 0, **filters, **heads}


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_has_an_embedding_at_the_bottom_and_layers_without_gaps(name):
    cfg = config.with_facts(config.compose("train", [f"model={name}", *NEEDED.get(name, [])]), FACTS)
    model = config.build(cfg.model)
    found = model.parameter_depths()
    assert list(found) == [each for each, _ in model.named_parameters()]
    assert found["input_embedding.weight"] == 0
    assert sorted(set(found.values())) == list(range(max(found.values()) + 1))
    layers = cfg.model.get("n_layers")
    assert layers is None or max(found.values()) == layers


def test_a_tied_head_has_nothing_of_its_own():
    model = gpt2()
    tied = task(model, LanguageModelHead.for_backbone(model, label_smoothing=0.0))
    layers = learning_layers(tied)
    assert len(layers) == 3  # two blocks and the embedding, which is the head too
    assert any(parameter is model.input_embedding.weight for parameter in layers[-1])


def test_a_model_without_layers_is_refused():
    made = nn.Module()
    made.model = Word2Vec(vocab_size=40, d_model=4, objective="cbow", sparse=False)
    with pytest.raises(InputError, match="Word2Vec does not say what its layers are"):
        depths(made)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "momentum", "adagrad", "rmsprop", "muon"])
def test_the_rate_of_each_layer_is_the_one_above_times_the_decay(name):
    made, decay = task(gpt2()), 1 / 2.6
    make = instantiate(config.compose("train", [f"optimizer={name}"]).optimizer, _convert_="all")
    plain, layered = make(made), make(made)
    decay_rates(layered, depths(made), decay)
    rate = {parameter: group["lr"] for group in plain.param_groups for parameter in group["params"]}
    seen = set()
    for group in layered.param_groups:
        assert group["lr"] == group["initial_lr"]
        for parameter in group["params"]:
            assert group["lr"] == pytest.approx(rate[parameter] * decay ** (3 - depths(made)[parameter]))
            seen.add(parameter)
    assert seen == set(made.parameters())
    halved = torch.optim.lr_scheduler.LambdaLR(layered, lambda step: 0.5)  # schedules multiply each group's own rate
    assert halved.get_last_lr() == pytest.approx([0.5 * group["initial_lr"] for group in layered.param_groups])


def test_an_optimizer_steps_as_far_as_the_rates_say():
    """Plain gradient descent on a gradient of ones moves each weight by its rate."""
    made = task(gpt2())
    make = instantiate(config.compose("train", ["optimizer=sgd", "optimizer.lr=1.0"]).optimizer, _convert_="all")
    optimizer = make(made)
    decay_rates(optimizer, depths(made), 0.5)
    before = {name: parameter.detach().clone() for name, parameter in made.named_parameters()}
    for parameter in made.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, depth in by_name(made).items():
        torch.testing.assert_close(
            before[name] - made.get_parameter(name), torch.full_like(before[name], 0.5 ** (3 - depth))
        )


def test_frozen_by_name():
    made = task(gpt2())
    freeze(made, ["model.*_embedding.*", "model.blocks.0.*"])
    frozen = {name for name, parameter in made.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, depth in by_name(made).items() if depth < 2}
    assert len(learning_layers(made)) == 2


def test_a_shared_weight_is_frozen_by_either_name():
    model = gpt2()
    tied = task(model, LanguageModelHead.for_backbone(model, label_smoothing=0.0))
    freeze(tied, ["head.weight"])
    assert not model.input_embedding.weight.requires_grad


def test_patterns_that_match_nothing_or_everything_are_refused():
    made = task(gpt2())
    with pytest.raises(InputError, match=r"no parameter's name is model\.input_embeding\.\*\. Did you mean") as caught:
        freeze(made, ["model.input_embeding.*"])
    assert "Did you mean model.input_embedding.*?" in str(caught.value)
    assert "head.linear, model.blocks, model.final_norm" in caught.value.hint
    with pytest.raises(InputError, match=r"finetune\.freeze=\[\*\] leaves nothing to learn"):
        freeze(made, ["*"])
