"""Small heads of every name in the registry, and batches for them."""

import inspect

import torch

from sercache.heads.protocol import HeadInput
from sercache.heads.registry import HEADS, build_head

RANGES = [(1.0, 7.0), (-1.0, 1.0)]
DIMS = (5, 7)
LAYERS = (3, 1)
"""Of the first feature set, where a test wants several; neither D is the same number."""
SIZES = {"width": 16, "feedforward": 12, "bottleneck": 4, "attention_heads": 2, "dropout": 0.0}
NAMES = sorted(HEADS)
SUMMING = [name for name in NAMES if not HEADS[name].keeps_layers]
"""Heads that read a sum of a feature set's layers."""
READINGS = (None, "weighted", "gated")
"""How the first feature set enters: one layer, or several summed in one of the two ways."""


def small(name, layer_sum=None, seed=0, dims=DIMS):
    """Return a head without dropout, its layer sums, and weights that start from zero, far from there."""
    known = inspect.signature(HEADS[name]).parameters
    options = {option: size for option, size in SIZES.items() if option in known}
    if layer_sum is not None and name in SUMMING:
        options["layer_sum"] = layer_sum
    head = build_head(name, dims, 3, RANGES, options, seed, None if layer_sum is None else LAYERS)
    generator = torch.Generator().manual_seed(seed)
    drawn = head.layer_sums if name in SUMMING else head
    with torch.no_grad():
        for parameter in drawn.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return head


def batch(lengths, layer_sum=None, padding=0.0, extra=0, dims=DIMS):
    """Return inputs of clips of ``lengths`` ``(B, N)``: the same frames whatever pads them."""
    inputs = []
    for index, dim in enumerate(dims):
        counts = torch.tensor([row[index] for row in lengths])
        mask = torch.arange(int(counts.max()) + extra) < counts.unsqueeze(1)
        shape = (LAYERS[index], dim) if layer_sum and LAYERS[index] > 1 else (dim,)
        frames = torch.full((*mask.shape, *shape), padding)
        generator = torch.Generator().manual_seed(index)
        frames[mask] = torch.randn(int(counts.sum()), *shape, generator=generator)
        inputs.append(HeadInput(frames, mask))
    return inputs


def alone(inputs, row):
    """Return one clip's part of a batch, without padding."""
    return [
        HeadInput(part.frames[row : row + 1, part.mask[row]], part.mask[row : row + 1, part.mask[row]])
        for part in inputs
    ]


def in_double(inputs):
    return [HeadInput(part.frames.double(), part.mask) for part in inputs]


def total(output):
    """Return a loss whose value for a batch is the sum of its clips' values."""
    return output.logits.square().sum() + output.attributes.square().sum()


def gradients(head, inputs):
    """Return the gradient of :func:`total` by each parameter's name."""
    head.zero_grad()
    total(head(inputs)).backward()
    return {name: parameter.grad.clone() for name, parameter in head.named_parameters()}
