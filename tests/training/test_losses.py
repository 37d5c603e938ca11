"""Every loss against numpy, and its gradient against finite differences in double precision."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sercache.errors import RecipeError
from sercache.training.losses import ATTRIBUTE_LOSSES, CLASS_LOSSES, class_weights


def case(rows=6, classes=4, attributes=2):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64, requires_grad=True)
    soft = torch.softmax(2 * torch.randn(rows, classes, generator=generator, dtype=torch.float64), 1)
    predicted = torch.randn(rows, attributes, generator=generator, dtype=torch.float64, requires_grad=True)
    truth = torch.randn(rows, attributes, generator=generator, dtype=torch.float64)
    return logits, soft, predicted, truth


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


NUMPY_CLASS_LOSSES = {
    "cross_entropy": lambda log_p, t, w: -(w * t * log_p).sum(1),
    "kl": lambda log_p, t, w: (w * t * (np.log(t) - log_p)).sum(1),
    "label_smoothing": lambda log_p, t, w: -(w * (0.9 * t + 0.1 / t.shape[1]) * log_p).sum(1),
    "focal": lambda log_p, t, w: -(w * t * (1 - np.exp(log_p)) ** 2 * log_p).sum(1),
}


@pytest.mark.parametrize("name", sorted(CLASS_LOSSES))
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 3.0]])
def test_class_losses_equal_numpy_and_their_gradients_are_right(name, weights):
    logits, soft, _, _ = case()
    class_weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    loss = CLASS_LOSSES[name](logits, soft, class_weights)
    wanted = NUMPY_CLASS_LOSSES[name](
        log_softmax(logits.detach().numpy()), soft.numpy(), np.asarray(weights or [1.0] * 4)
    )
    np.testing.assert_allclose(loss.detach().numpy(), wanted, rtol=1e-10)
    assert torch.autograd.gradcheck(lambda values: CLASS_LOSSES[name](values, soft, class_weights), logits)


def test_focal_has_a_finite_gradient_where_the_prediction_is_certain():
    logits = torch.tensor([[1e4, 0.0, 0.0]], requires_grad=True)
    for gamma in (0.0, 0.3, 1.0, 2.0):
        CLASS_LOSSES["focal"](logits, torch.tensor([[0.9, 0.1, 0.0]]), None, gamma=gamma).sum().backward()
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [("focal", {"gamma": -1.0}), ("focal", {"gamma": float("nan")}), ("label_smoothing", {"epsilon": 1.5})],
)
def test_an_option_out_of_range_is_named(name, options):
    with pytest.raises(RecipeError, match=f"class_loss_options: {next(iter(options))} is"):
        CLASS_LOSSES[name](torch.zeros(1, 3), torch.ones(1, 3) / 3, None, **options)


def test_kl_is_zero_where_the_prediction_equals_votes_with_zeros():
    soft = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    loss = CLASS_LOSSES["kl"](torch.log(soft + 1e-30), soft, None)
    assert abs(loss.item()) < 1e-9


@pytest.mark.parametrize("name", sorted(ATTRIBUTE_LOSSES))
def test_attribute_losses_equal_numpy_over_valid_values(name):
    _, _, predicted, truth = case(rows=8)
    valid = torch.ones_like(truth, dtype=torch.bool)
    valid[:3, 0] = False
    columns = [
        (predicted.detach().numpy()[keep, column], truth.numpy()[keep, column])
        for column, keep in enumerate(valid.numpy().T)
    ]
    if name == "mse":
        squares = np.concatenate([(p - t) ** 2 for p, t in columns])
        wanted = squares.mean()
    else:
        wanted = np.mean(
            [1 - 2 * np.cov(p, t, bias=True)[0, 1] / (p.var() + t.var() + (p.mean() - t.mean()) ** 2)
             for p, t in columns]
        )  # fmt: skip
    assert ATTRIBUTE_LOSSES[name](predicted, truth, valid).item() == pytest.approx(wanted, rel=1e-10)
    assert torch.autograd.gradcheck(lambda values: ATTRIBUTE_LOSSES[name](values, truth, valid), predicted)


@pytest.mark.parametrize(("name", "options"), [("focal", {"gamma": 0}), ("label_smoothing", {"epsilon": 0})])
def test_a_loss_without_its_peculiarity_is_cross_entropy(name, options):
    logits, soft, _, _ = case()
    wanted = CLASS_LOSSES["cross_entropy"](logits, soft, None)
    torch.testing.assert_close(CLASS_LOSSES[name](logits, soft, None, **options), wanted)


def test_focal_forgives_a_confident_right_answer_more_than_cross_entropy_does():
    logits = torch.tensor([[4.0, 0.0], [0.0, 0.0]])
    soft = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    ratio = CLASS_LOSSES["focal"](logits, soft, None) / CLASS_LOSSES["cross_entropy"](logits, soft, None)
    torch.testing.assert_close(ratio, (1 - torch.softmax(logits, 1)[:, 0]) ** 2)


def test_ccc_is_finite_for_constant_values():
    predicted = torch.full((3, 1), 2.0, requires_grad=True)
    loss = ATTRIBUTE_LOSSES["ccc"](predicted, torch.full((3, 1), 2.0), torch.ones(3, 1, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 1.0
    assert predicted.grad.isfinite().all()


def test_ccc_leaves_out_an_attribute_with_one_valid_row():
    truth = torch.tensor([[1.0, 5.0], [2.0, 1.0], [3.0, 3.0]])
    valid = torch.tensor([[True, True], [True, False], [True, False]])
    assert ATTRIBUTE_LOSSES["ccc"](truth.clone(), truth, valid).item() == pytest.approx(0, abs=1e-6)


def test_an_unknown_loss_is_named():
    with pytest.raises(RecipeError, match=r"unknown class loss 'crossentropy'.*'cross_entropy'"):
        CLASS_LOSSES["crossentropy"]


def test_class_weights_follow_the_papers_formula_over_rows_that_have_a_target():
    targets = np.asarray([[1.0, 0, 0], [1, 0, 0], [0.5, 0.5, 0], [np.nan] * 3])
    weights = class_weights(targets, 0.5)
    np.testing.assert_allclose(weights, [(3 / (3 * 2.5)) ** 0.5, (3 / (3 * 0.5)) ** 0.5, 1.0])
    np.testing.assert_array_equal(class_weights(targets, 0.0), [1, 1, 1])


@given(
    votes=st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=3), min_size=1, max_size=20),
    exponent=st.floats(0, 1),
)
def test_exponent_one_gives_every_class_the_same_mass_and_less_is_a_power_of_it(votes, exponent):
    targets = np.asarray(votes, float)
    targets /= targets.sum(axis=1, keepdims=True)
    full = class_weights(targets, 1.0)
    np.testing.assert_allclose((targets * full).sum(axis=0), len(targets) / 3)
    np.testing.assert_allclose(class_weights(targets, exponent), full**exponent)


def test_no_rows_with_targets_weigh_all_classes_alike():
    np.testing.assert_array_equal(class_weights(np.full((2, 3), np.nan), 0.5), [1, 1, 1])
