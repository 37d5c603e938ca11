"""The interfaces of encoders."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sercache.audio import Waveform
from sercache.cache.fingerprint import FeatureSpec, Precision

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Encoder", "Frames", "Pending", "Precision", "StagedEncoder", "TransformersEncoder", "Waveform"]

"""How a transformers encoder computes; ``bfloat16`` is autocast."""

Frames = NDArray[np.float32]
"""The frames of a clip, ``(L, T, D)``: a plane per kept layer; nearly always L = 1."""

Pending = Callable[[], list[Frames]]
"""Waits for what was begun, and returns the frames of each input; it may be called in any thread."""


class Encoder(Protocol):
    """A frozen network that turns one kind of input into frames.

    ``encode`` must not depend on batch mates: the frames of a clip are the same alone and in any batch. It
    does not cut long audio into windows, pool over time or change the precision; the extraction does that
    around it.
    """

    @property
    def spec(self) -> FeatureSpec:
        """What the fingerprint hashes, with ``dtype`` still None and ``time_pool`` 1."""
        ...

    def encode(self, inputs: Sequence[Waveform] | Sequence[str]) -> list[Frames]:
        """Encode waveforms or texts of any lengths; returns one ``(L, T_i, D)`` float32 array each, in order.

        Raises:
            EncoderError: an input cannot be encoded (empty text, a clip too short for one frame).
        """
        ...


@runtime_checkable
class StagedEncoder(Encoder, Protocol):
    """An encoder whose work on one batch overlaps with that on the batches before and after.

    ``begin([prepare(item) for item in inputs])()`` gives what ``encode(inputs)`` does.

    Attributes:
        batch_limit: most samples or tokens in one batch, padding included; a longer input goes alone. It
            changes how fast frames come, never what they are (beyond rounding).
    """

    batch_limit: float

    @property
    def can_be_padded(self) -> bool:
        """Whether inputs of different lengths may share a batch."""
        ...

    @property
    def parameter_count(self) -> int:
        """How many parameters the network has."""
        ...

    def batch_cost(self, inputs: Sequence[Waveform] | Sequence[str]) -> float:
        """Return the ``batch_limit`` that just lets these inputs share one batch."""
        ...

    def prepare(self, waveform: Waveform | str, /) -> Any:
        """Do what needs no device with one input; threads call this side by side.

        Raises:
            EncoderError: the input cannot be encoded.
        """
        ...

    def begin(self, prepared: Sequence[Any]) -> Pending:
        """Begin to encode prepared inputs; on a GPU this does not wait for them."""
        ...


@runtime_checkable
class TransformersEncoder(StagedEncoder, Protocol):
    """An encoder around a model of transformers, whose weights can be changed or trained further.

    Attributes:
        model: the module that makes the frames, in evaluation mode; for Whisper the encoder half.
        fixed_seconds: how much audio every clip is padded to, whatever its length; None: it is not.
    """

    model: Any
    fixed_seconds: float | None

    def frames(self, prepared: "Sequence[Any]") -> "list[Tensor]":
        """Run inputs that :meth:`prepare` returned as one padded batch, with gradients where they are wanted.

        Inputs of an encoder that cannot pad go one by one. A text must be of one piece.

        Returns:
            ``(L, T_i, D)`` float32 each, in order, on the device.
        """
        ...
