"""Learned sums of layers, against loops over clips, frames and layers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.heads.protocol import HeadInput
from sercache.heads.registry import build_head
from support.small_heads import DIMS, LAYERS, RANGES, SUMMING, batch, in_double, small

KINDS = ("weighted", "gated")
STATISTICS = (LAYERS[0], DIMS[0])  # (L, D)


def plain_softmax(scores):
    powers = [math.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]


def plain_weights(head, frames):
    """The weights of one clip's layers; its standardised ``frames`` are ``(T, L, D)``."""
    layer_sum = head.layer_sums["0"]
    if hasattr(layer_sum, "score"):
        return plain_softmax(layer_sum.score.tolist())
    scores = layer_sum.bias.tolist()
    for layer, weight in enumerate(layer_sum.weight.tolist()):
        for feature, factor in enumerate(weight):
            values = [float(frame[layer, feature]) for frame in frames]
            scores[layer] += factor * sum(values) / max(1, len(values))
    return plain_softmax(scores)


def plain_sum(head, features, mean, deviation):
    """The summed layers ``(B, T, D)`` of a batch, frame by frame."""
    summed = torch.zeros(*features.mask.shape, DIMS[0], dtype=features.frames.dtype)
    for row, mask in enumerate(features.mask):
        standardised = [(frame - mean) / deviation for frame in features.frames[row, mask]]  # of (L, D)
        weights = plain_weights(head, standardised)
        for time, frame in enumerate(standardised):
            summed[row, time] = sum(weight * layer for weight, layer in zip(weights, frame, strict=True))
    return summed


def random_statistics(*shape):
    generator = torch.Generator().manual_seed(4)
    mean = torch.randn(shape, generator=generator, dtype=torch.float64)
    return mean, 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@given(lengths=st.lists(st.tuples(st.integers(0, 6), st.just(2)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=15)
def test_layers_enter_as_the_plain_loops_say(kind, lengths):
    head = small("mean-linear", kind).double()
    mean, deviation = random_statistics(*STATISTICS)
    head.set_standardization(0, mean, deviation)
    layered, _ = in_double(batch(lengths, kind, padding=float("nan"), extra=2))
    wanted = plain_sum(head, layered, mean, deviation)
    torch.testing.assert_close(head.read(0, layered), wanted, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", SUMMING)
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_of_layers_equals_the_head_of_their_plain_sum(name, kind):
    head, single = small(name, kind).double().eval(), small(name).double().eval()
    mean, deviation = random_statistics(*STATISTICS)
    head.set_standardization(0, mean, deviation)
    layered, text = in_double(batch([(4, 3), (2, 0), (0, 5)], kind, padding=9.0, extra=1))
    with torch.no_grad():
        got = head([layered, text])
        wanted = single([HeadInput(plain_sum(head, layered, mean, deviation), layered.mask), text])
    torch.testing.assert_close(got.logits, wanted.logits, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(got.attributes, wanted.attributes, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", SUMMING)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_layer_weights_equal_finite_differences(name, kind):
    head = small(name, kind).double().train()
    inputs = in_double(batch([(4, 3), (2, 0), (0, 5)], kind, padding=9.0))
    names, values = zip(*head.layer_sums.named_parameters(prefix="layer_sums"), strict=True)

    def outputs(*values):
        return tuple(torch.func.functional_call(head, dict(zip(names, values, strict=True)), (inputs,)))

    assert torch.autograd.gradcheck(outputs, tuple(value.detach().requires_grad_() for value in values))


@pytest.mark.parametrize("kind", KINDS)
def test_both_kinds_start_as_the_mean_of_standardised_layers(kind):
    head = build_head("mean-linear", DIMS, 3, RANGES, {"layer_sum": kind}, 0, LAYERS)
    layered, _ = batch([(4, 3), (2, 5)], kind)
    mean, deviation = (statistic.float() for statistic in random_statistics(*STATISTICS))
    head.set_standardization(0, mean, deviation)
    wanted = ((layered.frames - mean) / deviation).mean(dim=2)
    torch.testing.assert_close(head.read(0, layered)[layered.mask], wanted[layered.mask])


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_training_moves_the_weights_of_layers(kind):
    head = build_head("mean-linear", DIMS, 3, RANGES, {"layer_sum": kind}, 0, LAYERS)
    head(batch([(4, 3), (2, 5)], kind)).logits[:, 0].sum().backward()
    for parameter in head.layer_sums.parameters():
        assert parameter.grad.abs().max() > 0


def test_statistics_of_features_alone_hold_for_every_layer():
    head, same = small("mean-linear", "weighted"), small("mean-linear", "weighted")
    layered, _ = batch([(4, 3), (2, 5)], "weighted")
    mean, deviation = random_statistics(DIMS[0])
    head.set_standardization(0, mean, deviation)
    same.set_standardization(0, mean.expand(STATISTICS), deviation.expand(STATISTICS))
    assert torch.equal(head.read(0, layered), same.read(0, layered))


def test_weights_can_be_read_where_all_clips_share_them():
    head = small("deepser", "weighted")
    weights = head.layer_weights()
    assert list(weights) == [0]
    assert weights[0].tolist() == pytest.approx(plain_softmax(head.layer_sums["0"].score.tolist()))
    assert not weights[0].requires_grad
    assert small("deepser", "gated").layer_weights() == {}
    assert small("deepser").layer_weights() == {}


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_leaves_sums_alone(kind):
    head = small("mean-linear", kind)
    layered, _ = batch([(4, 3), (2, 5)], kind)
    wanted = head.read(0, layered)
    with torch.autocast("cpu", torch.bfloat16):
        got = head.read(0, layered)
    assert got.dtype == torch.float32
    assert torch.equal(got, wanted)


def test_frames_of_other_layers_than_the_head_was_built_for_are_refused():
    layered = batch([(4, 3)], "weighted")[0]
    with pytest.raises(ValueError, match=r"feature set 0: frames of shape \(1, 4, 3, 5\) where \(B, T, 5\)"):
        small("mean-linear").read(0, layered)
    with pytest.raises(ValueError, match=r"frames of shape \(1, 3, 5\) where \(B, T, 3, 5\) is wanted"):
        small("mean-linear", "weighted").read(0, HeadInput(layered.frames[:, 0], layered.mask[:, :3]))


def test_a_sum_needs_two_layers():
    with pytest.raises(ValueError, match="feature set 0 has 1 layers: a sum needs at least 2"):
        small("mean-linear").set_layers(0, 1, "weighted")
