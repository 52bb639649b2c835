"""Masked language modelling: the loss of what is hidden alone, a head for every encoder, texts that are filled."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from llmcli.errors import InputError
from llmcli.models.bert import BERT
from llmcli.models.recurrent import Recurrent
from llmcli.models.textcnn import TextCNN
from llmcli.models.transformer import Transformer
from llmcli.tasks.filling import row_of
from llmcli.tasks.masked_lm import MaskedLM
from llmcli.tokenizers import byte, char, subword

B, T, V = 4, 12, 45
MASK = 4
OPTIONS = {"causal": False, "rate": 0.3, "random": 0.1, "kept": 0.1, "unit": "token", "marks": True}
TEXT = "the cat sat on the mat and the dog sat on the cat. "


def bert(vocab_size=V, **changes):
    sizes = {
        "vocab_size": vocab_size, "max_seq_len": 16, "causal": False, "sep_id": 6, "n_types": 2, "d_embed": None,
        "d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": None, "dropout": 0.0,
    }  # fmt: skip
    return BERT(**{**sizes, **changes})


def lstm():
    return Recurrent(
        cell="lstm", vocab_size=V, causal=False, d_model=8, d_hidden=None, n_layers=1, dropout_embedding=0.0,
        dropout_input=0.0, dropout_hidden=0.0, dropout_output=0.0, locked_dropout=True, weight_drop=0.0,
        tie_embeddings=True,
    )  # fmt: skip


def transformer(causal=False):
    return Transformer(
        vocab_size=V, max_seq_len=16, causal=causal, d_model=8, n_layers=1, n_heads=2, n_kv_heads=None, d_ff=None,
        activation="relu2", qk_norm=True, rope_theta=10000.0, ngram_rows=[64], tie_embeddings=False,
        logit_softcap=15.0, dropout=0.0,
    )  # fmt: skip


def textcnn():
    return TextCNN(vocab_size=V, causal=False, d_embed=6, widths=[3], n_filters=8, dropout=0.0)


def make(model=None, **changes):
    torch.manual_seed(0)
    return MaskedLM(model=model or bert(), **{**OPTIONS, **changes})


@pytest.fixture(scope="module")
def tokenizer():
    return char.train([TEXT], min_frequency=1)


@pytest.fixture(scope="module")
def pieces():
    return subword.train(
        [TEXT * 5], algorithm="bpe", vocab_size=300, character_coverage=1.0, max_piece_length=16,
        sample_characters=10**6, seed=1,
    )  # fmt: skip


def batch(tokenizer, task, lengths=(T, T, 7, 3)):
    mask = torch.arange(T) < torch.tensor(lengths)[:, None]
    ids = torch.randint(16, tokenizer.vocab_size, (B, T), generator=torch.Generator().manual_seed(1)) * mask
    labels = torch.cat((ids[:, 1:], ids[:, :1]), 1).masked_fill(~mask, -100)
    return task.encoder(tokenizer)({"ids": ids, "labels": labels, "mask": mask, "n_tokens": 0, "index": 0}, seed=1)


@pytest.mark.parametrize("build", [bert, lstm, transformer, textcnn])
def test_the_loss_is_the_cross_entropy_of_the_hidden_tokens(tokenizer, build):
    task = make(build()).eval()
    given = batch(tokenizer, task)
    hidden = task.model(given["ids"], mask=given["mask"])
    log_p = task.head.logits(hidden).log_softmax(-1).flatten(0, 1)  # of all places, which training never makes
    expected = -log_p[given["places"], given["targets"]].sum().item()
    for stage in ("train", "val"):
        result = task._step(given, stage)
        assert result.loss.item() == pytest.approx(expected, rel=1e-5)
        assert (result.n, result.text) == (len(given["places"]), T + T + 7 + 3)
    best = log_p[given["places"]].argmax(1) == given["targets"]
    assert result.sums["correct"] == best.sum()
    assert [metric.name for metric in task.metrics()] == ["loss", "perplexity", "accuracy"]


@pytest.mark.parametrize("build", [bert, lstm, transformer, textcnn])
def test_every_weight_of_the_head_learns(tokenizer, build):
    task = make(build())
    torch.nn.init.normal_(task.head.output.weight)  # an untied one may start at zero
    task._step(batch(tokenizer, task), "train").loss.backward()
    for name, parameter in task.named_parameters():
        assert parameter.grad is not None or name.startswith("model.type_embedding"), name


def test_the_head_shares_a_narrow_embedding_too():
    task = make(bert(d_embed=8))
    assert task.head.output.weight is task.model.input_embedding.weight
    assert task.head.transform.weight.shape == (8, 16)
    untied = make(transformer())
    assert untied.head.output.weight.shape == (V, 8) and not untied.head.output.weight.any()


@torch.no_grad()
def test_logits_equal_the_reference():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=V, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16, attn_implementation="eager",
    )  # fmt: skip
    source, task = BertForMaskedLM(config).double().eval(), make().double().eval()
    for parameter in source.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    theirs = dict(source.bert.embeddings.named_modules())
    for ours, name in {
        "input_embedding": "word_embeddings", "position_embedding": "position_embeddings",
        "type_embedding": "token_type_embeddings", "embedding_norm": "LayerNorm",
    }.items():  # fmt: skip
        task.model.get_submodule(ours).load_state_dict(theirs[name].state_dict())
    for block, layer in zip(task.model.blocks, source.bert.encoder.layer, strict=True):
        for ours, module in {
            "q": layer.attention.self.query, "k": layer.attention.self.key, "v": layer.attention.self.value,
            "out": layer.attention.output.dense, "attention_norm": layer.attention.output.LayerNorm,
            "up": layer.intermediate.dense, "down": layer.output.dense, "feed_forward_norm": layer.output.LayerNorm,
        }.items():  # fmt: skip
            block.get_submodule(ours).load_state_dict(module.state_dict())
    head = source.cls.predictions
    task.head.transform.load_state_dict(head.transform.dense.state_dict())
    task.head.norm.load_state_dict(head.transform.LayerNorm.state_dict())
    task.head.output.bias.copy_(head.bias)
    ids = torch.randint(7, V, (2, 16))
    assert (task.head.logits(task.model(ids)) - source(ids).logits).abs().max() < 1e-9


def test_a_batch_with_nothing_hidden_costs_nothing(tokenizer):
    task = make()
    given = batch(tokenizer, task, lengths=(2, 2, 1, 2))  # the marks are all there is
    assert given["n_tokens"] == 0
    assert task._step(given, "train").loss.item() == task._step(given, "val").loss.item() == 0


def test_a_texts_answer_does_not_depend_on_the_others(tokenizer):
    task = make(bert(tokenizer.vocab_size, max_seq_len=40)).eval()
    texts = ["the c<mask>t", "", "<mask>he dog [MASK]at on the cat"]
    together = task.predict(texts, tokenizer, top=2)
    assert [each["text"] for each in together] == texts
    assert together[1] == {"text": "", "filled": "", "tokens": []}
    assert [token["mask"] for token in together[2]["tokens"]] == [1, 1, 2, 2]
    for text, found in zip(texts, together, strict=True):
        [alone] = task.predict([text], tokenizer, top=2)
        assert alone["filled"] == found["filled"]
        for one, other in zip(alone["tokens"], found["tokens"], strict=True):
            assert one["token"] == other["token"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)


def test_answers_are_tokens_of_the_text_with_their_probabilities(tokenizer):
    task = make(bert(tokenizer.vocab_size)).eval()
    [found] = task.predict(["the c<mask>t"], tokenizer, top=100)
    assert len(found["tokens"]) == tokenizer.vocab_size - 16  # no special token is an answer
    assert sum(token["probability"] for token in found["tokens"]) == pytest.approx(1, abs=1e-5)
    assert found["filled"] == f"the c{tokenizer.decode(tokenizer.encode(found['filled'][5]))}t"
    ids = torch.tensor([[5, *tokenizer.encode("the c"), MASK, *tokenizer.encode("t"), 6]])
    logits = task.head.logits(task.model(ids))[0, 6, 16:]
    assert found["tokens"][0]["probability"] == pytest.approx(logits.softmax(0).max().item(), abs=1e-6)


def test_the_space_before_a_sub_word_is_a_part_of_it(pieces):
    bare = {"marks": False, "limit": None}
    [sat] = pieces.encode(" sat")
    whole, given = pieces.encode("cat sat on"), row_of("cat <mask> on", pieces, spaced=True, **bare)
    assert given == [MASK if index == sat else index for index in whole]
    letters = byte.train([])
    assert row_of("a <mask>", letters, spaced=False, **bare) == [*letters.encode("a "), MASK]
    assert make(bert(pieces.vocab_size)).example("the unhappy cat") == "the <mask> cat"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("the cat", "nothing is left out of 'the cat'", "write <mask>"),
        ("the cat sat on the <mask>", r"has 22 ids and the model reads 16", "shorten it"),
    ],
)
def test_texts_that_cannot_be_filled(tokenizer, text, message, hint):
    task = make(bert(tokenizer.vocab_size))
    with pytest.raises(InputError, match=message) as caught:
        task.predict([text], tokenizer, top=1)
    assert hint in caught.value.hint


def test_a_model_that_reads_one_way_is_refused():
    with pytest.raises(InputError, match=r"task=masked_lm reads in both directions and needs task.causal=false"):
        make(causal=True)
    with pytest.raises(InputError, match="reads in both directions, and the model only forward") as caught:
        make(model=transformer(causal=True))
    assert caught.value.hint.startswith("model.causal=false")
