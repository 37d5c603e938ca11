import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.errors import RecipeError
from sercache.heads.protocol import HeadInput
from sercache.heads.registry import HEADS, build_head, parameter_count

RANGES = [(1.0, 7.0)]
DIMS = [5, 7]


def small(name, seed=0):
    options = {
        "deepser": {"width": 16, "feedforward": 24},
        "attentive-statistics": {"width": 8, "bottleneck": 4},
    }
    return build_head(name, DIMS, 3, RANGES, options.get(name, {}), seed)


def batch(lengths, padding=0.0, extra=0):
    inputs = []
    for index, dim in enumerate(DIMS):
        counts = [row[index] for row in lengths]
        mask = torch.arange(max(counts) + extra) < torch.tensor(counts).unsqueeze(1)
        frames = torch.stack(
            [
                torch.randn(mask.shape[1], dim, generator=torch.Generator().manual_seed(sum(row)))
                for row in lengths
            ]
        )
        inputs.append(HeadInput(torch.where(mask.unsqueeze(-1), frames, torch.tensor(padding)), mask))
    return inputs


def alone(inputs, row):
    return [
        HeadInput(one.frames[row : row + 1, one.mask[row]], one.mask[row : row + 1, one.mask[row]])
        for one in inputs
    ]


@pytest.mark.parametrize("name", sorted(HEADS))
@given(lengths=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=15)
def test_a_clips_output_does_not_depend_on_its_batch_mates(name, lengths):
    head = small(name).eval()
    inputs = batch(lengths, padding=1e3, extra=2)
    with torch.no_grad():
        together = head(inputs)
        for row in range(len(lengths)):
            single = head(alone(inputs, row))
            torch.testing.assert_close(together.logits[row], single.logits[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(together.attributes[row], single.attributes[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_padding_gets_no_gradient_and_a_missing_feature_set_gives_finite_ones(name):
    head = small(name)
    inputs = batch([(4, 3), (2, 0)], padding=7.0)
    for one in inputs:
        one.frames.requires_grad_()
    output = head(inputs)
    (output.logits.square().sum() + output.attributes.square().sum()).backward()
    for one in inputs:
        assert one.frames.grad.isfinite().all()
        assert (one.frames.grad[~one.mask] == 0).all()
    for parameter in head.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(HEADS))
def test_gradients_are_right_in_double_precision_with_padding_and_a_missing_feature_set(name):
    head = small(name).double().eval()
    inputs = batch([(4, 3), (2, 0)], padding=7.0)
    masks = [one.mask for one in inputs]
    frames = tuple(one.frames.double().requires_grad_() for one in inputs)

    def outputs(*frames):
        return tuple(head([HeadInput(*pair) for pair in zip(frames, masks, strict=True)]))

    assert torch.autograd.gradcheck(outputs, frames)


@pytest.mark.parametrize("name", sorted(HEADS))
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


@pytest.mark.parametrize("name", sorted(HEADS))
def test_weights_depend_on_the_seed_alone(name):
    before = torch.random.get_rng_state()
    first, again, other = (
        small(name, 1).state_dict(),
        small(name, 1).state_dict(),
        small(name, 2).state_dict(),
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_attributes_stay_on_their_scale_and_logits_may_be_negative(name):
    head = small(name).eval()
    with torch.no_grad():
        head.class_output.bias.copy_(torch.tensor([-50.0, 0.0, 50.0]))
        head.attribute_output.weight.mul_(1e3)
        output = head(batch([(4, 3), (2, 5), (8, 1)]))
    assert output.logits.min() < -10  # no activation after the output layer
    assert output.attributes.min() >= 1
    assert output.attributes.max() <= 7


def test_mean_linear_is_logistic_regression_on_pooled_frames():
    head = build_head("mean-linear", DIMS, 3, [], {"deviation": False}, 0).eval()
    inputs = batch([(4, 3), (2, 5)])
    pooled = torch.cat(
        [torch.stack([one.frames[row, one.mask[row]].mean(0) for row in range(2)]) for one in inputs], dim=1
    )
    with torch.no_grad():
        wanted = pooled @ head.class_output.weight.T + head.class_output.bias
        output = head(inputs)
    torch.testing.assert_close(output.logits, wanted)
    assert output.attributes.shape == (2, 0)
    assert parameter_count(head) == 12 * 3 + 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deepsr", {}, "unknown head 'deepsr'.*Did you mean 'deepser'"),
        ("deepser", {"widht": 3}, r"no option 'widht' \(options: width.*Did you mean 'width'"),
        ("deepser", {"width": 10, "attention_heads": 3}, "width 10 is not a multiple"),
        ("mean-linear", {"width": 3}, "no option 'width'"),
        ("deepser", {"width": "wide"}, "head 'deepser': option 'width' must be a whole number, not 'wide'"),
        ("deepser", {"width": 16.5}, "must be a whole number, not 16.5"),
        ("deepser", {"width": True}, "must be a whole number, not True"),
        ("deepser", {"dropout": "0.1"}, "option 'dropout' must be a number, not '0.1'"),
        ("deepser", {"dropout": 1}, "dropout must be at least 0 and below 1, not 1"),
        ("deepser", {"attention_heads": 0}, "attention_heads must be at least 1, not 0"),
        ("attentive-statistics", {"bottleneck": -1}, "bottleneck must be at least 1, not -1"),
        ("mean-linear", {"deviation": 1}, "option 'deviation' must be true or false, not 1"),
    ],
)
def test_a_wrong_option_is_one_clear_line(name, options, message):
    with pytest.raises(RecipeError, match=message):
        build_head(name, DIMS, 3, RANGES, options, 0)


def test_building_a_head_leaves_every_generator_as_it_was(monkeypatch):
    def refuse(seed):
        raise AssertionError("torch.manual_seed also seeds the GPUs' generators, which nothing restores")

    monkeypatch.setattr(torch, "manual_seed", refuse)
    before = torch.random.get_rng_state()
    small("deepser", seed=2**63 - 1)
    assert torch.equal(torch.random.get_rng_state(), before)
