"""A new encoder: level and zero crossings of every 20 ms."""

from collections.abc import Sequence

import numpy as np

from sercache.cache.fingerprint import FeatureSpec
from sercache.encoders.protocol import Frames, Waveform
from sercache.errors import EncoderError

RATE_HZ, HOP_SAMPLES = 16_000, 320


class LoudnessEncoder:
    spec = FeatureSpec(
        encoder="loudness",
        revision="1",  # raise it when the numbers change: old features are then not taken for new ones
        modality="audio",
        layers=("last",),
        num_layers=0,
        dim=2,
        frame_rate_hz=RATE_HZ / HOP_SAMPLES,
        sample_rate_hz=RATE_HZ,
        normalization="none",
        library="loudness",
    )

    def encode(self, inputs: Sequence[Waveform] | Sequence[str]) -> list[Frames]:
        return [_frames(waveform) for waveform in inputs]


def _frames(waveform: Waveform) -> Frames:
    count = len(waveform) // HOP_SAMPLES
    if count == 0:
        raise EncoderError(f"a clip of {len(waveform)} samples is shorter than one frame ({HOP_SAMPLES})")
    pieces = waveform[: count * HOP_SAMPLES].reshape(count, HOP_SAMPLES)
    level = np.log(np.mean(pieces**2, axis=1) + 1e-8)
    crossings = np.mean(np.diff(np.signbit(pieces), axis=1), axis=1)
    return np.stack([level, crossings], axis=1).astype(np.float32)[None]  # (L, T, D), here L = 1
