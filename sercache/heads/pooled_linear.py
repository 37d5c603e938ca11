"""Linear heads on statistics over time of every cached layer, fitted without epochs.

Statistics pooling is that of x-vectors (Snyder et al. 2018), with the shape statistics that openSMILE's
functionals (Eyben et al. 2010) are made of. How the weights are found is in
:mod:`sercache.training.closed_form`.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sercache.heads.protocol import Head, HeadInput, HeadOutput

STATISTICS = ("mean", "deviation", "change", "skewness", "trend", "minimum", "maximum")
"""What can be pooled over time.

``change`` is the standard deviation of the difference between neighbouring frames, ``trend`` the mean of the
second half of the clip minus that of the first.
"""


def parse_statistics(request: str) -> tuple[str, ...]:
    """Return the statistics that an option asks for: ``all``, or names joined by ``+``.

    >>> parse_statistics("mean+deviation")
    ('mean', 'deviation')

    Raises:
        ValueError: a name is not known, or occurs twice.
    """
    names = STATISTICS if request == "all" else tuple(name.strip() for name in request.split("+"))
    for name in names:
        if name not in STATISTICS:
            raise ValueError(f"statistics: unknown '{name}' (known: all, or {'+'.join(STATISTICS)})")
    if len(set(names)) < len(names):
        raise ValueError(f"statistics: '{request}' names one twice")
    return names


def pool_statistics(frames: Tensor, mask: Tensor, statistics: Sequence[str] = STATISTICS) -> Tensor:
    """Return statistics over the valid frames of each clip; zero for a clip without any.

    >>> frames = torch.tensor([[[1.0], [3.0], [99.0]]])  # one clip, three frames, one feature
    >>> mask = torch.tensor([[True, True, False]])
    >>> pool_statistics(frames, mask, ("mean", "deviation", "trend", "maximum")).flatten().tolist()
    [2.0, 1.0, 2.0, 3.0]

    Args:
        frames: ``(B, T, ...)`` float.
        mask: ``(B, T)`` bool, True where valid; the valid frames come first.
        statistics: S names in :data:`STATISTICS`.

    Returns:
        ``(B, S, ...)``.
    """
    extra = (1,) * (frames.ndim - 2)
    valid = mask.view(*mask.shape, *extra)  # (B, T, 1, ...)
    lengths = mask.sum(dim=1)  # (B,)
    count = lengths.view(-1, *extra).to(frames.dtype)  # (B, 1, ...)
    frames = torch.where(valid, frames, 0.0)
    mean = frames.sum(dim=1) / count.clamp_min(1)  # (B, ...)
    centred = torch.where(valid, frames - mean.unsqueeze(1), 0.0)  # (B, T, ...)
    deviation = _root(centred.square().sum(dim=1) / count.clamp_min(1))  # (B, ...)

    def change() -> Tensor:
        pairs = valid[:, 1:] & valid[:, :-1]  # (B, T - 1, 1, ...)
        steps = torch.where(pairs, frames[:, 1:] - frames[:, :-1], 0.0)  # (B, T - 1, ...)
        number = (count - 1).clamp_min(1)  # (B, 1, ...)
        centre = (steps.sum(dim=1) / number).unsqueeze(1)  # (B, 1, ...)
        return _root(torch.where(pairs, steps - centre, 0.0).square().sum(dim=1) / number)  # (B, ...)

    def skewness() -> Tensor:
        cubes = centred.pow(3).sum(dim=1) / count.clamp_min(1)  # (B, ...)
        return cubes / deviation.clamp_min(1e-4 * (1 + mean.abs())).pow(3)

    def trend() -> Tensor:
        position = torch.arange(frames.shape[1], device=frames.device)  # (T,)
        first = (position < (lengths // 2).unsqueeze(1)).view(valid.shape)  # (B, T, 1, ...)
        half = (lengths // 2).view(-1, *extra).to(frames.dtype)  # (B, 1, ...)
        early = torch.where(first, frames, 0.0).sum(dim=1)  # (B, ...)
        late = mean * count - early
        difference = late / (count - half).clamp_min(1) - early / half.clamp_min(1)
        return torch.where(half > 0, difference, 0.0)

    def extreme(largest: bool) -> Tensor:
        bound = torch.finfo(frames.dtype).min
        signed = torch.where(valid, frames if largest else -frames, bound)  # (B, T, ...)
        found = torch.cat([signed, torch.full_like(mean, bound).unsqueeze(1)], dim=1).amax(dim=1)  # (B, ...)
        return torch.where(count > 0, found if largest else -found, 0.0)

    functions: dict[str, Callable[[], Tensor]] = {
        "mean": lambda: mean,
        "deviation": lambda: deviation,
        "change": change,
        "skewness": skewness,
        "trend": trend,
        "minimum": lambda: extreme(largest=False),
        "maximum": lambda: extreme(largest=True),
    }
    return torch.stack([functions[name]() for name in statistics], dim=1)  # (B, S, ...)


def _root(values: Tensor) -> Tensor:
    """Return the square root, whose gradient is 0 at 0."""
    positive = values > 0
    return torch.where(positive, torch.where(positive, values, 1.0).sqrt(), 0.0)


class PooledLinear(Head):
    """Statistics over time of every layer of every feature set, and one linear map to the outputs.

    Layers are not summed: each has weights of its own. A clip without frames of a feature set has the
    training rows' mean there. Attributes are linear too, cut to their range.

    Args:
        input_dims: D of each feature set.
        num_classes: C.
        attribute_ranges: ``(low, high)`` of each attribute.
        statistics: what is pooled, ``all`` or names in :data:`STATISTICS` joined by ``+``.
        penalty: of the squared weights, relative to the mean squared length of a pooled clip; 0: the one that
            predicts left-out speakers best.
        balance: power of the class weights: 0 none, 1 all classes count alike.
        learn_blocks: whether feature sets, layers and statistics are weighted by how well they predict
            left-out speakers; else all count alike.
    """

    method: Literal["ridge", "logistic"]
    keeps_layers: ClassVar[bool] = True
    is_closed_form: ClassVar[bool] = True

    def __init__(
        self,
        input_dims: Sequence[int],
        num_classes: int,
        attribute_ranges: Sequence[tuple[float, float]],
        *,
        statistics: str = "all",
        penalty: float = 0.0,
        balance: float = 0.5,
        learn_blocks: bool = True,
    ) -> None:
        if penalty < 0:
            raise ValueError(f"penalty must be 0 (chosen) or more, not {penalty}")
        if not 0 <= balance <= 1:
            raise ValueError(f"balance must lie in 0 to 1, not {balance}")
        self.statistics = parse_statistics(statistics)
        self.penalty, self.balance, self.learn_blocks = penalty, balance, learn_blocks
        self.num_layers = [1] * len(input_dims)
        super().__init__(input_dims, num_classes, attribute_ranges, embedding_dim=1, activation=nn.Identity())
        self._resize()

    def set_layers(self, index: int, num_layers: int, kind: str) -> None:
        """Make feature set ``index`` have several layers; ``kind`` of a sum has no meaning here."""
        super().set_layers(index, num_layers, kind)
        self.num_layers[index] = num_layers
        self._resize()

    @property
    def sizes(self) -> list[int]:
        """Pooled numbers of each feature set: S x L x D."""
        return [
            len(self.statistics) * layers * dim
            for layers, dim in zip(self.num_layers, self.input_dims, strict=True)
        ]

    def _resize(self) -> None:
        num_attributes = 0 if self.attribute_output is None else self.attribute_output.out_features
        for index, size in enumerate(self.sizes):
            self.register_buffer(f"pooled_mean_{index}", torch.zeros(size))
            self.register_buffer(f"pooled_scale_{index}", torch.ones(size))
            self.register_buffer(
                f"block_share_{index}", torch.zeros(len(self.statistics), self.num_layers[index])
            )
        self.class_output = _zeros(sum(self.sizes), self.num_classes) if self.num_classes else None
        self.attribute_output = _zeros(sum(self.sizes), num_attributes) if num_attributes else None

    def layer_weights(self) -> dict[int, Tensor]:
        """Return, by index, how much each layer ``(L,)`` of a feature set with several counts; in all 1."""
        shares = {
            index: self.get_buffer(f"block_share_{index}").sum(dim=0) for index in range(len(self.sizes))
        }
        return {
            index: share / share.sum().clamp_min(1e-12) for index, share in shares.items() if len(share) > 1
        }

    def embed(self, inputs: Sequence[HeadInput]) -> Tensor:
        """Return the standardised statistics, ``(B, P)``: feature set, statistic, layer, feature."""
        return torch.cat([self._pooled(index, given) for index, given in enumerate(inputs)], dim=1)  # (B, P)

    def _pooled(self, index: int, given: HeadInput) -> Tensor:
        frames = self.read(index, given)  # (B, T, D) or (B, T, L, D)
        pooled = pool_statistics(frames, given.mask, self.statistics).flatten(1)  # (B, S * L * D)
        return self.standardized(index, pooled, given.mask.any(dim=1))

    def standardized(self, index: int, pooled: Tensor, present: Tensor) -> Tensor:
        """Return pooled statistics ``(B, S * L * D)`` standardised, zero for clips not ``present``."""
        mean, scale = self.get_buffer(f"pooled_mean_{index}"), self.get_buffer(f"pooled_scale_{index}")
        return (pooled - mean) * scale * present.unsqueeze(1)  # (B, S * L * D)

    @torch.no_grad()
    def set_solution(
        self,
        standardization: Sequence[tuple[Tensor, Tensor]],
        shares: Sequence[Tensor],
        classes: tuple[Tensor, Tensor],
        attributes: tuple[Tensor, Tensor],
    ) -> None:
        """Take a fitted solution.

        Args:
            standardization: of each feature set, mean and scale ``(P_i,)`` of its pooled statistics.
            shares: of each feature set, ``(S, L)``: how much each statistic of each layer counts; in all 1.
            classes: weights ``(C, P)`` and intercept ``(C,)``.
            attributes: weights ``(A, P)`` and intercept ``(A,)``.
        """
        for index, (mean, scale) in enumerate(standardization):
            self.get_buffer(f"pooled_mean_{index}").copy_(mean)
            self.get_buffer(f"pooled_scale_{index}").copy_(scale)
            self.get_buffer(f"block_share_{index}").copy_(shares[index])
        for output, (weights, intercept) in (
            (self.class_output, classes),
            (self.attribute_output, attributes),
        ):
            if output is not None:
                output.weight.copy_(weights)
                output.bias.copy_(intercept)

    def classify(self, embedding: Tensor, start: Tensor | None = None) -> HeadOutput:
        """Return the linear outputs of ``(B, P)``, attributes cut to their range; there is no ``start``."""
        if self.class_output is None:
            logits = embedding.new_zeros(len(embedding), 0)
        else:
            logits = self.class_output(embedding)  # (B, C)
        if self.attribute_output is None:
            return HeadOutput(logits, logits.new_zeros(len(logits), 0))
        low, high = self.get_buffer("attribute_low"), self.get_buffer("attribute_high")
        return HeadOutput(logits, torch.minimum(torch.maximum(self.attribute_output(embedding), low), high))


class Ridge(PooledLinear):
    """Ridge regression on targets of -1 and 1, its scores scaled to probabilities.

    >>> head = Ridge([768], num_classes=8, attribute_ranges=[(1, 7)] * 3, statistics="mean+deviation")
    >>> speech = HeadInput(torch.randn(2, 50, 768), torch.ones(2, 50, dtype=torch.bool))
    >>> tuple(head.embed([speech]).shape), [tuple(part.shape) for part in head([speech])]
    ((2, 1536), [(2, 8), (2, 3)])
    """

    method = "ridge"


class Logistic(PooledLinear):
    """Multinomial logistic regression on soft targets; attributes by ridge regression."""

    method = "logistic"


def _zeros(features: int, outputs: int) -> nn.Linear:
    """Return a linear map of zeros; building it draws no random numbers."""
    linear = nn.Linear(features, outputs, device="meta").to_empty(device="cpu")
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
