"""Quantised tasks: which layers, how much memory, that they say what they said; `precision=` of the commands."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
import torch
from torch import nn

import llmcli
from llmcli.errors import InputError
from llmcli.heads import AdaptiveHead, LanguageModelHead
from llmcli.layers.quantised import Int4Linear, Int8Linear, QuantisedLinear
from llmcli.loading import precision_of, prepare
from llmcli.models.bert import BERT
from llmcli.models.gpt2 import GPT2
from llmcli.models.ngram import NGram
from llmcli.models.recurrent import Recurrent
from llmcli.models.seq2seq_transformer import Seq2SeqTransformer
from llmcli.models.transformer import Transformer
from llmcli.models.xlnet import XLNet
from llmcli.quantise import quantise, storage_bytes
from llmcli.tasks.counting import Counting

CPU = "accelerator=cpu"


class Whole(nn.Module):
    """What a task is to `quantise`: a model and a head."""

    generates = True

    def __init__(self, model, cutoffs=None):
        super().__init__()
        self.model = model
        self.head = LanguageModelHead.for_backbone(model, label_smoothing=0.0, cutoffs=cutoffs)

    def forward(self, ids):
        return self.head.logits(self.model(ids))


def transformer(**changes):
    torch.manual_seed(0)
    settings = dict(
        vocab_size=256, max_seq_len=32, causal=True, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=128,
        activation="swiglu", qk_norm=True, rope_theta=1e4, ngram_rows=[], tie_embeddings=True, logit_softcap=15.0,
        dropout=0.0,
    )  # fmt: skip
    whole = Whole(Transformer(**{**settings, **changes})).eval()
    for name, weight in whole.named_parameters():
        if weight.dim() == 2 and "embedding" not in name:  # some begin as zero
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return whole


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("bits", "kind", "bound"), [(8, Int8Linear, 0.03), (4, Int4Linear, 0.3)])
@torch.inference_mode()
def test_every_matrix_is_replaced_and_the_logits_stay(bits, kind, bound):
    whole = transformer()
    ids = torch.randint(256, (2, 20))
    before, bytes_before = whole(ids), storage_bytes(whole)
    report = quantise(whole, bits=bits)
    assert not any(type(each) is nn.Linear for each in whole.modules())
    assert sum(isinstance(each, kind) for each in whole.modules()) == report.layers == 15  # 7 a block, the head
    assert not report.left
    assert relative(whole(ids), before) < bound
    # the embedding keeps its rows, which it shared with the head
    rows = 4 * 256 * 64
    assert report.before == bytes_before and report.after == storage_bytes(whole)
    assert report.after - rows < (0.30 if bits == 8 else 0.19) * bytes_before
    assert torch.is_floating_point(whole.model.input_embedding.weight)


def test_a_head_of_its_own_lets_its_weight_go():
    whole = transformer(tie_embeddings=False)
    before = storage_bytes(whole)
    quantise(whole, bits=8)
    assert whole.head.weight is None and isinstance(whole.head.output, Int8Linear)
    assert before - storage_bytes(whole) > 0.7 * (before - 4 * 256 * 64)


@torch.inference_mode()
def test_a_fused_model_is_quantised_as_well():
    whole = transformer()
    ids = torch.randint(256, (1, 12))
    before = whole(ids)
    whole.model.fuse()
    report = quantise(whole, bits=8)
    assert report.layers == 9  # q with k and v, out, gate with up, down of each block; the head
    assert relative(whole(ids), before) < 0.03


@torch.inference_mode()
def test_what_does_not_divide_stays_and_is_said():
    whole = transformer(d_model=40, n_heads=4, n_kv_heads=4, d_ff=64)  # rows of 40, but of 64 in `down`
    report = quantise(whole, bits=4)
    assert report.layers == 2
    assert report.left == {"rows are no multiple of 32": 2 * (4 * 40 * 40 + 2 * 64 * 40) + 256 * 40}
    assert "left as they are: rows are no multiple of 32" in str(report)
    whole(torch.randint(256, (1, 8)))


def test_recurrent_layers_and_adaptive_heads_stay_and_are_said():
    torch.manual_seed(0)
    model = Recurrent(
        cell="lstm", vocab_size=64, causal=True, d_model=32, d_hidden=None, n_layers=1, dropout_embedding=0.0,
        dropout_input=0.0, dropout_hidden=0.0, dropout_output=0.0, locked_dropout=False, weight_drop=0.0,
        tie_embeddings=True,
    )  # fmt: skip
    report = quantise(Whole(model, cutoffs=[32]), bits=8)
    assert report.layers == 0 and report.weights == 0 and report.before == report.after
    assert set(report.left) == {"AdaptiveHead", "recurrent layers"}
    assert isinstance(Whole(model, cutoffs=[32]).head, AdaptiveHead)


def test_a_layer_in_two_places_is_one_layer():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(64, 64)
            self.other = self.one

    model = Twice()
    assert quantise(model, bits=8).layers == 1 and model.one is model.other


def test_biases_stay():
    torch.manual_seed(0)
    model = GPT2(vocab_size=64, max_seq_len=16, causal=True, d_model=32, n_layers=1, n_heads=2, dropout=0.0).eval()
    for name, each in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(each)
    ids = torch.randint(64, (2, 10))
    with torch.inference_mode():
        before = model(ids)
        quantise(model, bits=8)
        assert relative(model(ids), before) < 0.03


@pytest.mark.parametrize("bits", [8, 4])
@torch.inference_mode()
def test_other_backbones(bits):
    """An encoder, one with relative positions, an encoder-decoder."""
    torch.manual_seed(0)
    sizes = {"d_model": 64, "n_heads": 4, "d_ff": 128, "dropout": 0.0}
    encoder = {"vocab_size": 64, "causal": False, "sep_id": 3, "n_layers": 1, **sizes}
    pair = Seq2SeqTransformer(
        vocab_size=64, max_seq_len=16, n_encoder_layers=1, n_decoder_layers=1, norm="pre", positions="sinusoidal",
        share_embeddings=True, tie_embeddings=True, **sizes,
    ).eval()  # fmt: skip
    ids = torch.randint(4, 64, (2, 12))
    cases = [
        (BERT(max_seq_len=16, n_types=2, d_embed=32, **encoder).eval(), lambda model: model(ids), 7),
        (XLNet(**encoder).eval(), lambda model: model(ids), 7),
        (pair, lambda model: model.decode(ids, model.encode(ids)), 6 + 10),
    ]
    for model, output, layers in cases:
        for weight in model.parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        before = output(model)
        assert quantise(model, bits=bits).layers == layers
        assert relative(output(model), before) < (0.05 if bits == 8 else 0.4)


def test_group_sizes_are_those_of_the_kernels():
    with pytest.raises(InputError, match=r"group_size \(48\) must be one of 32, 64, 128, 256"):
        quantise(transformer(), bits=4, group_size=48)
    report = quantise(transformer(), bits=4, group_size=64)
    assert not report.left


def test_precisions_by_name():
    assert precision_of(32) == "32" and precision_of("int4") == "int4"
    with pytest.raises(InputError, match="precision must be one of auto, 32, bf16, int8, int4, not int3") as found:
        precision_of("int3")
    assert found.value.hint.startswith("Did you mean int")


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_greedy_tokens_of_a_trained_run_stay_mostly_the_same(trained, precision):
    exact, quantised = llmcli.load(trained), llmcli.load(trained, precision=precision)
    assert any(isinstance(each, QuantisedLinear) for each in quantised.task.modules())
    [one] = exact.generate("the cat", max_new_tokens=12, temperature=0)
    with torch.inference_mode():
        ids = torch.tensor([exact.tokenizer.encode("the cat") + list(one.ids)])[:, :16]
        wanted = exact.task.head.logits(exact.task.model(ids)).argmax(-1)
        found = quantised.task.head.logits(quantised.task.model(ids)).argmax(-1)
    assert (found == wanted).float().mean() > 0.9
    [other] = quantised.generate("the cat", max_new_tokens=12, temperature=0)
    assert other.ids[0] == one.ids[0] and len(other.ids) == 12


def test_a_quantised_run_is_used_where_it_was_made(trained):
    with pytest.raises(InputError, match="quantised on cpu cannot move to meta"):
        llmcli.load(trained, precision="int8").to("meta")


def test_a_run_with_few_bits_is_scored_where_it_is(trained, monkeypatch):
    asked = []
    monkeypatch.setattr("llmcli.api.score", lambda loaded, *, accelerator, **rest: asked.append(accelerator))
    for run in (llmcli.load(trained), llmcli.load(trained, precision="int8"), llmcli.load(trained).to("cpu")):
        run.evaluate()
    assert asked == ["auto", "cpu", "cpu"]


def test_a_reference_is_left_whole():
    """As task=preference keeps one: what a model is compared with does not change when the model does."""
    whole = transformer(tie_embeddings=False)
    whole.reference = copy.deepcopy(nn.ModuleList([whole.model, whole.head]))
    quantise(whole, bits=8)
    assert isinstance(whole.head.output, Int8Linear)
    assert not any(isinstance(each, QuantisedLinear) for each in whole.reference.modules())


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_counts_have_no_precision(precision):
    model = NGram(vocab_size=5, order=2, discounts="single")
    model.fit(np.array([0, 1, 2, 3, 1, 2, 4]))
    task = Counting(model=model, causal=True)
    with pytest.raises(InputError, match=f"precision={precision} is that of weights, and a Counting run has none"):
        prepare(task, precision, "cpu")
    assert prepare(task, "auto", "cpu", generating=True) == ""
    assert model.get_buffer("discounted_2").dtype == torch.float64


def test_generate_says_what_became_of_the_weights(llm, trained):
    asked = ("generate", f"ckpt={trained}", CPU, "max_new_tokens=8", "--prompt", "the cat", "--json", "decoding=greedy")
    plain, quantised = llm(*asked), llm(*asked, "precision=int8")
    assert quantised.code == 0, quantised.err
    assert "precision   int8: " in quantised.err and "MiB have become" in quantised.err
    texts = [json.loads(each.out)["results"][0]["ids"] for each in (plain, quantised)]
    assert len(texts[1]) == 8 and texts[0][:2] == texts[1][:2]


def test_eval_prints_the_loss_of_perplexity(llm, trained):
    plain = json.loads(llm("eval", f"ckpt={trained}", CPU, "--json").out)
    found = json.loads(llm("eval", f"ckpt={trained}", CPU, "precision=int8", "--json").out)
    assert "float32" not in plain and "weights" not in plain
    assert found["float32"]["perplexity"] == plain["perplexity"] and found["weights"].startswith("int8: ")
    assert found["perplexity"] != plain["perplexity"]
    assert found["perplexity"] == pytest.approx(plain["perplexity"], rel=0.01)
    shown = llm("eval", f"ckpt={trained}", CPU, "precision=int8").out
    [line] = [line for line in shown.splitlines() if line.startswith("perplexity")]
    change = found["perplexity"] / plain["perplexity"] - 1
    assert line.split()[1:] == [f"{found['perplexity']:,.4f}", f"{plain['perplexity']:,.4f}", f"{change:+.2%}"]


def test_32_is_a_word(llm, trained):
    for command in (["generate", "max_new_tokens=2", "--prompt", "a"], ["eval"]):
        assert llm(*command, f"ckpt={trained}", CPU, "precision=32").code == 0


@pytest.mark.parametrize("command", ["generate", "eval", "predict", "chat"])
def test_an_unknown_precision_is_refused_with_the_known_ones(llm, trained, command):
    result = llm(command, f"ckpt={trained}", "precision=int3")
    assert result.code == 2 and "precision must be one of auto, 32, bf16, int8, int4, not int3" in result.err


def test_training_a_quantised_run_is_refused(trained):
    run = llmcli.load(trained, precision="int8")
    run.task.train()
    with pytest.raises(RuntimeError, match="a quantised layer cannot be trained"):
        run.task.model(torch.randint(64, (1, 8)))


def test_preparing_changes_nothing_where_nothing_is_asked():
    whole = transformer()
    state = {name: value.clone() for name, value in whole.state_dict().items()}
    assert prepare(whole, "auto", "cpu") == ""
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())


def test_eval_refuses_before_it_reads_data(llm, trained, small, monkeypatch):
    counted = [each for each in small if not each.startswith("model.")]
    assert llm("train", *counted, "model=ngram", "hydra.run.dir=counts").code == 0
    monkeypatch.setattr("llmcli.evaluation.find_data", lambda *_: pytest.fail("data was read"))
    refused = llm("eval", "ckpt=counts", CPU, "precision=int8")
    assert refused.code == 2 and "precision=int8 is that of weights, and a Counting run has none" in refused.err
    refused = llm("eval", f"ckpt={trained}", CPU, "--similarity", "pairs.txt", "split=val")
    assert refused.code == 2 and "lists of words are for word vectors" in refused.err
    refused = llm("eval", f"ckpt={trained}", CPU, "baseline=counts")
    assert refused.code == 2 and "the baseline is a Counting run, this is a LanguageModeling run" in refused.err


@pytest.mark.parametrize("precision", ["auto", "bf16", "int4"])
@torch.inference_mode()
def test_what_generates_is_bfloat16_where_that_is_fastest(precision, monkeypatch):
    monkeypatch.setattr("llmcli.loading.generation_precision", lambda **about: (torch.bfloat16, "as the test says"))
    whole = transformer()
    ids = torch.randint(256, (1, 12))
    before = whole(ids)
    said = prepare(whole, precision, "cpu", generating=True)
    assert whole.model.input_embedding.weight.dtype == torch.bfloat16
    assert relative(whole(ids), before) < (0.3 if precision == "int4" else 0.05)
    assert ("as the test says" in said) == (precision == "auto")
    if precision == "int4":
        assert f"become {storage_bytes(whole) / 2**20:,.1f}" in said


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (["model=textcnn", "model.n_filters=8"], r"that it could keep so \([\d,]+ weights: convolutional layers\)"),
        (["model=dan"], "that it could keep so\n"),
    ],
)
def test_what_has_no_layer_for_few_bits_is_refused(llm, tmp_path, model, said):
    rows = [f"film {number},{label}\n" for number in range(20) for label in ("good", "bad")]
    (tmp_path / "films.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
    films = ["data=labeled_text", "data.path=films.csv", "data.val_fraction=0.25", *model, "trainer.accelerator=cpu"]
    assert llm("train", *films, "trainer.max_steps=1", "hydra.run.dir=run").code == 0
    for command in (["eval"], ["predict", "--text", "fine"]):
        refused = llm(*command, "ckpt=run", CPU, "precision=int8")
        assert refused.code == 2 and "precision=int8 is of linear layers and outputs over a vocabulary" in refused.err
        assert re.search(said, refused.err) and "leave out precision=" in refused.err
    assert llm("predict", "ckpt=run", CPU, "precision=bf16", "--text", "fine").code == 0
