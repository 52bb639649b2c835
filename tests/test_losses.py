from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmcli.losses import IGNORED, class_weights, focal_loss


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


@pytest.fixture
def logits(generator):
    return 3 * torch.randn(50, 4, generator=generator, dtype=torch.float64)


@pytest.fixture
def labels(generator):
    labels = torch.randint(4, (50,), generator=generator)
    labels[::7] = IGNORED
    return labels


WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_loss_with_gamma_0_is_cross_entropy(logits, labels, weights):
    expected = F.cross_entropy(logits, labels, weight=weights, ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(focal_loss(logits, labels, gamma=0.0, weights=weights), expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_loss_with_gamma_0_is_binary_cross_entropy_where_several_classes_hold(logits, generator, weights):
    several = torch.randint(2, logits.shape, generator=generator)
    expected = F.binary_cross_entropy_with_logits(logits, several.double(), weight=weights, reduction="sum")
    torch.testing.assert_close(focal_loss(logits, several, gamma=0.0, weights=weights), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_loss_by_its_formula(logits, labels, generator, gamma):
    real = labels != IGNORED
    p = logits.softmax(1)[real, labels[real]]
    torch.testing.assert_close(focal_loss(logits, labels, gamma=gamma), ((1 - p) ** gamma * -p.log()).sum())
    several = torch.randint(2, logits.shape, generator=generator)
    p = torch.where(several.bool(), logits.sigmoid(), 1 - logits.sigmoid())
    torch.testing.assert_close(focal_loss(logits, several, gamma=gamma), ((1 - p) ** gamma * -p.log()).sum())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_focal_loss_of_what_is_certain_has_a_finite_gradient(gamma, dtype):
    logits = torch.tensor([[300.0, -300.0], [-300.0, 300.0]], dtype=dtype, requires_grad=True)
    for labels in (torch.tensor([0, 0]), torch.tensor([[1, 0], [1, 0]])):
        loss = focal_loss(logits, labels, gamma=gamma)
        assert loss.dtype == torch.float32
        (gradient,) = torch.autograd.grad(loss, logits)
        assert bool(torch.isfinite(loss)) and bool(torch.isfinite(gradient).all())


def test_inverse_weights_are_one_over_the_frequency():
    weights = class_weights([10, 30, 60], how="inverse")
    torch.testing.assert_close(weights, torch.tensor([100 / 30, 100 / 90, 100 / 180]))


def test_effective_weights_are_those_of_the_paper():
    counts, beta = [5, 100, 20_000], 0.99
    effective = torch.tensor([(1 - beta**n) / (1 - beta) for n in counts])
    weights = class_weights(counts, how="effective", beta=beta)
    torch.testing.assert_close(weights / weights[0], effective[0] / effective)
    # between equal weights (beta 0) and inverse frequency (beta to 1)
    torch.testing.assert_close(class_weights(counts, how="effective", beta=0.0), torch.ones(3))
    inverse = class_weights(counts, how="inverse")
    torch.testing.assert_close(class_weights(counts, how="effective", beta=1 - 1e-9), inverse, rtol=1e-3, atol=0)


@pytest.mark.parametrize("how", ["inverse", "effective"])
def test_weights_leave_the_scale_of_the_loss(how):
    counts = [3, 40, 500]
    weights = class_weights(counts, how=how)
    assert float((weights * torch.tensor(counts)).sum()) == pytest.approx(sum(counts))
    assert weights[0] > weights[1] > weights[2]


def test_a_class_without_examples_has_no_weight():
    with pytest.raises(ValueError, match="class 1 has no examples"):
        class_weights([3, 0], how="inverse")
