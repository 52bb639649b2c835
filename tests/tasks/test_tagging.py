"""Tagging: what a sentence becomes, alignment of sub-words, cut sentences, and that no batch changes a prediction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmcli.data.example_batches import collate, shortened
from llmcli.data.records import TaggedTokens
from llmcli.errors import InputError
from llmcli.metrics.entities import Span
from llmcli.models.recurrent import Recurrent
from llmcli.models.textcnn import TextCNN
from llmcli.models.transformer import Transformer
from llmcli.tasks.base import figures
from llmcli.tasks.tagged_words import marked, parts_of, word_spans
from llmcli.tasks.tagging import Tagging
from llmcli.text.segment.english import EnglishWords
from llmcli.text.segment.whitespace import Whitespace
from llmcli.tokenizers import char, word
from llmcli.tokenizers.byte import ByteTokenizer

D = 8
IOB2 = ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
OPTIONS = {
    "causal": False, "names": IOB2, "crf": True, "characters": "cnn", "d_characters": 6, "longest_word": 12,
    "pair_rows": 0, "word_dropout": 0.0, "dropout": 0.0, "words": "auto",
}  # fmt: skip
SENTENCES = [
    TaggedTokens(("Ann", "Lee", "went", "to", "Rome"), ("B-PER", "I-PER", "O", "O", "B-LOC")),
    TaggedTokens(("Rome",), ("B-LOC",)),
    TaggedTokens((), ()),
    TaggedTokens(("to", "New", "York", "she", "went", "."), ("O", "B-LOC", "I-LOC", "O", "O", "O")),
]
TEXTS = ["Ann Lee went to Rome", "she went to New York.", "", "Rome", "to to to to to to to to to to to to"]


@pytest.fixture(scope="module")
def tokenizer():
    tokens = [token for record in SENTENCES for token in record.tokens]
    return word.train(
        tokens, segmenter=Whitespace(), lower_case=True, vocab_size=None, min_frequency=1, unk_text="<unk>"
    )


def lstm(vocab_size):
    return Recurrent(
        cell="lstm", vocab_size=vocab_size, causal=False, d_model=D, d_hidden=None, n_layers=1, dropout_embedding=0.0,
        dropout_input=0.0, dropout_hidden=0.0, dropout_output=0.0, locked_dropout=True, weight_drop=0.0,
        tie_embeddings=False,
    )  # fmt: skip


def transformer(vocab_size, max_seq_len=64):
    model = Transformer(
        vocab_size=vocab_size, max_seq_len=max_seq_len, causal=False, d_model=D, n_layers=1, n_heads=2, n_kv_heads=None,
        d_ff=None, activation="relu2", qk_norm=True, rope_theta=10000.0, ngram_rows=[64], tie_embeddings=False,
        logit_softcap=None, dropout=0.0,
    )  # fmt: skip
    torch.nn.init.normal_(model.blocks[0].out.weight)  # which begins at zero, and so with words that see no others
    return model


def textcnn(vocab_size):
    return TextCNN(vocab_size=vocab_size, causal=False, d_embed=5, widths=[1, 2, 3], n_filters=4, dropout=0.0)


def make(tokenizer, model=lstm, **changes):
    torch.manual_seed(0)
    task = Tagging(model=model(tokenizer.vocab_size), **{**OPTIONS, **changes})
    torch.nn.init.normal_(task.head.linear.weight, std=2.0)  # so that tags differ
    return task.eval()


def batch_of(task, tokenizer, records, limit=1000):
    encode = task.encoder(tokenizer)
    ids = [[np.array(each, np.int64) for each in tokenizer.encode_batch(record.tokens)] for record in records]
    return collate([encode(*shortened(*each, limit)) for each in zip(records, ids, strict=True)], encode.pad)


@pytest.mark.parametrize("model", [lstm, transformer, textcnn])
@pytest.mark.parametrize(
    "changes",
    [{}, {"crf": False, "characters": "none"}, {"characters": "lstm"}, {"characters": "none", "pair_rows": 64}],
)
def test_padding_and_the_rest_of_the_batch_change_nothing(tokenizer, model, changes):
    task = make(tokenizer, model, **changes)
    together = task._step(batch_of(task, tokenizer, SENTENCES), "val")
    for row, record in enumerate(SENTENCES):
        alone = task._step(batch_of(task, tokenizer, [record]), "val")
        assert alone.outputs["tags"][0, : len(record.tokens)].tolist() == (
            together.outputs["tags"][row, : len(record.tokens)].tolist()
        )
        for name, each in together.each.items():
            torch.testing.assert_close(each[row], alone.each[name][0], rtol=1e-4, atol=1e-5)
    assert together.n == 12 and together.each["words"].tolist() == [5, 1, 0, 6]
    torch.testing.assert_close(together.loss, together.each["loss"].sum())
    trained = task._step(batch_of(task, tokenizer, SENTENCES), "train")
    torch.testing.assert_close(trained.loss, together.loss)


def test_a_word_has_the_hidden_state_of_its_first_piece():
    tokenizer = ByteTokenizer()  # every byte is a piece
    task = make(tokenizer, characters="none")
    batch = batch_of(task, tokenizer, SENTENCES[:1])
    assert batch["first"].tolist() == [[0, 3, 6, 10, 12]] and batch["n_tokens"] == 5 and batch["n_ids"] == 16
    hidden = task.model(batch["ids"])
    torch.testing.assert_close(task.scores(batch, batch["first"] >= 0), task.head.scores(hidden[:, [0, 3, 6, 10, 12]]))


def test_spelling_is_added_to_the_first_piece_alone():
    tokenizer = ByteTokenizer()
    task = make(tokenizer)
    batch = batch_of(task, tokenizer, SENTENCES[:2])
    real = batch["first"] >= 0
    embedded = task._spelled(batch["ids"], batch["first"], batch["characters"], real)
    plain = task.model.input_embedding(batch["ids"])
    changed = (embedded != plain).any(2)
    assert changed[0].nonzero().flatten().tolist() == [0, 3, 6, 10, 12]
    assert changed[1].nonzero().flatten().tolist() == [0]
    torch.testing.assert_close((embedded - plain)[0, 12], (embedded - plain)[1, 0])  # Rome is Rome


@pytest.mark.parametrize("characters", ["none", "cnn"])
def test_a_word_is_read_with_the_pair_that_it_forms_with_the_one_before(tokenizer, characters):
    narrow = lambda size: TextCNN(vocab_size=size, causal=False, d_embed=5, widths=[1], n_filters=4, dropout=0.0)  # noqa: E731
    task = make(tokenizer, narrow, characters=characters, pair_rows=10_000)  # which sees each word alone
    first, second = (TaggedTokens(words, ("O",) * 3) for words in (("Ann", "went", "to"), ("Rome", "went", "to")))
    batch = batch_of(task, tokenizer, [first, second])
    scores = task.scores(batch, batch["first"] >= 0)
    assert not torch.allclose(scores[0, 1], scores[1, 1])  # "went" after another word
    assert torch.allclose(scores[0, 2], scores[1, 2])  # "to" after the same one
    with torch.no_grad():
        task.pairs.tables[0].weight.zero_()
    scores = task.scores(batch, batch["first"] >= 0)
    assert torch.allclose(scores[0, 1], scores[1, 1])


def test_words_without_pieces_are_unknown_and_an_empty_sentence_is_one_of_padding(tokenizer):
    encode = make(tokenizer).encoder(tokenizer)
    fields = encode.words(["a", "b", "c"], [[20], [], [21, 22]])
    assert fields["ids"].tolist() == [20, tokenizer.unk_id, 21, 22] and fields["first"].tolist() == [0, 1, 2]
    fields = encode(TaggedTokens((), ()), [])
    assert (fields["ids"].tolist(), fields["first"].tolist()) == ([tokenizer.pad_id], [-1])
    assert fields["labels"].tolist() == [-100] and fields["n_tokens"] == 0


@pytest.mark.parametrize("names", [IOB2, ["B-LOC", "B-PER", "I-LOC", "I-PER", "NOUN"]])
def test_words_cut_off_a_sentence_are_no_targets_and_are_not_found(tokenizer, names):
    task = make(tokenizer, names=names)
    record = SENTENCES[0] if "O" in names else TaggedTokens(SENTENCES[0].tokens, ("NOUN",) * 5)
    whole, cut = (task._step(batch_of(task, tokenizer, [record], limit), "val") for limit in (1000, 3))
    assert (cut.n, int(cut.each["words"])) == (3, 5)
    short = TaggedTokens(record.tokens[:3], record.tags[:3])
    torch.testing.assert_close(cut.loss, task._step(batch_of(task, tokenizer, [short]), "val").loss)
    assert cut.outputs["tags"][0, 3:].tolist() == [-1, -1]
    [outcome] = task.outcomes([record], cut)
    assert outcome["predicted"][3:] == (["O", "O"] if "O" in names else ["", ""])
    if "O" in names:
        assert int(cut.sums["true"].sum()) == int(whole.sums["true"].sum()) == 2  # Rome is still to be found
    assert int(cut.sums["correct"]) <= 3 and int(cut.each["n"]) == 3


def test_figures_are_those_of_entities_or_of_tags(tokenizer):
    task = make(tokenizer)
    metrics = task.metrics()
    result = task._step(batch_of(task, tokenizer, SENTENCES), "val")
    for metric in metrics:
        metric.update({"loss": result.loss.detach(), "n": result.n, **result.sums})
    assert set(figures(metrics)) == {"loss", "accuracy", "f1", "precision", "recall"} and task.monitor == "val_f1"
    assert figures(metrics)["loss"] == pytest.approx(result.loss.item() / 12)
    by_type = task.by_class(result.sums)
    assert list(by_type) == ["LOC", "PER"] and by_type["LOC"]["support"] == 3 and task.higher_is_better
    speech = make(tokenizer, names=["NOUN", "VERB"])
    assert [metric.name for metric in speech.metrics()] == ["loss", "accuracy", "f1"]
    assert speech.monitor == "val_accuracy" and speech.higher_is_better


def test_only_legal_tags_are_predicted(tokenizer):
    for crf in (True, False):
        task = make(tokenizer, crf=crf)
        with torch.no_grad():
            task.head.linear.bias[IOB2.index("I-PER")] += 50.0
        tags = task._step(batch_of(task, tokenizer, SENTENCES[:1]), "val").outputs["tags"][0].tolist()
        assert [IOB2[tag] for tag in tags] == ["B-PER", *["I-PER"] * 4]


def test_rare_words_are_read_as_unknown_in_training_alone(tokenizer):
    task = make(tokenizer, word_dropout=0.5, characters="none")
    rates = torch.ones(tokenizer.vocab_size)
    rates[tokenizer.encode("rome")] = 0.0
    task.unknown = (rates, tokenizer.unk_id)
    batch = batch_of(task, tokenizer, SENTENCES[1:2] + SENTENCES[3:])
    ids = batch["ids"].clone()
    expected = {**batch, "ids": torch.where(ids == tokenizer.encode("rome")[0], ids, tokenizer.unk_id)}
    plain = task._step(batch, "val").loss
    assert task.train()._step(batch, "train").loss != plain
    torch.testing.assert_close(task._step(batch, "train").loss, task._step(expected, "train").loss)
    assert torch.equal(batch["ids"], ids)
    assert task.eval()._step(batch, "val").loss == plain


def test_predictions_stand_in_the_text_and_do_not_depend_on_the_batch(tokenizer):
    task = make(tokenizer)
    together = task.predict(TEXTS, tokenizer, top=1)
    assert [answer["text"] for answer in together] == TEXTS
    assert together[2]["entities"] == [] and sum(len(answer["entities"]) for answer in together) > 2
    for text, answer in zip(TEXTS, together, strict=True):
        [alone] = task.predict([text], tokenizer, top=5)
        for one, other in zip(alone["entities"], answer["entities"], strict=True):
            assert one.pop("probability") == pytest.approx(other.pop("probability"), abs=1e-5)
            assert one == other and text[one["start"] : one["end"]] == one["text"]


def test_predicted_tags_are_those_of_a_validation_step(tokenizer):
    task = make(tokenizer, names=["DT", "NN", "VB"])
    [answer] = task.predict(["Ann  Lee went to Rome"], tokenizer, top=1)
    result = task._step(batch_of(task, tokenizer, [TaggedTokens(SENTENCES[0].tokens, ("NN",) * 5)]), "val")
    assert [each["tag"] for each in answer["tags"]] == [task.names[tag] for tag in result.outputs["tags"][0].tolist()]
    assert [(each["text"], each["start"]) for each in answer["tags"]][:3] == [("Ann", 0), ("Lee", 5), ("went", 9)]
    assert all(0 < each["probability"] <= 1 for each in answer["tags"])


def test_a_text_that_is_too_long_for_the_model_is_tagged_in_parts(tokenizer):
    task = make(tokenizer, lambda size: transformer(size, max_seq_len=4), names=["DT", "NN", "VB"])
    text = "Ann Lee went to Rome and to York"
    [whole] = task.predict([text], tokenizer, top=1)
    parts = task.predict(["Ann Lee went to", "Rome and to York"], tokenizer, top=1)
    tags = [each["tag"] for part in parts for each in part["tags"]]
    assert [each["tag"] for each in whole["tags"]] == tags and len(tags) == 8
    assert [text[each["start"] : each["end"]] for each in whole["tags"]] == text.split()
    long = parts_of(0, "abcdef gh", [(0, 6), (7, 9)], ByteTokenizer(), 4)
    assert [part.words for part in long] == [["abcdef"], ["gh"]] and len(long[0].ids[0]) == 4


def test_what_a_word_is(tokenizer):
    def cut(text, how, tokenizer=tokenizer):
        return [text[start:end] for start, end in word_spans(text, how, tokenizer)]

    assert cut("Ann didn't go.", "auto") == ["Ann", "did", "n't", "go", "."]  # the tokens were given: by rule
    assert cut("Ann didn't go.", "whitespace") == ["Ann", "didn't", "go."]
    assert cut("去 Rome", "auto", char.train(["去"], min_frequency=1)) == list("去 Rome")
    assert cut("去北京", "rule") == list("去北京")
    whole = word.train(
        ["didn't"], segmenter=EnglishWords(contractions="whole"), lower_case=False, vocab_size=None, min_frequency=1,
        unk_text=None,
    )  # fmt: skip
    assert cut("Ann didn't", "auto", whole) == ["Ann", "didn't"]
    pytest.importorskip("rjieba")
    chinese = word.train(
        ["我们", "北京", "去"], segmenter=Whitespace(), lower_case=False, vocab_size=None, min_frequency=1,
        unk_text=None,
    )  # fmt: skip
    assert cut("我们去北京", "auto", chinese) == ["我们", "去", "北京"]


def test_spans_of_words_stand_in_the_joined_text():
    def joined(*tokens):
        return TaggedTokens(tokens, ("O",) * len(tokens)).joined()

    text, places = joined("Ann", "went", ".")
    assert text == "Ann went ." and [text[start:end] for start, end in places] == ["Ann", "went", "."]
    assert joined(*"去Rome")[0] == "去Rome" and joined("我们", "去", "北京", "2024")[0] == "我们去北京2024"
    assert joined() == ("", [])
    found = marked([Span(0, 1, "a"), Span(2, 3, "b")], [Span(0, 1, "a"), Span(2, 3, "a")], places)
    assert found == [
        {"start": 0, "end": 3, "label": "a", "kind": "both"},
        {"start": 9, "end": 10, "label": "a", "kind": "predicted"},
        {"start": 9, "end": 10, "label": "b", "kind": "true"},
    ]


def test_outcomes_show_what_was_true_and_what_was_predicted(tokenizer):
    task = make(tokenizer)
    result = task._step(batch_of(task, tokenizer, SENTENCES), "val")
    found = task.outcomes(SENTENCES, result)
    for record, one, loss in zip(SENTENCES, found, result.each["loss"].tolist(), strict=True):
        assert one["text"] == " ".join(record.tokens) and one["true"] == list(record.tags)
        assert one["right"] == (one["true"] == one["predicted"])
        assert one["loss"] == pytest.approx(loss / max(1, len(record.tokens)))
    kinds = [span["kind"] for one in found for span in one["spans"]]
    assert kinds.count("true") + kinds.count("both") == int(result.sums["true"].sum())
    assert kinds.count("both") == int(result.sums["hits"].sum())


def test_a_first_prediction_is_shown_with_a_sentence(tokenizer):
    task = make(tokenizer)
    assert task.example("Ann went.") == "Ann went." and task.example("去" * 80) == "去" * 20
    assert task.example("word " * 20) == "word word word word word word word word word word word word"[:59]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["O"]}, "tagging needs two tags or more; the train split has only 'O'"),
        ({"names": []}, "the train split has none"),
        ({"characters": "bytes"}, r"task.characters \(bytes\) must be one of none, cnn, lstm"),
        ({"longest_word": 2}, r"task.longest_word \(2\) must be at least 3"),
        ({"word_dropout": -1.0}, r"task.word_dropout \(-1.0\) must be at least 0"),
        ({"words": "split"}, r"task.words \(split\) must be one of auto, rule"),
        ({"characters": "lstm", "d_characters": 5}, r"d_characters \(5\) must be even"),
    ],
)
def test_what_is_refused(tokenizer, changes, message):
    with pytest.raises(InputError, match=message):
        make(tokenizer, **changes)


def test_a_tag_that_was_not_trained_on_is_named(tokenizer):
    with pytest.raises(InputError, match="the run was not trained on the tag 'B-ORG'") as caught:
        batch_of(make(tokenizer), tokenizer, [TaggedTokens(("UN",), ("B-ORG",))])
    assert caught.value.hint == "its tags: B-LOC, B-PER, I-LOC, I-PER, O"


def test_marks_stand_around_a_sentence_and_move_its_words(tokenizer):
    encode = make(tokenizer, marks=True).encoder(tokenizer)
    fields = encode.words(["a", "b", "c"], [[20], [], [21, 22]])
    assert fields["ids"].tolist() == [tokenizer.cls_id, 20, tokenizer.unk_id, 21, 22, tokenizer.sep_id]
    assert fields["first"].tolist() == [1, 2, 3] and encode.extra == 2
    assert encode(TaggedTokens((), ()), [])["ids"].tolist() == [tokenizer.cls_id, tokenizer.sep_id]
    with pytest.raises(InputError, match=r"task.marks is on, but this tokenizer has no <cls> and <sep>"):
        make(tokenizer, marks=True).encoder(Unmarked())


class Unmarked:
    cls_id = sep_id = None


def test_with_marks_a_prediction_is_that_of_a_validation_step(tokenizer):
    task = make(tokenizer, lambda size: transformer(size, max_seq_len=7), names=["DT", "NN", "VB"], marks=True)
    [answer] = task.predict(["Ann Lee went to Rome and to York"], tokenizer, top=1)
    result = task._step(batch_of(task, tokenizer, [TaggedTokens(SENTENCES[0].tokens, ("NN",) * 5)]), "val")
    tags = [task.names[tag] for tag in result.outputs["tags"][0].tolist()]
    assert [each["tag"] for each in answer["tags"]][:5] == tags and len(answer["tags"]) == 8


def test_marks_are_never_read_as_unknown_words(tokenizer):
    task = make(tokenizer, word_dropout=0.5, characters="none", marks=True)
    task.trainer = FitsOn(tokenizer)
    task.setup("fit")
    rates, unk_id = task.unknown
    assert rates[[tokenizer.cls_id, tokenizer.sep_id]].tolist() == [0, 0] and rates[20] > 0
    assert unk_id == tokenizer.unk_id


class FitsOn:
    """As much of a trainer as `setup` asks: the words of the train split are all new."""

    def __init__(self, tokenizer):
        self.datamodule = self.prepared = self
        self.tokenizer = tokenizer

    def examples(self, split):
        return self

    def id_counts(self, vocab_size):
        return np.zeros(vocab_size, np.int64)
