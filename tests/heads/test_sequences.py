"""Both layouts of sequences are the same function; and dropout drops what it should."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.heads import deepser
from sercache.heads import masking as lengths_module
from sercache.heads.masking import Lengths, dropout, kept_on_cpu
from sercache.heads.protocol import HeadInput
from sercache.heads.registry import build_head
from sercache.heads.sequences import Packed, Padded, arrange

counts = st.lists(st.integers(0, 7), min_size=1, max_size=5)


def batch(lengths, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(len(lengths), max(1, *lengths), dim, generator=generator, dtype=torch.float64)
    return frames, torch.arange(frames.shape[1]) < torch.tensor(lengths).unsqueeze(1)


def both(frames, mask):
    packed = arrange(frames, mask)
    assert isinstance(packed, Packed)
    return packed, Padded(frames, mask)


@given(lengths=counts, heads=st.sampled_from([1, 2]))
@settings(deadline=None, max_examples=40)
def test_packed_equals_padded(lengths, heads):
    frames, mask = batch(lengths, 4)
    packed, padded = both(frames, mask)
    projected = torch.cat([frames, 2 * frames, -frames], dim=-1)
    torch.testing.assert_close(
        packed.attend(projected[mask], heads, 0.0), padded.attend(projected, heads, 0.0)[mask]
    )
    torch.testing.assert_close(packed.mean(), padded.mean())
    other, other_mask = batch(lengths[::-1], 4, seed=1)
    longer, wanted = (
        sequence.followed_by([other_sequence])
        for sequence, other_sequence in zip((packed, padded), both(other, other_mask), strict=True)
    )
    torch.testing.assert_close(longer.frames, wanted.frames[wanted.mask])
    assert longer.lengths.counts == tuple(wanted.mask.sum(dim=1).tolist())


@given(lengths=st.lists(st.integers(0, 400), min_size=1, max_size=40))
def test_every_clip_with_frames_is_in_one_group_of_about_its_length(lengths):
    packed_lengths = Lengths(tuple(lengths))
    rows = [group.rows[group.valid].tolist() for group in packed_lengths.groups]
    assert sorted(row for part in rows for row in part) == list(range(sum(lengths)))
    for group in packed_lengths.groups:
        present = group.valid.sum(dim=1)
        computed = group.valid.shape[0] * group.valid.shape[1] ** 2
        assert computed - int(present.square().sum()) <= lengths_module._WORTH_A_CALL
        assert len(present) == 1 or computed <= lengths_module._MOST_WEIGHTS
    if any(lengths):
        together = torch.cat([group.rows[group.valid] for group in packed_lengths.groups])
        assert together[packed_lengths.order_of_groups].tolist() == list(range(sum(lengths)))


@given(lengths=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=20)
def test_a_head_and_its_gradients_are_the_same_in_both_layouts(lengths):
    head = build_head(
        "deepser", [5, 3], 4, [(1, 7)], {"width": 8, "feedforward": 8, "dropout": 0.0}, 1
    ).double()
    inputs = [HeadInput(*batch([length[part] for length in lengths], dim)) for part, dim in enumerate((5, 3))]
    outputs, gradients = [], []
    for layout in (arrange, Padded):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(deepser, "arrange", layout)
            head.zero_grad()
            output = head(inputs)
            (output.logits.square().sum() + output.attributes.square().sum()).backward()
        outputs.append(output)
        gradients.append(
            [parameter.grad.clone() for parameter in head.parameters() if parameter.grad is not None]
        )
    torch.testing.assert_close(*[output.logits for output in outputs])
    for gradient, other in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_its_share(share):
    torch.manual_seed(0)
    values = torch.full((400, 500), 3.0, requires_grad=True)
    dropped = dropout(values, share, training=True)
    assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=0.005)
    assert dropped.mean().item() == pytest.approx(3.0, rel=0.03)
    dropped.sum().backward()
    torch.testing.assert_close(values.grad, dropped.detach() / 3)
    assert torch.equal(dropout(values, share, training=False), values)
    assert torch.equal(dropout(values, 0.0, training=True), values)


def test_dropout_follows_from_torchs_generator_and_differs_from_call_to_call():
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append([kept_on_cpu((1001,), 0.3, torch.float32) for _ in range(2)])
    assert torch.equal(draws[0][0], draws[1][0])
    assert not torch.equal(draws[0][0], draws[2][0])
    assert not torch.equal(draws[0][0], draws[0][1])


def test_dropped_values_are_independent_of_their_neighbours():
    """Four decisions come from one random word: none of them may tell about the others."""
    torch.manual_seed(0)
    kept = (kept_on_cpu((400_000,), 0.5, torch.float32) > 0).double().numpy()
    for lag in (1, 2, 3, 4, 8):
        assert abs(np.corrcoef(kept[:-lag], kept[lag:])[0, 1]) < 0.01


def test_attention_drops_weights_in_training():
    torch.manual_seed(0)
    frames, mask = torch.randn(2, 300, 4), torch.ones(2, 300, dtype=torch.bool)
    packed = arrange(frames, mask)
    projected = torch.cat([torch.zeros(600, 8), torch.ones(600, 4)], dim=1)  # equal weights, values of one
    attended = packed.attend(projected, 2, 0.4)
    assert attended.mean().item() == pytest.approx(1.0, abs=0.01)
    expected = (0.4 / 0.6 / 300) ** 0.5  # deviation of a mean over 300 that are 0 or 1 / 0.6
    assert attended.std().item() == pytest.approx(expected, rel=0.1)
