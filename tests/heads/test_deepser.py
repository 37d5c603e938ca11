"""DeepSER against a plain implementation of the paper: no masks, one clip at a time, bare tensor algebra."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.heads.leg import EncoderLayer
from sercache.heads.registry import build_head
from sercache.heads.sequences import Padded, arrange
from support.plain_heads import assert_equals_plain, plain_leg, plain_outputs, random_clips
from support.small_heads import RANGES

OPTIONS = {"width": 16, "feedforward": 24, "dropout": 0.3}


def plain_deepser(weights, clips):
    """The equations for one clip: ``clips`` holds one ``(T, D)`` tensor per feature set."""
    legs = [plain_leg(weights, f"legs.{index}", clip) for index, clip in enumerate(clips)]
    _, g2, _ = plain_leg(weights, "first_fusion", torch.cat([h1 for h1, _, _ in legs]))
    _, _, pooled = plain_leg(weights, "second_fusion", torch.cat([*(h2 for _, h2, _ in legs), g2]))
    return plain_outputs(weights, [*(h3 for _, _, h3 in legs), pooled])


@pytest.mark.parametrize("dims", [[5], [5, 7], [5, 7, 3]])
def test_equals_the_plain_implementation_clip_by_clip(dims):
    head = build_head("deepser", dims, 4, RANGES, OPTIONS, seed=1).eval()
    for lengths in ([6, 2, 9], [1, 11, 4]):
        assert_equals_plain(head, plain_deepser, random_clips([lengths], dims, seed=2))


@given(lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=25)
def test_padded_batches_equal_the_plain_implementation(lengths):
    head = build_head("deepser", [5, 7], 4, RANGES, OPTIONS, seed=1).eval()
    assert_equals_plain(head, plain_deepser, random_clips(lengths, [5, 7], seed=3))


@pytest.mark.parametrize("layout", [arrange, Padded])
@pytest.mark.parametrize("attention_heads", [1, 4])
def test_the_layer_equals_torchs_post_norm_encoder_layer(attention_heads, layout):
    torch_layer = torch.nn.TransformerEncoderLayer(16, attention_heads, 24, dropout=0.0, batch_first=True)
    layer = EncoderLayer(16, attention_heads, 24, dropout=0.0)
    names = {
        "self_attn.in_proj_": "project_in.",
        "self_attn.out_proj.": "project_out.",
        "linear1.": "widen.",
        "linear2.": "narrow.",
        "norm1.": "attention_norm.",
        "norm2.": "feedforward_norm.",
    }
    renamed = {
        ours + key.removeprefix(theirs): value
        for key, value in torch_layer.state_dict().items()
        for theirs, ours in names.items()
        if key.startswith(theirs)
    }
    layer.load_state_dict(renamed)
    frames, mask = torch.randn(3, 7, 16), torch.arange(7) < torch.tensor([[7], [3], [5]])
    wanted = torch_layer(frames, src_key_padding_mask=~mask)
    got = layer(layout(frames, mask)).frames
    got = got[mask] if got.ndim == 3 else got
    torch.testing.assert_close(got, wanted[mask], atol=1e-5, rtol=1e-5)
