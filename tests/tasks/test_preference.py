"""task=preference: DPO by its formula, a reference that stays, and rows that answer the same turns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chat import BYTES, EOS, LIMIT, backbone, encoder, template
from test_chat import task as chat_task

from llmcli.data.example_batches import collate
from llmcli.data.records import Preference as Pair
from llmcli.data.records import Turn
from llmcli.errors import InputError
from llmcli.loading import prepare
from llmcli.losses import IGNORED
from llmcli.quantise import storage_bytes
from llmcli.tasks.preference import Preference, dpo_losses

PAIRS = [
    Pair((Turn("user", "hi"),), "hello", "go away"),
    Pair((Turn("system", "be kind"), Turn("user", "who"), Turn("assistant", "me"), Turn("user", "really")), "yes", "n"),
    Pair((Turn("user", "name a bird"),), "a robin", "a stone"),
]


def make(**changes):
    torch.manual_seed(1)
    values = {"beta": 0.3, "label_smoothing": 0.0, "head_cutoffs": None, **template("reserved"), **changes}
    made = Preference(model=backbone("transformer"), causal=True, **values)
    with torch.no_grad():
        made.head.weight.normal_(std=0.3)
    made.setup("fit")
    return made.eval()


def ids(record):
    return [np.array(each, np.uint16) for each in BYTES.encode_batch(record.texts())]


def batch(made, records=PAIRS):
    encode = made.encoder(BYTES)
    return collate([row for record in records for row in encode.rows(record, ids(record), LIMIT)], encode.pad)


def move(made, amount=0.3):
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in [*made.model.parameters(), *made.head.parameters()]:
            weight.add_(amount * torch.randn_like(weight))


def log_p(model, head, row):
    """ln p of a row's answer, one token after the other."""
    log_probs = head.logits(model(torch.from_numpy(row["ids"])[None])).log_softmax(-1)[0].double()
    return sum(log_probs[place, label].item() for place, label in enumerate(row["labels"]) if label != IGNORED)


def test_the_loss_is_the_formula():
    made = make()
    move(made)
    old, old_head = made.reference.copies
    encode = made.encoder(BYTES)
    expected, ahead = [], 0
    for record in PAIRS:
        chosen, rejected = encode.rows(record, ids(record), LIMIT)
        ratios = [log_p(made.model, made.head, row) - log_p(old, old_head, row) for row in (chosen, rejected)]
        margin = 0.3 * (ratios[0] - ratios[1])
        expected.append((margin, -math.log(1 / (1 + math.exp(-margin)))))
        means = [log_p(made.model, made.head, row) / row["n_targets"] for row in _counted(chosen, rejected)]
        ahead += means[0] > means[1]
    found = made._step(batch(made), "val")
    assert found.each["margin"].tolist() == pytest.approx([margin for margin, _ in expected], abs=1e-4)
    assert found.each["loss"].tolist() == pytest.approx([loss for _, loss in expected], abs=1e-4)
    assert found.each["correct"].tolist() == [float(margin > 0) for margin, _ in expected]
    assert found.sums["more_probable"] == ahead
    assert found.n == 3 and found.each["n"].tolist() == [1, 1, 1]
    assert made._step(batch(made), "train").loss.item() == pytest.approx(sum(loss for _, loss in expected), abs=1e-4)


def _counted(*rows):
    return [{**row, "n_targets": int((row["labels"] != IGNORED).sum())} for row in rows]


def test_at_first_nothing_is_preferred_and_the_loss_is_ln_2():
    made = make()
    with torch.no_grad():  # as in validation: both take the same way through the same kernels
        found = made._step(batch(made), "val")
    assert found.each["loss"].tolist() == pytest.approx([math.log(2)] * 3)
    assert found.each["margin"].tolist() == [0, 0, 0] and found.each["correct"].tolist() == [0.5] * 3


@settings(deadline=None)
@given(st.floats(-20, 20), st.floats(0, 0.49))
def test_a_share_of_the_pairs_may_be_the_wrong_way_round(margin, share):
    def nats(m):
        return math.log1p(math.exp(-m)) if m > -30 else -m

    expected = (1 - share) * nats(margin) + share * nats(-margin)
    assert dpo_losses(torch.tensor([margin], dtype=torch.float64), share).item() == pytest.approx(expected, abs=1e-9)


def test_label_smoothing_is_for_training_alone():
    plain, smooth = make(), make(label_smoothing=0.2)
    for made in (plain, smooth):
        move(made)
    assert plain._step(batch(plain), "val").loss == smooth._step(batch(smooth), "val").loss
    assert plain._step(batch(plain), "train").loss != smooth._step(batch(smooth), "train").loss


def test_only_the_policy_learns_and_the_reference_drops_nothing_out():
    made = make().train()
    made._step(batch(made), "train").loss.backward()
    assert all(weight.grad is None and not weight.requires_grad for weight in made.reference.parameters())
    assert all(weight.grad is not None for weight in made.model.blocks.parameters())
    assert not any(module.training for module in made.reference.copies.modules())


def test_the_reference_comes_back_from_a_checkpoint():
    made = make()
    move(made)
    again = Preference(
        model=backbone("transformer"), causal=True, beta=0.3, label_smoothing=0.0, head_cutoffs=None,
        **template("reserved"),
    ).eval()  # fmt: skip
    again.load_state_dict(made.state_dict())
    assert (
        again._step(batch(again), "val").each["margin"].tolist()
        == made._step(batch(made), "val").each["margin"].tolist()
    )


@pytest.mark.parametrize("precision", ["auto", "32", "bf16"])
def test_a_run_that_generates_lets_go_of_its_reference(precision):
    made, scored = make(), make()
    size = storage_bytes(made)
    expected = scored._step(batch(scored), "val").loss
    prepare(scored, "auto", "cpu")
    assert scored._step(batch(scored), "val").loss == expected and storage_bytes(scored) == size
    prepare(made, precision, "cpu", generating=True)
    assert made.reference is None and not any("reference" in name for name, _ in made.named_modules())
    assert storage_bytes(made) <= size / 2 + 2**12  # tables of a fused model
    state = made.init_state(1, 4)
    assert made.step(torch.tensor([[1, 2]]), state).logits.shape == (1, 2, BYTES.vocab_size)


def test_both_answers_follow_the_same_turns():
    encode = make().encoder(BYTES)
    chosen, rejected = encode.rows(PAIRS[1], ids(PAIRS[1]), LIMIT)
    for row, answer in ((chosen, "yes"), (rejected, "n")):
        learned = row["labels"] != IGNORED
        assert row["labels"][learned].tolist() == [*BYTES.encode(answer), EOS]
        assert row["ids"][: (~learned).sum() + 1].tolist() == chosen["ids"][: (~learned).sum() + 1].tolist()
    assert (chosen["n_tokens"], rejected["n_tokens"]) == (1, 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=9), min_size=3, max_size=7), st.booleans(), st.integers(12, 40))
def test_what_is_too_long_loses_its_oldest_turns_first(texts, system, limit):
    answers, texts = texts[:2], texts[2:]
    texts = texts[: len(texts) - (len(texts) % 2 == 0)]  # the user has the last word
    turns = [Turn("system", "be kind")] if system else []
    turns += [Turn(("user", "assistant")[place % 2], text) for place, text in enumerate(texts)]
    record = Pair(tuple(turns), *answers)
    encode = make().encoder(BYTES)
    rows = encode.rows(record, ids(record), limit)
    sizes = encode.sizes(np.array([len(each) for each in ids(record)]), np.array([0]), limit)
    assert all(len(row["ids"]) <= limit and (row["labels"] != IGNORED).any() for row in rows)
    assert sizes.rows.tolist() == [2] and max(len(row["ids"]) for row in rows) <= sizes.longest[0] <= limit
    before = [row["ids"][: int((row["labels"] != IGNORED).argmax()) + 1].tolist() for row in rows]
    assert before[0] == before[1]
    if (encode.sizes(np.array([len(each) for each in ids(record)]), np.array([0]), None).longest <= limit).all():
        assert len(before[0]) == sum(len(BYTES.encode(turn.text)) + 2 for turn in turns) + 1


def test_a_chat_run_is_scored_by_what_it_finds_more_probable():
    made = chat_task("transformer")
    assert made.scorer("Text") is None
    scorer = made.scorer("Preference")
    found = scorer._step(batch(scorer), "val")
    rows = [row for record in PAIRS for row in encoder_rows(scorer, record)]
    sums = [log_p(made.model, made.head, row) for row in rows]
    counts = [int((row["labels"] != IGNORED).sum()) for row in rows]
    ahead = [sums[at] / counts[at] > sums[at + 1] / counts[at + 1] for at in (0, 2, 4)]
    assert found.each["more_probable"].tolist() == [float(each) for each in ahead]
    assert found.each["loss"].tolist() == pytest.approx([-each for each in sums[::2]], abs=1e-4)


def encoder_rows(made, record):
    return made.encoder(BYTES).rows(record, ids(record), LIMIT)


def test_outcomes_say_which_answer_was_preferred():
    made = make()
    move(made)
    found = made._step(batch(made), "val")
    outcomes = made.outcomes(PAIRS, found)
    assert [each["right"] for each in outcomes] == [margin > 0 for margin in found.each["margin"].tolist()]
    assert outcomes[0]["texts"] == ["hi", "hello", "go away"] and outcomes[0]["true"] == "chosen"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"beta": 0.0}, r"task.beta \(0.0\) must be above 0"), ({"label_smoothing": 0.5}, "at least 0 and below 0.5")],
)
def test_what_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_the_encoder_of_conversations_is_another():
    assert encoder().pad.keys() - make().encoder(BYTES).pad.keys() == {"segment_ids"}


def test_a_run_that_goes_on_keeps_its_reference():
    made = make()
    move(made)
    margins = made._step(batch(made), "val").each["margin"].tolist()
    made.setup("fit")  # a second fit of the same task
    assert made._step(batch(made), "val").each["margin"].tolist() == margins and any(margins)
