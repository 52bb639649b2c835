"""task=chat: exactly the assistant's tokens are learned, all else is read, packing changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from llmcli.catalog import config_dir
from llmcli.data.chat_template import ChatTemplate
from llmcli.data.example_batches import EncodeRows, PackRows, collate
from llmcli.data.records import Conversation, Turn
from llmcli.errors import InputError
from llmcli.losses import IGNORED
from llmcli.models.gpt2 import GPT2
from llmcli.models.recurrent import Recurrent
from llmcli.models.transformer import Transformer
from llmcli.tasks.chat import Chat
from llmcli.tasks.conversations import ConversationEncoder
from llmcli.tokenizers.byte import ByteTokenizer

BYTES = ByteTokenizer()
EOS, LIMIT = BYTES.eos_id, 64
TEMPLATES = ("reserved", "chatml", "plain", "alpaca")
words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
conversations = st.tuples(
    st.none() | words, st.lists(st.tuples(words, words), min_size=1, max_size=4), st.sampled_from(TEMPLATES)
)


def template(name):
    cfg = OmegaConf.load(config_dir() / "template" / f"{name}.yaml")
    return {"template": cfg.template, "marks": OmegaConf.to_container(cfg.marks)}


def encoder(name="reserved", *, pack=False):
    settings = template(name)
    return ConversationEncoder(ChatTemplate(text=settings["template"], marks=settings["marks"]), BYTES, pack=pack)


def conversation(*exchanges, system=None):
    turns = [] if system is None else [Turn("system", system)]
    for asked, answer in exchanges:
        turns += [Turn("user", asked), Turn("assistant", answer)]
    return Conversation(tuple(turns))


def row(encode, record, limit=10_000):
    [found] = encode.rows(record, [np.array(ids, np.uint16) for ids in BYTES.encode_batch(record.texts())], limit)
    return found


@settings(max_examples=150, deadline=None)
@given(conversations)
def test_the_labels_are_exactly_the_assistants_words_and_their_ends(drawn):
    system, exchanges, name = drawn
    found = row(encoder(name), conversation(*exchanges, system=system))
    labels = found["labels"]
    spans = np.split(labels, np.flatnonzero(np.diff((labels != IGNORED).astype(int))) + 1)
    said = [span.tolist() for span in spans if span[0] != IGNORED]
    assert said == [[*BYTES.encode(answer), EOS] for _, answer in exchanges]
    assert found["n_tokens"] == (labels != IGNORED).sum()
    known = labels != IGNORED
    assert (found["ids"][1:][known[:-1]] == labels[:-1][known[:-1]]).all()  # each is the next id


@settings(max_examples=150, deadline=None)
@given(conversations, st.integers(20, 80))
def test_what_is_too_long_keeps_whole_exchanges_or_the_beginning_of_the_first_answer(drawn, limit):
    system, exchanges, name = drawn
    encode = encoder(name)
    limit = max(limit, encode.extra + 1)
    found = row(encode, conversation(*exchanges, system=system), limit)
    assert len(found["ids"]) == len(found["labels"]) <= limit and found["n_tokens"] >= 1
    whole = [row(encode, conversation(*exchanges[: count + 1], system=system)) for count in range(len(exchanges))]
    fitting = [each for each in whole if len(each["ids"]) <= limit]
    if fitting:
        assert found["ids"].tolist() == fitting[-1]["ids"].tolist()
        assert found["labels"].tolist() == fitting[-1]["labels"].tolist()
    else:
        learned = found["labels"][found["labels"] != IGNORED].tolist()
        complete = [*BYTES.encode(exchanges[0][1]), EOS]
        assert learned == complete or (EOS not in learned and learned == complete[: len(learned)])


def test_sizes_are_those_of_the_rows():
    encode = encoder("chatml")
    records = [conversation(("hi", "hello")), conversation(("hi", "ho"), ("a", "b"), system="be kind")]
    lengths = np.array([len(ids) for record in records for ids in BYTES.encode_batch(record.texts())])
    sizes = encode.sizes(lengths, np.array([0, 2]), None)
    assert sizes.longest.tolist() == sizes.ids.tolist() == [len(row(encode, record)["ids"]) for record in records]
    assert sizes.rows.tolist() == [1, 1]
    assert (encode.sizes(lengths, np.array([0, 2]), 40).longest <= 40).all()
    assert isinstance(encode, EncodeRows) and isinstance(encode, PackRows)


def test_roles_out_of_order_are_told_with_their_conversation():
    record = Conversation((Turn("user", "what is"), Turn("user", "this"), Turn("assistant", "that")))
    with pytest.raises(InputError, match="that begins 'what is': turn 2 is the user's, and should be the assistant's"):
        row(encoder(), record)


def test_rows_are_packed_longest_first_where_there_is_room():
    encode = encoder(pack=True)
    rows = [
        {"ids": np.full(size, size), "labels": np.full(size, size), "n_tokens": size} for size in (3, 9, 5, 2, 6, 10)
    ]
    packed = encode.packed(rows, 12)
    assert [each["segment_ids"].tolist() for each in packed] == [
        [5] * 10 + [3] * 2, [1] * 9 + [0] * 3, [4] * 6 + [2] * 5,
    ]  # fmt: skip
    assert [each["n_tokens"] for each in packed] == [12, 12, 11]
    assert encoder(pack=False).packed(rows, 12) == rows


def backbone(kind):
    torch.manual_seed(0)
    size = {"vocab_size": BYTES.vocab_size, "causal": True, "d_model": 16}
    if kind == "lstm":
        model = Recurrent(
            **size, cell="lstm", d_hidden=None, n_layers=1, dropout_embedding=0.0, dropout_input=0.0,
            dropout_hidden=0.0, dropout_output=0.0, locked_dropout=False, weight_drop=0.0, tie_embeddings=False,
        )  # fmt: skip
    elif kind == "gpt2":
        model = GPT2(**size, max_seq_len=LIMIT, n_layers=2, n_heads=2, dropout=0.0)
    else:
        model = Transformer(
            **size, max_seq_len=LIMIT, n_layers=2, n_heads=2, n_kv_heads=None, d_ff=None, activation="relu2",
            qk_norm=True, rope_theta=10000.0, ngram_rows=[64], tie_embeddings=False, logit_softcap=None, dropout=0.0,
        )  # fmt: skip
    with torch.no_grad():  # what begins at zero says nothing
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def task(kind, *, pack=False):
    torch.manual_seed(1)
    made = Chat(
        model=backbone(kind), causal=True, pack=pack, label_smoothing=0.0, head_cutoffs=None, **template("reserved")
    )
    with torch.no_grad():
        made.head.weight.normal_(std=0.3)
    return made.eval()


def batch(made, records):
    encode = made.encoder(BYTES)
    rows = encode.packed([row(encode, record, LIMIT) for record in records], LIMIT)
    return {**collate(rows, encode.pad), "numbers": torch.arange(len(records))}


RECORDS = [
    conversation(("hi", "hello"), ("and you", "fine")),
    conversation(("what is it", "a stone"), system="be brief"),
    conversation(("a", "b")),
    conversation(("who", "Ada"), ("where", "at home")),
]


@pytest.mark.parametrize("kind", ["transformer", "gpt2", "lstm"])
def test_a_packed_conversation_is_read_as_if_it_were_alone(kind):
    packed, alone = task(kind, pack=True), task(kind)
    together = batch(packed, RECORDS)
    assert len(together["ids"]) < len(RECORDS) and "mask" in together
    hidden = packed.model(together["ids"], segment_ids=together["segment_ids"])
    for number, record in enumerate(RECORDS):
        single = batch(alone, [record])
        expected = alone.head.logits(alone.model(single["ids"]))[0]
        mine = together["segment_ids"] == number
        assert together["ids"][mine].tolist() == single["ids"][0].tolist()
        assert torch.allclose(packed.head.logits(hidden[mine][None])[0], expected, atol=1e-5)


@pytest.mark.parametrize("pack", [False, True])
def test_the_loss_is_that_of_the_answers_by_conversation(pack):
    made = task("transformer", pack=pack)
    found = made._step(batch(made, RECORDS), "val")
    for number, record in enumerate(RECORDS):
        single = batch(task("transformer"), [record])
        log_p = made.head.logits(made.model(single["ids"])).log_softmax(-1)[0]
        labels = single["labels"][0]
        learned = labels != IGNORED
        expected = -log_p[learned].gather(1, labels[learned][:, None]).sum()
        assert found.each["loss"][number].item() == pytest.approx(expected.item(), rel=1e-4)
        assert found.each["n"][number] == learned.sum()
        right = (log_p.argmax(-1) == labels)[learned].sum()
        assert found.each["correct"][number] == right
    assert found.n == sum(int(row(made.encoder(BYTES), record)["n_tokens"]) for record in RECORDS)
    trained = made._step(batch(made, RECORDS), "train")
    assert trained.loss.item() == pytest.approx(found.loss.item(), rel=1e-4) and trained.n == found.n


def test_a_sample_is_the_answer_to_a_message():
    made = task("transformer")
    assert made.as_prompt("hi", BYTES) == [8, *BYTES.encode("hi"), EOS, 9]


def test_only_a_causal_model_can_answer():
    with pytest.raises(InputError, match=r"task=chat predicts the next token and needs task.causal=true"):
        Chat(
            model=backbone("lstm"), causal=False, pack=False, label_smoothing=0.0, head_cutoffs=None,
            **template("reserved"),
        )  # fmt: skip
