"""Answers in a text: windows that map back exactly, the loss, the search, predictions that no batch changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.data.example_batches import collate
from llmcli.data.records import QuestionAnswer
from llmcli.errors import InputError
from llmcli.layers.spans import best_spans, span_loss
from llmcli.models.recurrent import Recurrent
from llmcli.models.transformer import Transformer
from llmcli.tasks.span_qa import SpanQA
from llmcli.tasks.span_windows import SpanEncoder
from llmcli.text.segment.english import EnglishWords
from llmcli.tokenizers import subword, word
from llmcli.tokenizers.byte import ByteTokenizer
from llmcli.tokenizers.char import CharTokenizer

D = 8
OPTIONS = {
    "causal": False, "seq_len": 24, "stride": 5, "max_answer": 6, "no_answer_threshold": 0.0, "dropout": 0.0,
}  # fmt: skip
WORDS = ["the", "cat", "naïve", "你好", "，", "sat!", "", "\n", "  "]
CORPUS = " ".join(WORDS) * 30
TOKENIZERS = {
    "byte": ByteTokenizer(),
    "char": CharTokenizer("".join(sorted(set(CORPUS)))),
    "word": word.train(
        [CORPUS], segmenter=EnglishWords(contractions="treebank"), lower_case=True, vocab_size=None, min_frequency=1,
        unk_text=None,
    ),
    "bpe": subword.train(
        [CORPUS], algorithm="bpe", vocab_size=300, character_coverage=1.0, max_piece_length=16,
        sample_characters=10_000, seed=1,
    ),
}  # fmt: skip


def encoded(tokenizer, record):
    return [np.array(tokenizer.encode(text), np.int64) for text in record.texts()]


def lengths_of(ids):
    return np.array([len(each) for each in ids]), np.array([0])


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60)
@given(data=st.data(), limit=st.integers(8, 40), stride=st.integers(1, 20))
def test_windows_cover_the_text_and_answers_map_back_exactly(name, data, limit, stride):
    tokenizer = TOKENIZERS[name]
    context = " ".join(data.draw(st.lists(st.sampled_from(WORDS), max_size=30)))
    starts = [span for span in EnglishWords(contractions="treebank").spans(context)]
    answers, places = (), ()
    if starts:
        first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(starts) - 1)] * 2)))
        places = (starts[first][0],)
        answers = (context[starts[first][0] : starts[last][1]],)
    record = QuestionAnswer("which cat?" * data.draw(st.integers(0, 3)), context, answers, places)
    ids = encoded(tokenizer, record)
    encode = SpanEncoder(tokenizer=tokenizer, stride=stride)
    rows = encode.rows(record, ids, limit)
    sizes = encode.sizes(*lengths_of(ids), limit)
    found = [len(row["ids"]) for row in rows]
    assert (sizes.rows[0], sizes.longest[0], sizes.ids[0]) == (len(rows), max(found), sum(found))
    assert max(found) <= limit
    seen, whole = set(), 0
    for row in rows:
        inside = np.flatnonzero(row["inside"])
        window = row["window"]
        said = [context[start:end].strip() != "" for start, end in window.offsets.tolist()]
        assert inside.tolist() == (window.first + np.flatnonzero(said)).tolist() and row["ids"][0] == tokenizer.cls_id
        seen.update(place for start, end in window.offsets.tolist() for place in range(start, end))
        start, end = row["places"].tolist()
        if start:
            whole += 1
            assert row["inside"][start] and row["inside"][end]
            begin, stop = window.characters(start, end)
            if name == "bpe":  # an answer may end inside a unit of several characters, which is then given whole
                assert answers[0].strip() in context[begin:stop] and stop - begin < len(answers[0]) + 2 * 16
            else:
                assert context[begin:stop] == answers[0].strip()
    assert {place for place, char in enumerate(context) if not char.isspace()} <= seen  # nothing is skipped
    assert not answers or whole or len(ids[1]) > min(stride, limit - len(rows[0]["ids"]))  # cut in two by every window
    if len(rows) == 1:
        assert bool(whole) == bool(answers)


def test_rows_by_hand():
    tokenizer = TOKENIZERS["byte"]
    record = QuestionAnswer("who?", "0123456789", ("56", "3"), (5, 3))
    encode = SpanEncoder(tokenizer=tokenizer, stride=2)
    rows = encode.rows(record, encoded(tokenizer, record), 12)  # 3 marks, 4 of the question, 5 of the text
    said = [tokenizer.decode(row["ids"]) for row in rows]
    assert said == ["who?01234", "who?23456", "who?45678", "who?6789"]
    assert [row["places"].tolist() for row in rows] == [[0, 0], [9, 10], [7, 8], [0, 0]]
    assert encode.fate == "in windows"
    [beginning] = SpanEncoder(tokenizer=tokenizer, stride=None).rows(record, encoded(tokenizer, record), 12)
    assert tokenizer.decode(beginning["ids"]) == "who?01234" and beginning["places"].tolist() == [0, 0]
    long = QuestionAnswer("a very long question", "0123456789", ("01",), (0,))
    [*_, last] = encode.rows(long, encoded(tokenizer, long), 13)
    assert tokenizer.decode(last["ids"]).startswith("a ver") and len(last["ids"]) <= 13
    whole = encode.sizes(*lengths_of(encoded(tokenizer, long)), None)
    assert (whole.rows[0], whole.longest[0]) == (1, 33)


def test_the_best_spans_are_those_of_a_search_through_all():
    torch.manual_seed(0)
    logits = torch.randn(3, 9, 2)
    logits[:, 1:4] = -torch.inf
    logits[1, 7:] = -torch.inf
    for longest in (1, 3, 20):
        found = best_spans(logits, longest=longest, top=4)
        for row in range(3):
            start, end = logits[row].unbind(1)
            every = {
                (i, j): float(start[i] + end[j] - start[0] - end[0])
                for i in range(4, 9) for j in range(i, min(9, i + longest))
            }  # fmt: skip
            best = sorted(every.values(), reverse=True)[:4]
            torch.testing.assert_close(found.scores[row], torch.tensor(best))
            for score, i, j in zip(*(each[row].tolist() for each in found), strict=True):
                assert score == -torch.inf or score == pytest.approx(every[i, j], abs=1e-5)


def test_the_loss_is_the_mean_of_two_cross_entropies():
    torch.manual_seed(0)
    logits, places = torch.randn(4, 7, 2), torch.tensor([[0, 0], [2, 5], [1, 1], [6, 6]])
    start, end = (F.cross_entropy(logits[..., side], places[:, side], reduction="none") for side in (0, 1))
    torch.testing.assert_close(span_loss(logits, places), (start + end) / 2)


def lstm():
    return Recurrent(
        cell="lstm", vocab_size=272, causal=False, d_model=D, d_hidden=None, n_layers=1, dropout_embedding=0.0,
        dropout_input=0.0, dropout_hidden=0.0, dropout_output=0.0, locked_dropout=True, weight_drop=0.0,
        tie_embeddings=False,
    )  # fmt: skip


def transformer(max_seq_len=64):
    return Transformer(
        vocab_size=272, max_seq_len=max_seq_len, causal=False, d_model=D, n_layers=1, n_heads=2, n_kv_heads=None,
        d_ff=None, activation="relu2", qk_norm=True, rope_theta=10000.0, ngram_rows=[], tie_embeddings=False,
        logit_softcap=None, dropout=0.0,
    )  # fmt: skip


def make(model=None, **changes):
    torch.manual_seed(0)
    task = SpanQA(model=model or lstm(), **{**OPTIONS, **changes}).eval()
    torch.nn.init.normal_(task.head.linear.weight)
    return task


RECORDS = [
    QuestionAnswer("who sat?", "the cat sat on the mat, and the dog did not", ("the cat", "cat"), (0, 4)),
    QuestionAnswer("where?", "here"),
    QuestionAnswer("谁？", "猫坐在垫子上。", ("猫",), (0,)),
    QuestionAnswer("what?", ""),
]


def batch_of(task, records):
    encode = task.encoder(TOKENIZERS["byte"])
    found = [encode.rows(record, encoded(TOKENIZERS["byte"], record), 24) for record in records]
    batch = collate([row for rows in found for row in rows], encode.pad)
    example = torch.tensor([number for number, rows in enumerate(found) for _ in rows])
    return {**batch, "example": example, "numbers": torch.arange(len(records)), "index": 0}


@pytest.mark.parametrize("model", [lstm, transformer])
def test_padding_and_the_rest_of_the_batch_change_nothing(model):
    task = make(model())
    together = task._step(batch_of(task, RECORDS), "val")
    for row, record in enumerate(RECORDS):
        alone = task._step(batch_of(task, [record]), "val")
        torch.testing.assert_close(alone.each["loss"][0], together.each["loss"][row], rtol=1e-4, atol=1e-5)
        assert alone.outputs["spans"][0].tolist() == together.outputs["spans"][row].tolist()
        assert alone.each["n"][0] == together.each["n"][row]
    assert together.n == int(together.each["n"].sum()) == len(batch_of(task, RECORDS)["ids"])
    torch.testing.assert_close(task._step(batch_of(task, RECORDS), "train").loss, together.loss)


def test_predictions_are_spans_of_the_original_text_whatever_they_are_batched_with():
    task, tokenizer = make(), TOKENIZERS["byte"]
    asked = [{"question": each.question, "context": each.context} for each in RECORDS]
    together = task.predict(asked, tokenizer, top=3)
    spans = task._step(batch_of(task, RECORDS), "val").outputs["spans"].tolist()
    for each, found, (start, end) in zip(asked, together, spans, strict=True):
        assert found["question"] == each["question"]
        assert found["answer"] == (None if start < 0 else each["context"][start:end])  # as in evaluation
        places = [(entry["start"], entry["end"]) for entry in found["answers"] if entry["answer"] is not None]
        assert all(entry["answer"] is None or entry["answer"] == each["context"][entry["start"] : entry["end"]]
                   for entry in found["answers"])  # fmt: skip
        assert all(a[1] <= b[0] or b[1] <= a[0] for a in places for b in places if a != b)
        [alone] = task.predict([each], tokenizer, top=3)
        assert alone["answer"] == found["answer"]
        assert alone["answers"][0]["probability"] == pytest.approx(found["answers"][0]["probability"], abs=1e-5)
    assert together[3]["answer"] is None and together[3]["answers"] == [
        {"answer": None, "start": None, "end": None, "probability": 1.0}
    ]


def answered(**changes):
    asked = [{"question": "who sat?", "context": RECORDS[0].context}]
    [found] = make(**changes).predict(asked, TOKENIZERS["byte"], top=5)
    return found


def test_each_option_changes_the_answer():
    usual = answered()
    longest = max(len(entry["answer"] or "") for entry in usual["answers"])
    assert max(len(entry["answer"] or "") for entry in answered(max_answer=1)["answers"]) == 1 < longest
    assert answered(no_answer_threshold=1000.0)["answer"] is None
    always = answered(no_answer_threshold=None)
    assert always["answer"] is not None and all(entry["answer"] is not None for entry in always["answers"])
    assert answered(stride=None)["answers"] != usual["answers"]  # the beginning alone
    assert answered(seq_len=64)["answers"] != usual["answers"]
    assert make(transformer(16)).predict([{"question": "a?", "context": "b" * 99}], TOKENIZERS["byte"], top=1)
    one, other = (make(dropout=rate).train()._step(batch_of(make(), RECORDS), "train").loss for rate in (0.0, 0.5))
    assert one != other


def test_outcomes_tell_of_each_question():
    task = make(no_answer_threshold=1000.0)
    result = task._step(batch_of(task, RECORDS), "val")
    first, second, *_ = task.outcomes(RECORDS, result)
    assert first["true"] == ["the cat", "cat"] and first["predicted"] is None and not first["right"]
    assert [(each["start"], each["end"], each["kind"]) for each in first["spans"]] == [(0, 7, "true"), (4, 7, "true")]
    assert second["right"] and second["spans"] == [] and second["text"] == "here"
    assert result.sums["questions"] == 4 and result.sums["answerable"] == 2 and result.sums["unanswered"] == 2
    bold = make(no_answer_threshold=None)
    told = bold.outcomes(RECORDS, bold._step(batch_of(bold, RECORDS), "val"))[0]
    [found] = [each for each in told["spans"] if each["kind"] != "true"]
    assert told["text"][found["start"] : found["end"]] == told["predicted"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_answer": 0}, r"task.max_answer \(0\) must be at least 1"),
        ({"stride": 0}, r"task.stride \(0\) must be at least 1"),
        ({"dropout": 1.0}, r"dropout \(1.0\)"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_a_tokenizer_without_marks_is_refused():
    tokenizer = ByteTokenizer()
    tokenizer.cls_id = None
    with pytest.raises(InputError, match="needs a tokenizer with <cls> and <sep>"):
        make().encoder(tokenizer)


@pytest.mark.parametrize("name", ["byte", "char"])
@pytest.mark.parametrize("threshold", [0.0, None])
def test_white_space_is_no_answer(name, threshold):
    """However much it is worth: in the end what is said is said of letters."""
    tokenizer = TOKENIZERS[name]
    task = make(no_answer_threshold=threshold)
    encode = task.encoder(tokenizer)
    record = QuestionAnswer("the?", "the \n  cat ")
    [row] = encode.rows(record, encoded(tokenizer, record), 24)
    spoken = [record.context[start:end].strip() != "" for start, end in row["window"].offsets.tolist()]
    assert row["inside"].tolist() == [0] * row["window"].first + [int(each) for each in spoken] + [0]
    for context in (record.context, "   ", "\n"):
        [found] = task.predict([{"question": "the?", "context": context}], tokenizer, top=9)
        said = [each for each in found["answers"] if each["answer"] is not None]
        assert all(each["start"] < each["end"] and each["answer"].strip() == each["answer"] for each in said)
        assert bool(said) == bool(context.strip())
        assert found["answer"] is None or found["answer"].strip()
