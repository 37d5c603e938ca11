"""One sequence from several layers of an encoder: sums whose weights are learned with the head."""

import torch
from torch import Tensor, nn

from sercache.errors import RecipeError
from sercache.registry import Registry


class LayerSum(nn.Module):
    """A sum of L layers with weights that are positive and add up to 1; at first all are equal.

    A subclass takes ``(num_layers, dim)`` and implements :meth:`scores`. It starts from zero scores, so that
    building it draws no random numbers and a head's other weights do not depend on it.
    """

    def scores(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return what a softmax over layers turns into weights.

        Args:
            frames: ``(B, T, L, D)``, zero where not valid.
            mask: ``(B, T)`` bool, True where valid.

        Returns:
            ``(B, L)``, or ``(1, L)`` where all clips have the same.
        """
        raise NotImplementedError

    def shared_weights(self) -> Tensor | None:
        """Return the weights ``(L,)`` that hold for every clip; None where they differ between clips."""
        return None

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return the sum ``(B, T, D)`` of the layers of ``frames`` ``(B, T, L, D)``; arguments as above."""
        with torch.autocast(frames.device.type, enabled=False):  # sums stay in the precision of the frames
            weights = torch.softmax(self.scores(frames, mask), dim=1)  # (B, L)
            return (weights[:, None, None, :] @ frames).squeeze(2)  # (B, T, 1, D) -> (B, T, D)


class WeightedSum(LayerSum):
    """The same weights for every clip (SUPERB, Yang et al. 2021, section 3).

    That is the scalar mix of ELMo (Peters et al. 2018, eq. 1) without its common factor, which the linear
    layer that follows can learn.

    >>> layers = torch.tensor([[[[1.0, 2.0], [5.0, 6.0]]]])  # one clip, one frame, two layers
    >>> WeightedSum(num_layers=2, dim=2)(layers, torch.ones(1, 1, dtype=torch.bool)).tolist()
    [[[3.0, 4.0]]]

    Args:
        num_layers: L.
        dim: D; the weights do not depend on it.
    """

    def __init__(self, num_layers: int, dim: int) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.zeros(num_layers))

    def scores(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return the learned scores, ``(1, L)``."""
        return self.score.unsqueeze(0)  # (1, L)

    def shared_weights(self) -> Tensor:
        """Return the weights, ``(L,)``."""
        return torch.softmax(self.score.detach(), dim=0)


class GatedSum(LayerSum):
    """Weights per clip: a linear function of each layer's mean frame gives the layer's score.

    This is squeeze-and-excitation (Hu et al. 2018, section 3) with layers instead of channels. Where the
    paper squeezes a channel to one number and excites with two layers and a sigmoid, here a layer is squeezed
    to its mean frame, and one linear function per layer and a softmax over layers follow: the weights add up
    to 1, as those of :class:`WeightedSum` do.

    >>> layers = torch.randn(2, 30, 13, 768)
    >>> tuple(GatedSum(num_layers=13, dim=768)(layers, torch.ones(2, 30, dtype=torch.bool)).shape)
    (2, 30, 768)

    Args:
        num_layers: L.
        dim: D.
    """

    def __init__(self, num_layers: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_layers, dim))
        self.bias = nn.Parameter(torch.zeros(num_layers))

    def scores(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return a linear function of each layer's mean valid frame, ``(B, L)``; the bias without frames."""
        mean = frames.sum(dim=1) / mask.sum(dim=1).clamp_min(1)[:, None, None]  # (B, L, D)
        return (mean * self.weight).sum(dim=2) + self.bias  # (B, L)


LAYER_SUMS: Registry[type[LayerSum]] = Registry(
    "layer sum",
    {
        "gated": "sercache.heads.layer_sum:GatedSum",
        "weighted": "sercache.heads.layer_sum:WeightedSum",
    },
    RecipeError,
)
