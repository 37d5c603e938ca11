import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.errors import RecipeError
from sercache.heads.protocol import HeadOutput
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


def test_class_weights_scale_each_share_of_a_row_as_in_torch_and_are_not_divided_out():
    logits, soft, predicted, truth = (tensor.detach() for tensor in case())
    weights = torch.tensor([0.5, 1.0, 2.0, 3.0])
    reference = torch.nn.CrossEntropyLoss(weight=weights.double())(logits, soft)
    objective = Objective(attribute_weight=0.0, class_weights=weights)
    torch.testing.assert_close(
        objective(HeadOutput(logits, predicted), Targets(soft, truth)), 1.5 * reference
    )


@pytest.mark.parametrize("class_loss", ["cross_entropy", "focal", "kl"])
@pytest.mark.parametrize("attribute_loss", ["mse", "ccc"])
def test_gradients_are_right_in_double_precision_with_missing_targets(class_loss, attribute_loss):
    logits, soft, predicted, truth = case()
    soft[1], truth[2, 0], truth[4] = torch.nan, torch.nan, torch.nan
    objective = Objective(class_loss, attribute_loss, class_weights=torch.tensor([0.5, 1.0, 2.0, 3.0]))
    targets = Targets(soft, truth)
    assert torch.autograd.gradcheck(
        lambda *output: objective(HeadOutput(*output), targets), (logits, predicted)
    )


def test_half_precision_outputs_are_judged_in_single_precision():
    logits, soft, predicted, truth = (tensor.detach().float() for tensor in case())
    half = HeadOutput(logits.bfloat16(), predicted.bfloat16())
    loss = Objective()(half, Targets(soft, truth))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, Objective()(HeadOutput(half.logits.float(), half.attributes.float()), Targets(soft, truth))
    )


@pytest.mark.parametrize(
    ("attribute_weight", "attributes", "message"),
    [(0.0, 2, "class_weight is 0, and attribute_weight is 0"), (0.4, 0, "the corpus has no attributes")],
)
def test_an_objective_with_nothing_to_learn_is_an_error(attribute_weight, attributes, message):
    objective = Objective(class_weight=0.0, attribute_weight=attribute_weight)
    output = HeadOutput(torch.zeros(2, 3), torch.zeros(2, attributes))
    with pytest.raises(RecipeError, match=message):
        objective(output, Targets(torch.ones(2, 3) / 3, torch.zeros(2, attributes)))
