"""Windows: exact lengths, no seam, and a single pass where one window is enough."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.cache.fingerprint import FeatureSpec
from sercache.encoders.char_ngrams import CharNgramsEncoder
from sercache.encoders.logmel import LogMelEncoder
from sercache.encoders.windows import cross_fade, encode_in_windows
from sercache.errors import EncoderError

LOGMEL = LogMelEncoder()


class ConstantEncoder:
    """Frames of ones at any rate; notes the longest stretch it was shown."""

    def __init__(self, frame_rate_hz: float) -> None:
        self.longest = 0
        self.calls = 0
        self.spec = FeatureSpec(
            "constant", "1", "audio", ("last",), 0, 3, frame_rate_hz, 16_000, "none", "test"
        )

    def encode(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.calls += len(inputs)
        self.longest = max(self.longest, *map(len, inputs))
        per_frame = 16_000 / self.spec.frame_rate_hz
        return [np.full((1, max(1, int(len(clip) / per_frame)), 3), 7.5, np.float32) for clip in inputs]


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(1_600, 16_000 * 9),
    window=st.floats(0.5, 5),
    overlap=st.sampled_from([0.0, 0.1, 0.3]),
)
def test_local_encoder_gives_the_single_pass(samples: int, window: float, overlap: float) -> None:
    waveform = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    [whole] = LOGMEL.encode([waveform])
    joined = encode_in_windows(LOGMEL, waveform, window, overlap)
    assert joined.shape == whole.shape
    assert joined.dtype == np.float32
    np.testing.assert_allclose(joined[:, :, :41], whole[:, :, :41], atol=1e-4)


def test_frames_away_from_seams_equal_the_single_pass() -> None:
    waveform = np.random.default_rng(0).standard_normal(16_000 * 6).astype(np.float32)
    [whole] = LOGMEL.encode([waveform])
    joined = encode_in_windows(LOGMEL, waveform, 3.3, 0.4)
    differing = np.flatnonzero(np.abs(joined - whole).max(axis=(0, 2)) > 1e-4)
    assert len(differing) > 0
    assert 135 - 6 <= differing.min() <= differing.max() <= 164 + 6


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(1_600, 16_000 * 60),
    frame_rate_hz=st.sampled_from([50.0, 98.0, 12.5, 25.0]),
    window=st.floats(0.5, 30),
    overlap=st.floats(0, 0.3),
)
def test_constant_stays_constant(samples: int, frame_rate_hz: float, window: float, overlap: float) -> None:
    encoder = ConstantEncoder(frame_rate_hz)
    joined = encode_in_windows(encoder, np.ones(samples, np.float32), window, overlap)
    np.testing.assert_allclose(joined, 7.5, rtol=1e-6)
    assert abs(joined.shape[1] - max(1, int(samples * frame_rate_hz / 16_000))) <= 1
    assert encoder.longest <= round(window * 16_000)


def test_short_clip_is_a_single_pass() -> None:
    encoder = ConstantEncoder(50.0)
    encode_in_windows(encoder, np.ones(16_000, np.float32), 1.0, 0.2)
    assert encoder.calls == 1


def test_cross_fade_is_linear() -> None:
    ones, threes = np.full((1, 5, 1), 1.0, np.float32), np.full((1, 5, 1), 3.0, np.float32)
    joined = cross_fade([ones, threes], [0, 2])
    np.testing.assert_allclose(joined[0, :, 0], [1, 1, 1.5, 2, 2.5, 3, 3])


def test_overlap_as_long_as_the_window_is_an_error() -> None:
    with pytest.raises(EncoderError, match="shorter than the window"):
        encode_in_windows(LOGMEL, np.ones(64_000, np.float32), 1.0, 1.0)


def test_text_has_no_windows() -> None:
    with pytest.raises(EncoderError, match="reads text"):
        encode_in_windows(CharNgramsEncoder(), np.ones(64_000, np.float32), 1.0, 0.1)
