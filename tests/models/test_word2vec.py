"""Word2vec, fastText and GloVe: their losses and gradients as the papers' formulas give them, pair by pair."""

from __future__ import annotations

import math
import zlib

import pytest
import torch
import torch.nn.functional as F

from llmcli.errors import InputError
from llmcli.models.fasttext import FastText
from llmcli.models.glove import GloVe
from llmcli.models.word2vec import Word2Vec

VOCAB, WIDTH, CENTRES, EDGE, NEGATIVES, BLOCKS = 20, 6, 8, 2, 3, 4


def word2vec(objective="skip_gram", sparse=False):
    torch.manual_seed(0)
    model = Word2Vec(vocab_size=VOCAB, d_model=WIDTH, objective=objective, sparse=sparse).double()
    torch.nn.init.normal_(model.input_embedding.weight)
    torch.nn.init.normal_(model.output_embedding.weight)
    return model


def fasttext(**changes):
    torch.manual_seed(0)
    options = {"objective": "skip_gram", "min_n": 3, "max_n": 5, "buckets": 50, "sparse": False}
    model = FastText(vocab_size=4, d_model=WIDTH, **{**options, **changes}).double()
    model.begin(words=["", "where", "her", "国王"], tokens=0)
    return model


def batch(seed=1, vocab=VOCAB):
    generator = torch.Generator().manual_seed(seed)
    size = CENTRES + 2 * EDGE
    words = torch.randint(vocab, (BLOCKS, size + NEGATIVES), generator=generator)
    near = torch.rand(BLOCKS, CENTRES, size, generator=generator) < 0.3
    near[0, 0] = False  # a word that has lost all its neighbours
    near[:, torch.arange(CENTRES), torch.arange(CENTRES) + EDGE] = False
    return {
        "centres": words[:, EDGE : EDGE + CENTRES],
        "words": words,
        "near": near,
        "negative_weight": 5 / NEGATIVES,
        "pairs": int(near.sum()),
        "predicted": int(near.any(-1).sum()),
    }


def by_hand(model, found):
    """The formula at the head of models/word2vec.py, one term after the other."""
    v, u = model.input_embedding.weight, model.output_embedding.weight
    total = torch.zeros((), dtype=torch.float64)
    size = CENTRES + 2 * EDGE
    for block in range(BLOCKS):
        around, negatives = found["words"][block, :size], found["words"][block, size:]
        for place, centre in enumerate(found["centres"][block]):
            near = around[found["near"][block, place]]
            if model.objective == "skip_gram":
                targets = [(v[centre], u[word]) for word in near]
            else:
                targets = [(v[near].mean(0), u[centre])] if len(near) else []
            for given, wanted in targets:
                total = total - F.logsigmoid(given @ wanted)
                total = total - 5 / NEGATIVES * F.logsigmoid(-(u[negatives] @ given)).sum()
    return total


@pytest.mark.parametrize("objective", ["skip_gram", "cbow"])
@pytest.mark.parametrize("sparse", [False, True])
def test_loss_and_gradient_are_those_of_the_formula(objective, sparse):
    model, reference, found = word2vec(objective, sparse), word2vec(objective), batch()
    loss, targets = model.loss(found)
    expected = by_hand(reference, found)
    torch.testing.assert_close(loss, expected)
    assert targets == found["pairs" if objective == "skip_gram" else "predicted"]
    (0.5 * loss).backward()
    (0.5 * expected).backward()
    for mine, other in zip(model.parameters(), reference.parameters(), strict=True):
        assert mine.grad.is_sparse == sparse
        torch.testing.assert_close(mine.grad.to_dense(), other.grad)


def test_vectors_begin_as_in_word2vec_c():
    model = Word2Vec(vocab_size=500, d_model=10, objective="skip_gram", sparse=True)
    assert not model.output_embedding.weight.any()
    weight = model.word_vectors().detach()
    assert weight.abs().max() <= 0.05 and weight.std() == pytest.approx(0.1 / math.sqrt(12), rel=0.05)
    loss, pairs = model.loss(batch())
    assert loss.item() / pairs == pytest.approx(6 * math.log(2), rel=1e-5)  # one right word and five negatives


def test_an_unknown_objective_is_named():
    with pytest.raises(InputError, match="objective must be skip_gram or cbow, not 'glove'"):
        Word2Vec(vocab_size=5, d_model=2, objective="glove", sparse=True)


# -- fastText --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["where", "a", "国王", "né", "x" * 30])
def test_the_ngrams_are_fasttexts(word):
    gensim = pytest.importorskip("gensim.models.fasttext_inner")
    model = FastText(vocab_size=1, d_model=1, objective="cbow", min_n=3, max_n=6, buckets=1000, sparse=True)
    expected = [zlib.crc32(each.encode()) % 1000 for each in gensim.compute_ngrams(word, 3, 6)]
    assert sorted(model.rows(word)) == sorted(expected)


def test_a_word_is_the_mean_of_itself_and_its_parts():
    model = fasttext()
    own, parts = model.input_embedding.weight, model.ngram_embedding.weight
    rows = model.rows("where")
    assert len(rows) == 5 + 4 + 3  # of <where>: 3, 4 and 5 characters
    torch.testing.assert_close(model.word_vectors()[1], (own[1] + parts[rows].sum(0)) / 13)
    torch.testing.assert_close(model.word_vectors()[0], own[0])  # no word: no parts
    ids = torch.tensor([[1, 0], [1, 3]])
    torch.testing.assert_close(model.input_vectors(ids), model.word_vectors()[ids])


@pytest.mark.parametrize("objective", ["skip_gram", "cbow"])
@pytest.mark.parametrize("sparse", [False, True])
def test_every_part_gets_its_gradient(objective, sparse):
    model, reference, found = (
        fasttext(objective=objective, sparse=sparse),
        fasttext(objective=objective),
        batch(vocab=4),
    )
    for each in (model, reference):
        torch.manual_seed(3)
        torch.nn.init.normal_(each.output_embedding.weight)
    loss, _ = model.loss(found)
    loss.backward()
    plain = word2vec(objective)  # the same loss of vectors that are composed beforehand
    plain.input_embedding = torch.nn.Embedding.from_pretrained(reference.word_vectors().detach(), freeze=False)
    plain.output_embedding = torch.nn.Embedding.from_pretrained(
        reference.output_embedding.weight.detach(), freeze=False
    )
    plain.loss(found)[0].backward()
    reference.word_vectors().backward(plain.input_embedding.weight.grad)
    for name in ("input_embedding", "ngram_embedding"):
        mine, other = getattr(model, name).weight.grad, getattr(reference, name).weight.grad
        torch.testing.assert_close(mine.to_dense(), other)
    torch.testing.assert_close(model.output_embedding.weight.grad.to_dense(), plain.output_embedding.weight.grad)


def test_a_word_outside_the_vocabulary_has_the_vector_of_its_parts():
    model = fasttext()
    torch.testing.assert_close(model.outside("here"), model.ngram_embedding.weight[model.rows("here")].mean(0))
    assert fasttext(min_n=4).outside("a") is None  # <a> has no four characters


def test_a_checkpoint_brings_its_ngrams():
    model = fasttext()
    other = FastText(vocab_size=4, d_model=WIDTH, objective="skip_gram", min_n=3, max_n=5, buckets=50, sparse=False)
    other.double().load_state_dict(model.state_dict())
    assert torch.equal(other.word_vectors(), model.word_vectors())


def test_impossible_ngrams_are_refused():
    with pytest.raises(InputError, match=r"min_n \(4\) must not be above max_n \(3\)"):
        fasttext(min_n=4, max_n=3)


# -- GloVe -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
def test_glove_is_the_weighted_error_of_the_logarithms(sparse):
    torch.manual_seed(0)
    model = GloVe(vocab_size=9, d_model=4, x_max=10.0, alpha=0.75, sparse=sparse).double()
    model.begin(words=[], tokens=600)
    rows, columns = torch.tensor([1, 1, 5]), torch.tensor([2, 1, 8])
    counts = torch.tensor([0.5, 40.0, 3.0])  # in a text of a third of the length
    loss, cells = model.loss({"rows": rows, "columns": columns, "counts": counts, "text_tokens": 200})
    w, u, b, c = (p.detach() for p in model.parameters())
    expected = sum(
        min(1.0, (3 * x / 10) ** 0.75) * float(w[i] @ u[j] + b[i, 0] + c[j, 0] - math.log(3 * x)) ** 2
        for i, j, x in zip(rows.tolist(), columns.tolist(), counts.tolist(), strict=True)
    )
    assert loss.item() == pytest.approx(expected, rel=1e-6) and cells == 3
    loss.backward()
    touched = model.input_embedding.weight.grad.to_dense().any(-1)
    assert touched.nonzero().ravel().tolist() == [1, 5]
    assert torch.equal(model.word_vectors(), w + u)


@pytest.mark.parametrize("name", ["x_max", "alpha"])
def test_glove_refuses_weights_without_sense(name):
    with pytest.raises(InputError, match=rf"{name} \(0\) must be above 0"):
        GloVe(vocab_size=9, d_model=4, sparse=True, **{"x_max": 10.0, "alpha": 0.75, name: 0})
