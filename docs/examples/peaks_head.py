"""A new head: the largest value of every feature over time, then a linear layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sercache.heads.protocol import Head, HeadInput


class Peaks(Head):
    def __init__(
        self,
        input_dims: Sequence[int],
        num_classes: int,
        attribute_ranges: Sequence[tuple[float, float]],
        *,
        width: int = 32,  # keyword-only arguments are the head's options in a recipe
    ) -> None:
        super().__init__(input_dims, num_classes, attribute_ranges, embedding_dim=width)
        self.project = nn.Linear(sum(input_dims), width)

    def embed(self, inputs: Sequence[HeadInput]) -> Tensor:
        # `read` standardises, sums layers, and sets padding to zero. One more zero frame behind every clip
        # makes the peak at least zero, so that it does not depend on how much padding there was.
        frames = [self.read(index, features) for index, features in enumerate(inputs)]
        peaks = [nn.functional.pad(frame, (0, 0, 0, 1)).amax(dim=1) for frame in frames]
        return self.project(torch.cat(peaks, dim=1))
