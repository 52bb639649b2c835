"""The conditional random field against sums over every tagging, one by one."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch

from llmcli.layers.crf import CRF, Marginals, Potentials, allowed_in_iob2, log_partition, path_scores, viterbi

B, W, C = 4, 4, 3
LENGTHS = (4, 1, 3, 0)
REAL = torch.arange(W) < torch.tensor(LENGTHS)[:, None]
NAMES = ["O", "B-a", "I-a", "B-b", "I-b"]


def drawn(n_tags=C, *, scale=1.0):
    """scores (B, W, C) and potentials in double precision."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(B, W, n_tags), (n_tags,), (n_tags, n_tags), (n_tags,)]
    scores, *rest = (scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return scores, Potentials(*rest)


def taggings(scores, potentials, row):
    """Every tagging of a row with its score, in plain arithmetic."""
    start, transitions, end = potentials
    found = []
    for tags in product(range(scores.size(2)), repeat=LENGTHS[row]):
        score = start[tags[0]] + end[tags[-1]]
        score = score + sum(scores[row, word, tag] for word, tag in enumerate(tags))
        found.append((tags, score + sum(transitions[pair] for pair in pairwise(tags))))
    return found


@pytest.mark.parametrize("scale", [1.0, 60.0])  # the latter beyond what exp in float32 could hold
def test_the_partition_is_the_sum_over_all_taggings_whatever_stands_at_padding(scale):
    scores, potentials = drawn(scale=scale)
    expected = [torch.stack([s for _, s in taggings(scores, potentials, row)]).logsumexp(0) for row in range(3)]
    for stained in (scores, scores.masked_fill(~REAL.unsqueeze(2), 1e4)):
        found = log_partition(stained, REAL, potentials)
        torch.testing.assert_close(found, torch.stack([*expected, scores.new_zeros(())]))
    single = log_partition(scores.float(), REAL, Potentials(*(each.float() for each in potentials)))
    torch.testing.assert_close(single.double(), found, rtol=1e-5, atol=1e-4)


def test_gradients_are_those_of_the_sum():
    scores, potentials = drawn()
    inputs = [scores, *potentials]
    for each in inputs:
        each.requires_grad_()
    weights = torch.tensor([1.0, 2.0, -3.0, 4.0], dtype=torch.float64)  # every sentence by itself

    def loss(scores, *rest):
        return (weights * log_partition(scores, REAL, Potentials(*rest))).sum()

    assert torch.autograd.gradcheck(loss, inputs)
    torch.autograd.gradcheck(lambda *each: path_scores(each[0], tags_of(1), REAL, Potentials(*each[1:])), inputs)
    plain = torch.stack(
        [torch.stack([s for _, s in taggings(scores, potentials, row)]).logsumexp(0) for row in range(3)]
    )
    expected = torch.autograd.grad((weights[:3] * plain).sum(), inputs)
    for found, wanted in zip(torch.autograd.grad(loss(*inputs), inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def tags_of(tag):
    return torch.full((B, W), tag).masked_fill(~REAL, -100)


def test_the_score_of_a_tagging():
    scores, potentials = drawn()
    for row in range(3):
        for tags, score in taggings(scores, potentials, row):
            given = tags_of(0)
            given[row, : len(tags)] = torch.tensor(tags)
            torch.testing.assert_close(path_scores(scores, given, REAL, potentials)[row], score)
    assert path_scores(scores, tags_of(0), REAL, potentials)[3] == 0


def test_a_new_field_is_a_softmax_for_each_word():
    scores, _ = drawn()
    new = CRF(C).double()
    nll = log_partition(scores, REAL, new.potentials) - path_scores(scores, tags_of(2), REAL, new.potentials)
    expected = (-scores.log_softmax(2)[..., 2]).masked_fill(~REAL, 0).sum(1)
    torch.testing.assert_close(nll, expected)


def legal(tags):
    """IOB2: I-x only after B-x or I-x."""
    names = ["O", *(NAMES[tag] for tag in tags)]
    return all(not name.startswith("I-") or before in (f"B-{name[2:]}", name) for before, name in pairwise(names))


@pytest.mark.parametrize("constrained", [False, True])
def test_viterbi_finds_the_best_tagging_and_of_iob2_the_best_legal_one(constrained):
    scores, potentials = drawn(len(NAMES), scale=2.0)
    if constrained:
        potentials = potentials.allowing(*allowed_in_iob2(NAMES))
    found = viterbi(scores, REAL, potentials)
    for row in range(3):
        every = [pair for pair in taggings(scores, potentials, row) if not constrained or legal(pair[0])]
        best = max(every, key=lambda pair: float(pair[1]))[0]
        assert found[row, : LENGTHS[row]].tolist() == list(best)
        assert (found[row, LENGTHS[row] :] == -1).all()
    assert (found[3] == -1).all()
    if not constrained:
        assert not all(legal(found[row, : LENGTHS[row]].tolist()) for row in range(3))  # the constraint does something


@pytest.mark.parametrize("constrained", [False, True])
def test_marginals_of_tags_and_spans(constrained):
    scores, potentials = drawn(len(NAMES))
    if constrained:
        potentials = potentials.allowing(*allowed_in_iob2(NAMES))
    marginals = Marginals(scores, REAL, potentials)
    by_tag = marginals.tags()
    spans = {  # words, tags, what would make the span longer
        "one word": (0, [1], [2]), "two words": (1, [3, 4], [4]), "to the end": (2, [1], [2]), "outside": (1, [0], []),
    }  # fmt: skip
    for row in range(3):
        every = taggings(scores, potentials, row)
        total = torch.stack([score for _, score in every]).logsumexp(0)
        for word, tag in product(range(LENGTHS[row]), range(len(NAMES))):
            expected = sum(float((score - total).exp()) for tags, score in every if tags[word] == tag)
            assert by_tag[row, word, tag].item() == pytest.approx(expected, abs=1e-12)
        for first, wanted, longer in spans.values():
            last = first + len(wanted)
            if last > LENGTHS[row]:
                continue
            expected = sum(
                float((score - total).exp())
                for tags, score in every
                if list(tags[first:last]) == wanted and (last == LENGTHS[row] or tags[last] not in longer)
            )
            assert marginals.span(row, first, wanted, not_after=longer) == pytest.approx(expected, abs=1e-12)
    if constrained:
        assert (by_tag[0, 0, [2, 4]] == 0).all()


def test_what_iob2_allows():
    begins, follows = allowed_in_iob2(NAMES)
    assert begins.tolist() == [True, True, False, True, False]
    allowed = {(one, other) for i, one in enumerate(NAMES) for j, other in enumerate(NAMES) if follows[i, j]}
    assert {one for one in allowed if one[1] == "I-a"} == {("B-a", "I-a"), ("I-a", "I-a")}
    assert len(allowed) == 3 * 5 + 2 * 2
    begins, follows = allowed_in_iob2(["NOUN", "VERB", "IN"])  # parts of speech follow each other freely
    assert begins.all() and follows.all()


@pytest.mark.parametrize("gap", [60.0, 95.0, 300.0])
def test_what_leads_to_a_tag_may_be_far_below_what_does_not(gap):
    """The first word is surely tag 0, after which tag 1 may not stand, and the second surely tag 1: one term of the sum
    is lost to float32 beside the largest, which does not go on."""
    scores = torch.tensor([[[gap, 0.0], [0.0, 2 * gap], [0.0, 0.0]]])
    real = torch.ones(1, 3, dtype=torch.bool)
    potentials = Potentials(torch.zeros(2), torch.tensor([[0.0, -torch.inf], [0.0, 0.5]]), torch.zeros(2))
    parts = [each.clone().requires_grad_() for each in (scores, *potentials)]
    exact = [each.double().clone().requires_grad_() for each in (scores, *potentials)]
    log_partition(parts[0], real, Potentials(*parts[1:])).sum().backward()
    log_partition(exact[0], real, Potentials(*exact[1:])).sum().backward()
    paths = torch.tensor([sum_of(tags, scores, potentials) for tags in product(range(2), repeat=3)])
    total = log_partition(scores, real, potentials)[0]
    torch.testing.assert_close(total, paths.logsumexp(0))
    shares = Marginals(scores, real, potentials).tags()
    assert shares.max() <= 1 + 1e-5
    torch.testing.assert_close(shares.sum(2), torch.ones(1, 3), rtol=1e-5, atol=1e-5)
    for single, double in zip(parts, exact, strict=True):
        torch.testing.assert_close(single.grad, double.grad.float(), rtol=1e-4, atol=1e-5)


def sum_of(tags, scores, potentials):
    start, transitions, end = potentials
    own = start[tags[0]] + end[tags[-1]] + sum(scores[0, word, tag] for word, tag in enumerate(tags))
    return float(own + sum(transitions[pair] for pair in pairwise(tags)))
