"""A new encoder: level and zero crossings of every 20 ms."""

import numpy as np

from sercache.cache.fingerprint import FeatureSpec
from sercache.errors import EncoderError

HOP_SAMPLES = 320


class LoudnessEncoder:
    spec = FeatureSpec(
        encoder="loudness",
        revision="1",
        modality="audio",
        layers=("last",),
        num_layers=0,
        dim=2,
        frame_rate_hz=50.0,
        sample_rate_hz=16_000,
        normalization="none",
        library="loudness",
    )

    def encode(self, inputs):
        return [self._frames(waveform) for waveform in inputs]

    def _frames(self, waveform):
        if len(waveform) < HOP_SAMPLES:
            raise EncoderError(f"a clip of {len(waveform)} samples is shorter than one frame ({HOP_SAMPLES})")
        pieces = waveform[: len(waveform) // HOP_SAMPLES * HOP_SAMPLES].reshape(-1, HOP_SAMPLES)
        level = np.log(np.mean(pieces**2, axis=1) + 1e-8)
        crossings = np.mean(np.diff(np.signbit(pieces), axis=1), axis=1)
        return np.stack([level, crossings], axis=1).astype(np.float32)[None]  # (L, T, D), here L = 1
