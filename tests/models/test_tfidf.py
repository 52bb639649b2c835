"""The linear machine over terms against scikit-learn's, what each option changes, and a state that loads anywhere."""

from __future__ import annotations

import io
import random
import sys

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from llmcli.errors import InputError

pytest.importorskip("sklearn", reason="model=tfidf needs scikit-learn, of the floor extra")

from llmcli.models.tfidf import Tfidf

WORDS = ["good", "fine", "dull", "bad", "plot", "film", "end", "cast", "jokes", "never"]
OPTIONS = {
    "units": "auto", "longest": None, "weights": "tfidf", "min_texts": 1, "cost": 1.0, "max_characters": 2000,
}  # fmt: skip


def examples(number=90, seed=0):
    """Texts (N, 1) of three classes, told by words, some of them wrongly."""
    draw = random.Random(seed)
    texts = [(" ".join(draw.choices(WORDS, k=6)),) for _ in range(number)]
    classes = [min(2, text.count("good") + text.count("fine")) for (text,) in texts]
    classes = [draw.randrange(3) if draw.random() < 0.2 else each for each in classes]
    return texts, np.eye(3, dtype=bool)[classes]


def fitted(texts=None, held=None, *, several=False, **changes):
    model = Tfidf(**{**OPTIONS, **changes})
    if texts is None:
        texts, held = examples()
    model.fit(texts, held, several=several)
    return model


@pytest.mark.parametrize(
    ("changes", "features"),
    [
        ({}, {"token_pattern": r"\w+|[^\w\s]", "ngram_range": (1, 2)}),
        ({"units": "characters", "longest": 4}, {"analyzer": "char", "ngram_range": (1, 4)}),
        ({"min_texts": 5, "cost": 0.1}, {"token_pattern": r"\w+|[^\w\s]", "ngram_range": (1, 2), "min_df": 5}),
        ({"weights": "counts", "longest": 1}, {"token_pattern": r"\w+|[^\w\s]", "use_idf": False, "norm": None}),
    ],
)
def test_it_is_scikit_learns(changes, features):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    texts, held = examples()
    model = fitted(texts, held, **changes)
    vectors = TfidfVectorizer(**features)
    machine = LinearSVC(random_state=0, C=changes.get("cost", 1.0), tol=1e-8, max_iter=100_000)
    machine.fit(vectors.fit_transform(text for (text,) in texts), held.argmax(1))
    others, _ = examples(seed=1)
    expected = machine.decision_function(vectors.transform(text for (text,) in others))
    found = model(others) / model.scale
    np.testing.assert_allclose(found.numpy(), expected, atol=5e-3)  # liblinear stops at a tolerance


def test_where_most_letters_stand_without_spaces_terms_are_characters():
    texts, held = examples()
    chinese = [
        (text.translate({ord(each): 0x4E00 + ord(each) for each in text if each.isalpha()}),) for (text,) in texts
    ]
    assert not fitted(texts, held).by_characters
    model = fitted(chinese, held)
    assert model.by_characters and max(map(len, model._terms())) == 3
    assert not fitted(chinese, held, units="words").by_characters


def test_the_scale_makes_probabilities_of_scores():
    """Of other examples of the same kind; with no scale found the scores stay as they are."""
    texts, held = examples(600)
    others, true = examples(300, seed=1)
    labels = torch.from_numpy(true.argmax(1))
    logits = fitted(texts, held)(others)
    plain = Tfidf(**OPTIONS)
    plain.fit(texts, held, several=False, scaled=False)
    assert plain.scale == 1 and torch.equal(plain(others).argmax(1), logits.argmax(1))
    assert cross_entropy(logits, labels) < cross_entropy(plain(others), labels)
    best = min(cross_entropy(plain(others) * scale, labels) for scale in np.linspace(0.2, 6, 59))
    assert cross_entropy(logits, labels) < best + 0.02


def test_what_a_class_that_always_or_never_holds_is_worth():
    texts, held = examples()
    held = np.stack([held[:, 0], np.ones(len(held), bool), np.zeros(len(held), bool)], 1)
    logits = fitted(texts, held, several=True)(texts)
    assert (logits[:, 1] > 0).all() and (logits[:, 2] < 0).all()
    assert ((logits[:, 0] > 0).numpy() == held[:, 0]).mean() > 0.8


def test_a_pair_knows_which_text_is_which():
    pairs = [("good film", "bad film"), ("bad film", "good film")] * 5
    held = np.array([[first == "good film", first != "good film"] for first, _ in pairs])
    model = fitted(pairs, held)
    assert model(pairs).argmax(1).tolist() == [0, 1] * 5
    assert model.weight.shape[1] == 2 * len(model.idf)


def test_what_is_fitted_lies_where_the_model_does():
    model = Tfidf(**OPTIONS).to("meta")
    kept = {name: (buffer.device, buffer.dtype) for name, buffer in model.named_buffers()}
    model._keep(weight=np.ones((2, 3)), ends=[1, 2])
    assert {name: (buffer.device, buffer.dtype) for name, buffer in model.named_buffers()} == kept
    assert model.weight.shape == (2, 3)


def test_no_more_than_so_many_characters_are_read():
    model = fitted(max_characters=4)
    torch.testing.assert_close(model([("good film",)]), model([("good plot",)]))


def test_the_state_is_tensors_that_load_into_a_new_model():
    texts, held = examples()
    texts[0] = ("naïve 好 \n\0 text",)
    model = fitted(texts, held, units="characters")
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = Tfidf(**OPTIONS)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other._terms() == model._terms()
    others, _ = examples(seed=1)
    assert torch.equal(other(others), model(others))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": "letters"}, r"units \(letters\) must be one of auto, words, characters"),
        ({"weights": "idf"}, r"weights \(idf\) must be one of tfidf, counts"),
        ({"longest": 0}, r"longest \(0\) must be at least 1"),
        ({"cost": 0.0}, r"cost \(0.0\) must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Tfidf(**{**OPTIONS, **changes})


def test_texts_without_a_term_and_a_model_that_knows_none_are_refused(monkeypatch):
    with pytest.raises(InputError, match="no term stands in 1 of the 2 training texts"):
        fitted([(" ",), ("  ",)], np.eye(2, dtype=bool))
    with pytest.raises(InputError, match="fitted to nothing yet"):
        Tfidf(**OPTIONS)([("good",)])
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match="model=tfidf needs the package sklearn"):
        Tfidf(**OPTIONS)
