"""What must hold for every head in the registry."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.heads.protocol import HeadInput
from sercache.heads.registry import build_head, parameter_count
from sercache.heads.sequences import Padded
from support.small_heads import (
    DIMS,
    NAMES,
    RANGES,
    READINGS,
    alone,
    batch,
    gradients,
    in_double,
    small,
    total,
)

LENGTHS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5)), min_size=1, max_size=4)
NAN = float("nan")

every_head = pytest.mark.parametrize("name", NAMES)
every_reading = pytest.mark.parametrize("layer_sum", READINGS)


@every_head
@every_reading
@given(lengths=LENGTHS)
@settings(deadline=None, max_examples=10)
def test_a_clips_output_does_not_depend_on_its_batch_mates(name, layer_sum, lengths):
    head = small(name, layer_sum).train()
    inputs = batch(lengths, layer_sum, padding=1e3)
    with torch.no_grad():
        together = head(inputs)
        longer = head(batch(lengths, layer_sum, padding=NAN, extra=4))
        for row in range(len(lengths)):
            single = head(alone(inputs, row))
            for got in (together, longer):
                torch.testing.assert_close(got.logits[row], single.logits[0], atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(got.attributes[row], single.attributes[0], atol=1e-5, rtol=1e-5)


@every_head
@every_reading
@given(lengths=LENGTHS)
@settings(deadline=None, max_examples=5)
def test_the_gradient_of_a_batch_is_the_sum_of_its_clips_gradients(name, layer_sum, lengths):
    head = small(name, layer_sum).double().train()
    inputs = in_double(batch(lengths, layer_sum, padding=7.0))
    together = gradients(head, inputs)
    longer = gradients(head, in_double(batch(lengths, layer_sum, padding=NAN, extra=4)))
    singles = [gradients(head, alone(inputs, row)) for row in range(len(lengths))]
    for parameter in together:
        wanted = torch.stack([single[parameter] for single in singles]).sum(dim=0)
        torch.testing.assert_close(together[parameter], wanted, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(longer[parameter], wanted, atol=1e-9, rtol=1e-9)


@every_head
@every_reading
@given(
    lengths=st.lists(
        st.sampled_from([(0, 3), (4, 0), (0, 0), (2, 5)]),
        min_size=1,
        max_size=4,
    ),
    padding=st.sampled_from([NAN, float("inf"), -1e30, 5.0]),
)
@settings(deadline=None, max_examples=10)
def test_a_missing_feature_set_is_the_same_whatever_stands_in_its_place(name, layer_sum, lengths, padding):
    head = small(name, layer_sum).double()
    results = []
    for content in (0.0, padding):
        inputs = in_double(batch(lengths, layer_sum, padding=content, extra=2))
        for features in inputs:
            features.frames.requires_grad_()
        output = head(inputs)
        its_gradients = gradients(head, inputs)
        total(output).backward()
        for features in inputs:
            assert features.frames.grad.isfinite().all()
            assert (features.frames.grad[~features.mask] == 0).all()
        results.append([output.logits.detach(), output.attributes.detach(), *its_gradients.values()])
    for reference, got in zip(*results, strict=True):
        assert reference.isfinite().all()
        assert torch.equal(reference, got)


@every_head
@every_reading
def test_every_frame_and_every_feature_set_has_a_say(name, layer_sum):
    head = small(name, layer_sum).double()
    inputs = in_double(batch([(4, 3), (2, 0)], layer_sum))
    for features in inputs:
        features.frames.requires_grad_()
    head.embed(inputs).square().sum().backward()  # the ReLU that follows may be dead for a whole clip
    for features in inputs:
        says = features.frames.grad.flatten(2).abs().amax(dim=2) > 0
        assert torch.equal(says, features.mask)


@every_head
def test_gradients_are_right_in_double_precision_with_padding_and_a_missing_feature_set(name):
    head = small(name).double().eval()
    inputs = in_double(batch([(4, 3), (2, 0)], padding=7.0))
    masks = [features.mask for features in inputs]
    frames = tuple(features.frames.requires_grad_() for features in inputs)

    def outputs(*frames):
        return tuple(head([HeadInput(*pair) for pair in zip(frames, masks, strict=True)]))

    assert torch.autograd.gradcheck(outputs, frames, fast_mode=True)


@every_head
@every_reading
def test_the_layout_for_a_gpu_gives_the_same_outputs_and_gradients(name, layer_sum, monkeypatch):
    head = small(name, layer_sum).double()
    inputs = in_double(batch([(4, 3), (2, 0), (0, 5), (7, 1)], layer_sum, padding=NAN, extra=1))
    wanted, wanted_gradients = head(inputs), gradients(head, inputs)
    monkeypatch.setattr(sys.modules[type(head).__module__], "arrange", Padded, raising=False)
    for got, expected in zip(head(inputs), wanted, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)
    for parameter, got in gradients(head, inputs).items():
        torch.testing.assert_close(got, wanted_gradients[parameter], atol=1e-9, rtol=1e-9)


@every_head
def test_standardising_in_the_head_equals_standardising_before_it(name):
    head = small(name).eval()
    inputs = batch([(4, 3), (2, 5)])
    mean, deviation = torch.arange(5.0), torch.linspace(0.5, 2, 5)
    with torch.no_grad():
        wanted = head(inputs)
        head.set_standardization(0, mean, deviation)
        scaled = HeadInput(inputs[0].frames * deviation + mean, inputs[0].mask)
        got = head([scaled, inputs[1]])
    torch.testing.assert_close(got.logits, wanted.logits, atol=1e-5, rtol=1e-4)


@every_head
@pytest.mark.parametrize("dims", [(5,), (5, 7, 3)])
def test_heads_take_any_number_of_feature_sets(name, dims):
    lengths = [tuple(range(2, 2 + len(dims))), tuple(range(len(dims)))]
    output = small(name, dims=dims)(batch(lengths, dims=dims))
    assert output.logits.shape == (2, 3)
    assert output.attributes.shape == (2, 2)
    assert output.logits.isfinite().all()


@every_head
@every_reading
def test_weights_depend_on_the_seed_alone(name, layer_sum):
    before = torch.random.get_rng_state()
    first, again, other = (small(name, layer_sum, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_head
def test_attributes_stay_on_their_scale_and_logits_may_be_negative(name):
    head = small(name).eval()
    with torch.no_grad():
        head.class_output.bias.copy_(torch.tensor([-50.0, 0.0, 50.0]))
        head.attribute_output.weight.mul_(1e3)
        output = head(batch([(4, 3), (2, 5), (8, 1)]))
    assert output.logits.min() < -10  # no activation after the output layer
    for values, (low, high) in zip(output.attributes.T, RANGES, strict=True):
        assert low <= values.min()
        assert values.max() <= high


@every_reading
def test_pooled_statistics_of_a_missing_feature_set_are_zero(layer_sum):
    inputs = batch([(0, 0), (0, 5), (4, 0)], layer_sum, padding=3.0, extra=1)
    pooled = small("mean-linear", layer_sum).embed(inputs)
    speech, text = pooled.split([2 * dim for dim in DIMS], dim=1)
    for part, is_present in ((speech, [False, False, True]), (text, [False, True, False])):
        assert part.ne(0).all(dim=1).tolist() == part.ne(0).any(dim=1).tolist() == is_present
    for index, pool in enumerate(small("attentive-statistics", layer_sum).pools):
        frames = torch.randn(2, 3, DIMS[index])
        mask = torch.tensor([[True, True, False], [False, False, False]])
        assert pool(frames, mask).ne(0).all(dim=1).tolist() == [True, False]
        assert (pool(frames, mask)[1] == 0).all()


def test_mean_linear_is_logistic_regression_on_pooled_frames():
    head = build_head("mean-linear", DIMS, 3, [], {"deviation": False}, 0).eval()
    inputs = batch([(4, 3), (2, 5)])
    pooled = torch.cat(
        [
            torch.stack([features.frames[row, features.mask[row]].mean(0) for row in range(2)])
            for features in inputs
        ],
        dim=1,
    )
    with torch.no_grad():
        wanted = pooled @ head.class_output.weight.T + head.class_output.bias
        output = head(inputs)
    torch.testing.assert_close(output.logits, wanted)
    assert output.attributes.shape == (2, 0)
    assert parameter_count(head) == 12 * 3 + 3
