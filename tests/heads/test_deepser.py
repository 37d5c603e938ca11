"""DeepSER against a plain implementation of the paper: no masks, one clip at a time, bare tensor algebra."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.heads.deepser import EncoderLayer
from sercache.heads.protocol import HeadInput
from sercache.heads.registry import build_head

RANGES = [(1.0, 7.0), (-1.0, 1.0)]
OPTIONS = {"width": 16, "feedforward": 24, "dropout": 0.3}


def plain_linear(weights, name, values):
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def plain_norm(weights, name, values):
    centred = values - values.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def plain_layer(weights, name, frames):
    query, key, value = plain_linear(weights, f"{name}.project_in", frames).chunk(3, dim=-1)
    scores = query @ key.T / math.sqrt(query.shape[-1])
    attention = torch.exp(scores) / torch.exp(scores).sum(-1, keepdim=True)
    frames = plain_norm(
        weights,
        f"{name}.attention_norm",
        frames + plain_linear(weights, f"{name}.project_out", attention @ value),
    )
    inner = plain_linear(weights, f"{name}.widen", frames).clamp(min=0)
    return plain_norm(
        weights, f"{name}.feedforward_norm", frames + plain_linear(weights, f"{name}.narrow", inner)
    )


def plain_leg(weights, name, frames):
    hidden = plain_linear(weights, f"{name}.project.0", frames).clamp(min=0)
    hidden = plain_linear(weights, f"{name}.project.2", hidden)
    first = plain_layer(weights, f"{name}.first", hidden)
    second = plain_layer(weights, f"{name}.second", first)
    return first, second, second.mean(0)


def plain_deepser(weights, clips):
    """DESIGN section 5, one clip: ``clips`` holds one ``(T, D)`` tensor per feature set."""
    legs = [plain_leg(weights, f"legs.{index}", clip) for index, clip in enumerate(clips)]
    _, g2, _ = plain_leg(weights, "first_fusion", torch.cat([h1 for h1, _, _ in legs]))
    _, _, pooled = plain_leg(weights, "second_fusion", torch.cat([*(h2 for _, h2, _ in legs), g2]))
    merged = plain_linear(weights, "merge", torch.cat([*(h3 for _, _, h3 in legs), pooled])).clamp(min=0)
    low, high = torch.tensor(RANGES).T
    attributes = low + (high - low) / (1 + torch.exp(-plain_linear(weights, "attribute_output", merged)))
    return plain_linear(weights, "class_output", merged), attributes


def pad(clips):
    longest = max(len(clip) for clip in clips) + 3
    frames = torch.full((len(clips), longest, clips[0].shape[1]), 1e3)
    mask = torch.zeros(len(clips), longest, dtype=torch.bool)
    for row, clip in enumerate(clips):
        frames[row, : len(clip)] = clip
        mask[row, : len(clip)] = True
    return HeadInput(frames, mask)


@pytest.mark.parametrize("dims", [[5], [5, 7], [5, 7, 3]])
def test_equals_the_plain_implementation_clip_by_clip(dims):
    head = build_head("deepser", dims, 4, RANGES, OPTIONS, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    for lengths in ([6, 2, 9], [1, 11, 4]):
        clips = [
            torch.randn(length, dim, generator=generator) for length, dim in zip(lengths, dims, strict=False)
        ]
        inputs = [HeadInput(clip.unsqueeze(0), torch.ones(1, len(clip), dtype=torch.bool)) for clip in clips]
        with torch.no_grad():
            logits, attributes = head(inputs)
        wanted_logits, wanted_attributes = plain_deepser(head.state_dict(), clips)
        torch.testing.assert_close(logits[0], wanted_logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(attributes[0], wanted_attributes, atol=1e-5, rtol=1e-5)


@given(lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=25)
def test_padded_batches_equal_the_plain_implementation(lengths):
    head = build_head("deepser", [5, 7], 4, RANGES, OPTIONS, seed=1).eval()
    generator = torch.Generator().manual_seed(sum(map(sum, lengths)))
    speech = [torch.randn(first, 5, generator=generator) for first, _ in lengths]
    text = [torch.randn(second, 7, generator=generator) for _, second in lengths]
    with torch.no_grad():
        logits, attributes = head([pad(speech), pad(text)])
    for row, clips in enumerate(zip(speech, text, strict=True)):
        wanted_logits, wanted_attributes = plain_deepser(head.state_dict(), clips)
        torch.testing.assert_close(logits[row], wanted_logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(attributes[row], wanted_attributes, atol=1e-5, rtol=1e-5)


def test_a_clip_without_text_is_the_same_whatever_stands_in_the_padding():
    head = build_head("deepser", [5, 7], 4, RANGES, OPTIONS, seed=1).eval()
    speech = pad([torch.randn(6, 5), torch.randn(4, 5)])
    mask = torch.tensor([[True, True, True], [False, False, False]])
    text = torch.randn(2, 3, 7)
    outputs = []
    for padding in (0.0, 50.0):
        frames = torch.where(mask.unsqueeze(-1), text, torch.tensor(padding)).requires_grad_()
        logits, _ = head([speech, HeadInput(frames, mask)])
        assert logits.isfinite().all()
        logits.sum().backward()
        assert (frames.grad[1] == 0).all()
        outputs.append(logits.detach())
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("attention_heads", [1, 4])
def test_the_layer_equals_torchs_post_norm_encoder_layer(attention_heads):
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
    torch.testing.assert_close(layer(frames, mask)[mask], wanted[mask], atol=1e-5, rtol=1e-5)
