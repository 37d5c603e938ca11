"""What every encoder is."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sercache.cache.fingerprint import FeatureSpec

Waveform = NDArray[np.float32]
"""Mono samples in [-1, 1], ``(S,)``, at the encoder's sampling rate."""

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
