"""The building blocks of heads in bare tensor algebra: no masks, one clip at a time, one attention head."""

import math

import torch

from sercache.heads.protocol import HeadInput
from support.small_heads import RANGES


def plain_linear(weights, name, values):
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def plain_norm(weights, name, values):
    centred = values - values.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def plain_attention(query, key, value):
    """Attention of ``(T, d)`` to ``(S, d)``."""
    scores = torch.exp(query @ key.T / math.sqrt(query.shape[-1]))
    return scores / scores.sum(-1, keepdim=True) @ value


def plain_rest_of_layer(weights, name, frames, attended):
    """What follows attention in a post-norm layer."""
    frames = plain_norm(
        weights, f"{name}.attention_norm", frames + plain_linear(weights, f"{name}.project_out", attended)
    )
    inner = plain_linear(weights, f"{name}.widen", frames).clamp(min=0)
    return plain_norm(
        weights, f"{name}.feedforward_norm", frames + plain_linear(weights, f"{name}.narrow", inner)
    )


def plain_layer(weights, name, frames):
    query, key, value = plain_linear(weights, f"{name}.project_in", frames).chunk(3, dim=-1)
    return plain_rest_of_layer(weights, name, frames, plain_attention(query, key, value))


def plain_leg(weights, name, frames):
    hidden = plain_linear(weights, f"{name}.project.0", frames).clamp(min=0)
    hidden = plain_linear(weights, f"{name}.project.2", hidden)
    first = plain_layer(weights, f"{name}.first", hidden)
    second = plain_layer(weights, f"{name}.second", first)
    return first, second, second.mean(0)


def plain_outputs(weights, pooled):
    """What follows the pooled parts: the merging layer and the two outputs."""
    merged = plain_linear(weights, "merge", torch.cat(pooled)).clamp(min=0)
    low, high = torch.tensor(RANGES).T
    attributes = low + (high - low) / (1 + torch.exp(-plain_linear(weights, "attribute_output", merged)))
    return plain_linear(weights, "class_output", merged), attributes


def pad(clips):
    """Return clips ``(T_i, D)`` as one batch with large numbers in its padding."""
    longest = max(len(clip) for clip in clips) + 3
    frames = torch.full((len(clips), longest, clips[0].shape[1]), 1e3)
    mask = torch.zeros(len(clips), longest, dtype=torch.bool)
    for row, clip in enumerate(clips):
        frames[row, : len(clip)] = clip
        mask[row, : len(clip)] = True
    return HeadInput(frames, mask)


def random_clips(lengths, dims, seed):
    """Return ``(T, D)`` tensors: one list of B clips per feature set; ``lengths`` is ``(B, N)``."""
    generator = torch.Generator().manual_seed(seed)
    return [
        [torch.randn(row[index], dim, generator=generator) for row in lengths]
        for index, dim in enumerate(dims)
    ]


def assert_equals_plain(head, plain, clips):
    """Check a head's outputs of a padded batch against a plain implementation, clip by clip."""
    with torch.no_grad():
        logits, attributes = head([pad(of_one_set) for of_one_set in clips])
    for row, clip in enumerate(zip(*clips, strict=True)):
        wanted_logits, wanted_attributes = plain(head.state_dict(), clip)
        torch.testing.assert_close(logits[row], wanted_logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(attributes[row], wanted_attributes, atol=1e-5, rtol=1e-5)
