"""predictions.jsonl is the split in its order, whole or not there; the page shows the text of others as text."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_page import EVIL, check

from llmcli.report.predictions import HARDEST, RIGHT, Predictions
from llmcli.report.predictions_page import MOST_CLASSES, Evaluated, report


def outcome(number, *, loss=None, right=None, text=None):
    right = number % 3 != 0 if right is None else right
    return {
        "text": text if text is not None else f"text {number}",
        "true": "yes",
        "predicted": "yes" if right else "no",
        "right": right,
        "loss": (number * 7919 % 101) / 10 if loss is None else loss,
    }


def collected(folder, outcomes, order):
    found = Predictions(folder, classes=["yes", "no"])
    for start in range(0, len(order), 7):
        numbers = order[start : start + 7]
        found.add(numbers, [outcomes[number] for number in numbers])
    found.write(folder / "predictions.jsonl")
    found.close()
    return found


def lines(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_bytes().splitlines()]


def test_batches_in_any_order_are_the_split_in_its_own(tmp_path):
    outcomes = [outcome(number) for number in range(100)]
    first = collected(tmp_path, outcomes, list(range(100)))
    assert lines(tmp_path) == outcomes
    order = random.Random(1).sample(range(100), 100)
    shuffled = collected(tmp_path, outcomes, order)
    assert lines(tmp_path) == outcomes
    assert (shuffled.hardest(), shuffled.right()) == (first.hardest(), first.right())
    assert shuffled.confusion == {("yes", "no"): 34, ("yes", "yes"): 66}
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_the_hardest_are_those_of_the_highest_loss_and_the_right_ones_are_others(tmp_path):
    outcomes = [outcome(number) for number in range(100)]
    found = collected(tmp_path, outcomes, list(range(100)))
    expected = sorted(enumerate(outcomes), key=lambda pair: (-pair[1]["loss"], pair[0]))[:HARDEST]
    assert found.hardest() == expected
    right = found.right()
    assert len(right) == RIGHT and all(each["right"] for _, each in right)
    assert not {number for number, _ in right} & {number for number, _ in expected}
    assert [number for number, _ in right] != sorted(number for number, _ in right)  # not the first of the split


def test_lines_are_strict_json_whatever_a_task_says(tmp_path):
    odd = outcome(0, loss=float("inf"), text="half \ud83d, null \0, line\u2028\nends")
    odd |= {"probabilities": {"a": 0.12345678}, "score": float("nan"), "pair": (1, 2)}
    collected(tmp_path, [odd], [0])
    [found] = lines(tmp_path)
    assert found["text"] == odd["text"] and found["loss"] is found["score"] is None
    assert found["probabilities"] == {"a": 0.123457} and found["pair"] == [1, 2]


def test_what_was_there_stays_until_all_is_written(tmp_path):
    collected(tmp_path, [outcome(0)], [0])
    before = (tmp_path / "predictions.jsonl").read_bytes()
    found = Predictions(tmp_path, classes=())
    found.add([0], [outcome(1)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmcli.files.os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "disk full")))
        with pytest.raises(OSError, match="disk full"):
            found.write(tmp_path / "predictions.jsonl")
    found.close()
    assert (tmp_path / "predictions.jsonl").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


# -- the page --------------------------------------------------------------------------------------------------------


def evaluated(**changes):
    shown = {
        "subtitle": "runs/x", "headers": ["figure", "value"], "figures": [["accuracy", 0.5]], "note": "", "classes": {},
        "confusion": Counter(), "bins": [], "hardest": [(2, outcome(2))], "right": [],
    }  # fmt: skip
    return Evaluated(**{**shown, **changes})


def test_every_text_is_shown_and_none_is_obeyed():
    said = {"text": EVIL, "true": EVIL, "predicted": EVIL, "right": False, "loss": 1.0, EVIL: {EVIL: EVIL}}
    spans = [{"start": 3, "end": 9, "label": EVIL, "kind": "true"}]
    page = report(
        evaluated(
            subtitle=EVIL,
            figures=[[EVIL, 0.5]],
            classes={EVIL: {EVIL: 0.5}},
            confusion=Counter({(EVIL, EVIL): 3}),
            bins=[(3, 0.9, 0.4)],
            hardest=[(0, said), (1, {**said, "spans": spans})],
            right=[(2, {**said, "texts": [EVIL, EVIL]})],
        )
    )
    found = check(page)
    assert found.text.count(EVIL) >= 12 and "<script>" not in page


@given(st.text(max_size=40), st.lists(st.tuples(st.integers(0, 39), st.integers(1, 9), st.sampled_from("tpb"))))
def test_marks_change_no_text(text, drawn):
    kinds = {"t": "true", "p": "predicted", "b": "both"}
    spans = [
        {"start": start, "end": min(start + length, len(text)), "label": "", "kind": kinds[kind]}
        for start, length, kind in drawn
        if start < len(text)
    ]
    plain = {"text": text, "true": "", "predicted": "", "right": True, "loss": 0.0}
    with_marks = check(report(evaluated(hardest=[(0, {**plain, "spans": spans})])))
    section = with_marks.text.split("loss 0.000", 1)[1].removesuffix("\n\n\n")
    without = check(report(evaluated(hardest=[(0, plain)]))).text.split("loss 0.000", 1)[1].removesuffix("\n\n\n")
    assert section == without


def test_spans_are_marked_by_what_they_are():
    text = "Ada met Bob in Paris"
    spans = [
        {"start": 0, "end": 3, "label": "PER", "kind": "both"},
        {"start": 8, "end": 11, "label": "PER", "kind": "true"},
        {"start": 8, "end": 20, "label": "ORG", "kind": "predicted"},
    ]
    said = {"text": text, "spans": spans, "true": [], "predicted": [], "right": False, "loss": 2.0}
    page = report(evaluated(hardest=[(0, said)]))
    assert '<mark class="both">Ada<sub>PER</sub></mark> met ' in page
    assert (
        '<mark class="predicted true">Bob<sub>PER</sub></mark><mark class="predicted"> in Paris<sub>ORG</sub>' in page
    )
    assert "true, not predicted" in check(page).text  # the legend
    assert "true, not predicted" not in check(report(evaluated())).text


def test_a_long_text_is_shown_around_its_first_span():
    text = "x" * 5000 + " here " + "y" * 5000
    spans = [{"start": 5001, "end": 5005, "label": "", "kind": "both"}]
    said = {"text": text, "spans": spans, "true": "", "predicted": "", "right": True, "loss": 0.0}
    page = report(evaluated(hardest=[(0, said)]))
    assert '<mark class="both">here</mark>' in page and "…xx" in page and "yy…" in page and len(page) < 12_000


def test_many_classes_are_shown_by_their_confusions():
    names = [f"class {i}" for i in range(MOST_CLASSES + 1)]
    confusion = Counter({(name, name): 10 for name in names})
    confusion["class 3", "class 4"] = 30
    figures = {name: {"f1": 0.5} for name in names}
    many = check(report(evaluated(classes=figures, confusion=confusion))).text
    assert "Most confused" in many and "75.0%" in many and "Confusion matrix" not in many
    few = dict(list(figures.items())[:5])
    assert "Confusion matrix" in check(report(evaluated(classes=few, confusion=confusion))).text


def test_the_matrix_says_counts_and_shares_of_the_true_class():
    page = report(
        evaluated(classes={"a": {"f1": 1.0}, "b": {"f1": 1.0}}, confusion=Counter({("a", "a"): 3, ("a", "b"): 1}))
    )
    assert '<tr><th>a</th><td class="heat8">3<small>75.0%</small></td>' in page
    assert "<tr><th>b</th><td></td><td></td></tr>" in page  # no example has this class
