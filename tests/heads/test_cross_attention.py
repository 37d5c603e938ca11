"""Cross-attention against a plain implementation: no masks, one clip at a time, bare tensor algebra."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.heads.cross_attention import CrossAttentionLayer
from sercache.heads.leg import EncoderLayer
from sercache.heads.protocol import HeadInput
from sercache.heads.registry import build_head
from sercache.heads.sequences import Padded
from support.plain_heads import (
    assert_equals_plain,
    plain_attention,
    plain_linear,
    plain_outputs,
    plain_rest_of_layer,
    random_clips,
)
from support.small_heads import RANGES

PAIRS = {1: ["00"], 2: ["01", "10"], 3: ["01", "02", "10", "12", "20", "21"]}


def options(attention_heads):
    return {"width": 16, "feedforward": 24, "dropout": 0.3, "attention_heads": attention_heads}


def plain_cross_layer(weights, name, target, source, attention_heads):
    query = plain_linear(weights, f"{name}.project_query", target)
    key, value = plain_linear(weights, f"{name}.project_source", source).chunk(2, dim=-1)
    parts = zip(*(part.chunk(attention_heads, dim=-1) for part in (query, key, value)), strict=True)
    attended = torch.cat([plain_attention(*part) for part in parts], dim=-1)
    return plain_rest_of_layer(weights, name, target, attended)


def plain_cross_attention(attention_heads):
    def plain(weights, clips):
        projected = [plain_linear(weights, f"projections.{index}", clip) for index, clip in enumerate(clips)]
        return plain_outputs(
            weights,
            [
                plain_cross_layer(
                    weights,
                    f"layers.{number}",
                    projected[int(first)],
                    projected[int(second)],
                    attention_heads,
                ).mean(0)
                for number, (first, second) in enumerate(PAIRS[len(clips)])
            ],
        )

    return plain


@pytest.mark.parametrize("attention_heads", [1, 4])
@pytest.mark.parametrize("dims", [[5], [5, 7], [5, 7, 3]])
def test_equals_the_plain_implementation_clip_by_clip(dims, attention_heads):
    head = build_head("cross-attention", dims, 4, RANGES, options(attention_heads), seed=1).eval()
    for lengths in ([6, 2, 9], [1, 11, 4]):
        clips = random_clips([lengths], dims, seed=2)
        assert_equals_plain(head, plain_cross_attention(attention_heads), clips)


@given(lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=15)
def test_padded_batches_equal_the_plain_implementation(lengths):
    head = build_head("cross-attention", [5, 7], 4, RANGES, options(2), seed=1).eval()
    assert_equals_plain(head, plain_cross_attention(2), random_clips(lengths, [5, 7], seed=3))


def test_attending_to_itself_is_the_encoder_layer():
    layer, encoder = CrossAttentionLayer(16, 4, 24, 0.0), EncoderLayer(16, 4, 24, 0.0)
    weights = encoder.state_dict()
    for part in ("weight", "bias"):
        joined = weights.pop(f"project_in.{part}")
        weights[f"project_query.{part}"], weights[f"project_source.{part}"] = joined[:16], joined[16:]
    layer.load_state_dict(weights)
    frames, mask = torch.randn(3, 7, 16), torch.arange(7) < torch.tensor([[7], [3], [5]])
    features = HeadInput(frames, mask)
    wanted = encoder(Padded(frames, mask)).frames
    torch.testing.assert_close(layer(features, features)[mask], wanted[mask], atol=1e-5, rtol=1e-5)


def test_a_source_without_frames_gives_its_target_nothing():
    """Not even the output projection's bias: the target goes on as if nothing had been attended to."""
    layer = CrossAttentionLayer(16, 4, 24, 0.0)
    with torch.no_grad():
        layer.project_out.bias.normal_()
        target = HeadInput(torch.randn(1, 5, 16), torch.ones(1, 5, dtype=torch.bool))
        absent = HeadInput(torch.randn(1, 3, 16), torch.zeros(1, 3, dtype=torch.bool))
        got = layer(target, absent)
        normed = layer.attention_norm(target.frames)
        wanted = layer.feedforward_norm(normed + layer.narrow(layer.widen(normed).relu()))
    torch.testing.assert_close(got, wanted)


def test_no_dropout_in_evaluation_and_dropout_in_training():
    head = build_head("cross-attention", [5, 7], 4, RANGES, options(2), seed=1)
    inputs = [HeadInput(torch.randn(2, 4, dim), torch.ones(2, 4, dtype=torch.bool)) for dim in (5, 7)]
    with torch.no_grad():
        assert not torch.equal(head(inputs).logits, head(inputs).logits)
        head.eval()
        assert torch.equal(head(inputs).logits, head(inputs).logits)
