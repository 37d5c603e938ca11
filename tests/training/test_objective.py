import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.errors import RecipeError
from sercache.heads.protocol import HeadOutput
from sercache.training.losses import ATTRIBUTE_LOSSES, CLASS_LOSSES
from sercache.training.objective import Objective, Targets


def case(seed=0, rows=6, classes=4, attributes=2):
    generator = torch.Generator().manual_seed(seed)
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


@given(seed=st.integers(0, 100), missing=st.integers(1, 5), name=st.sampled_from(["mse", "ccc"]))
@settings(deadline=None, max_examples=25)
def test_rows_without_targets_change_neither_loss_nor_gradient(seed, missing, name):
    logits, soft, predicted, truth = (tensor.detach().float() for tensor in case(seed))
    objective = Objective(attribute_loss=name, class_weights=torch.tensor([0.5, 1.0, 2.0, 3.0]))

    def loss_and_gradients(extra):
        rows = torch.cat([logits, torch.full((extra, 4), 3.0)]).requires_grad_()
        values = torch.cat([predicted, torch.full((extra, 2), 3.0)]).requires_grad_()
        targets = Targets(
            torch.cat([soft, torch.full((extra, 4), torch.nan)]),
            torch.cat([truth, torch.full((extra, 2), torch.nan)]),
        )
        loss = objective(HeadOutput(rows, values), targets)
        loss.backward()
        return loss.detach(), rows.grad, values.grad

    plain, padded = loss_and_gradients(0), loss_and_gradients(missing)
    torch.testing.assert_close(padded[0], plain[0])
    for got, wanted in zip(padded[1:], plain[1:], strict=True):
        torch.testing.assert_close(got[:6], wanted)
        assert (got[6:] == 0).all()


def test_the_papers_weights_are_the_defaults_and_soft_targets_need_no_mixup():
    logits, soft, predicted, truth = (tensor.detach() for tensor in case())
    log_p = log_softmax(logits.numpy())
    wanted = 1.5 * -(soft.numpy() * log_p).sum(1).mean() + 0.4 * ((predicted - truth) ** 2).mean().item()
    got = Objective()(HeadOutput(logits, predicted), Targets(soft, truth)).item()
    assert got == pytest.approx(wanted, rel=1e-5)


def test_a_batch_without_any_target_has_zero_loss():
    logits = torch.randn(2, 3, requires_grad=True)
    targets = Targets(torch.full((2, 3), torch.nan), torch.zeros(2, 0))
    loss = Objective()(HeadOutput(logits, torch.zeros(2, 0)), targets)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_an_unknown_loss_is_named():
    with pytest.raises(RecipeError, match=r"unknown class loss 'crossentropy'.*'cross_entropy'"):
        CLASS_LOSSES["crossentropy"]
