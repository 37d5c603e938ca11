"""What every encoder is."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sercache.audio import Waveform
from sercache.cache.fingerprint import FeatureSpec

__all__ = ["Encoder", "Frames", "Precision", "Waveform"]

Precision = Literal["float32", "bfloat16"]
"""How a transformers encoder computes; ``bfloat16`` is autocast."""

Frames = NDArray[np.float32]
"""What an encoder gives for one clip: ``(L, T, D)``, one plane per kept layer; nearly always L = 1."""


class Encoder(Protocol):
    """A frozen network that turns one kind of input into frames.

    ``encode`` must not depend on batch mates: the frames of a clip are the same alone and in any batch
    (DESIGN section 7, promise 4). It does not cut long audio into windows, pool over time or change the
    precision; the extraction does that around it.
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
