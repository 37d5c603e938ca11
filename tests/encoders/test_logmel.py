"""logmel against a slow implementation of its definition, and against tones whose pitch is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.encoders.logmel import LogMelEncoder, frame_count, track_pitch
from sercache.errors import EncoderError

ENCODER = LogMelEncoder()


def harmonic_tone(f0: float, seconds: float, rate_hz: int = 16_000) -> np.ndarray:
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    partials = range(1, min(10, int(7_000 / f0)) + 1)
    return sum(np.sin(2 * np.pi * f0 * k * time + k) / k for k in partials).astype(np.float32) * 0.2


def slow_static(waveform: np.ndarray) -> np.ndarray:
    """Log-mel bands and log energy, by a direct DFT and plain loops in double precision."""

    def mel(hz: float) -> float:
        return 2595 * math.log10(1 + hz / 700)

    low, high = mel(50), mel(7_600)
    edges = [low + (high - low) * i / 41 for i in range(42)]
    times = np.arange(400)
    rows = []
    for start in range(0, len(waveform) - 399, 320):
        frame = waveform[start : start + 400].astype(np.float64)
        window = (0.5 - 0.5 * np.cos(2 * np.pi * times / 400)) / 100
        power = [abs(sum(frame * window * np.exp(-2j * np.pi * k * times / 512))) ** 2 for k in range(257)]
        row = []
        for band in range(40):
            total = 0.0
            for k in range(257):
                position = mel(k * 16_000 / 512)
                rising = (position - edges[band]) / (edges[band + 1] - edges[band])
                falling = (edges[band + 2] - position) / (edges[band + 2] - edges[band + 1])
                total += max(0.0, min(rising, falling)) * power[k]
            row.append(math.log(total + 1e-8))
        rows.append([*row, math.log(np.mean(frame**2) + 1e-8)])
    return np.array(rows)


def slow_deltas(columns: np.ndarray) -> np.ndarray:
    last = len(columns) - 1
    at = lambda t: columns[min(max(t, 0), last)]  # noqa: E731
    return np.array([sum(s * (at(t + s) - at(t - s)) for s in (1, 2)) / 10 for t in range(len(columns))])


def test_equals_a_slow_implementation() -> None:
    rng = np.random.default_rng(1)
    waveform = (harmonic_tone(150, 0.25) + 0.01 * rng.standard_normal(4_000)).astype(np.float32)
    [[frames]] = ENCODER.encode([waveform])
    static = slow_static(waveform)
    np.testing.assert_allclose(frames[:, :41], static, atol=2e-3)
    np.testing.assert_allclose(frames[:, 41:82], slow_deltas(static), atol=2e-3)
    np.testing.assert_allclose(frames[:, 82:123], slow_deltas(slow_deltas(static)), atol=2e-3)


@settings(max_examples=30, deadline=None)
@given(f0=st.floats(70, 450), gain=st.floats(0.01, 5), noise=st.floats(0, 0.02))
def test_pitch_of_a_tone_within_two_percent(f0: float, gain: float, noise: float) -> None:
    tone = harmonic_tone(f0, 0.5)
    tone = gain * (tone + noise * np.random.default_rng(0).standard_normal(len(tone)).astype(np.float32))
    estimated, voicing = track_pitch(tone.astype(np.float32))
    inside = slice(2, -2)
    np.testing.assert_allclose(estimated[inside], f0, rtol=0.02)
    assert voicing[inside].min() > 0.8


def test_noise_and_silence_are_unvoiced() -> None:
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    [[frames]] = ENCODER.encode([noise])
    assert np.median(frames[:, -1]) < 0.45
    [[still]] = ENCODER.encode([np.zeros(8_000, np.float32)])
    assert np.isfinite(still).all()
    assert (still[:, -2:] == 0).all()


@given(samples=st.integers(400, 40_000))
@settings(max_examples=20, deadline=None)
def test_as_many_frames_as_wav2vec2(samples: int) -> None:
    count = samples
    for kernel, stride in [(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)]:
        count = (count - kernel) // stride + 1
    [frames] = ENCODER.encode([np.ones(samples, np.float32)])
    assert frames.shape == (1, count, 125)
    assert frame_count(samples) == count


def test_gain_moves_only_the_static_columns() -> None:
    waveform = harmonic_tone(200, 0.5) + 0.1 * np.random.default_rng(0).standard_normal(8_000)
    [[quiet], [loud]] = ENCODER.encode([waveform.astype(np.float32), (4 * waveform).astype(np.float32)])
    np.testing.assert_allclose(loud[:, :41] - quiet[:, :41], math.log(16), atol=0.02)
    np.testing.assert_allclose(loud[:, 41:], quiet[:, 41:], atol=0.02)


def test_frames_ignore_batch_mates_and_chunks() -> None:
    rng = np.random.default_rng(0)
    long = rng.standard_normal(16_000 * 25).astype(np.float32)
    short = long[: 16_000 * 3]
    together = ENCODER.encode([short, long])
    np.testing.assert_array_equal(together[0], ENCODER.encode([short])[0])
    np.testing.assert_allclose(together[1][:, :140], together[0][:, :140], atol=1e-4)


def test_clip_shorter_than_a_frame_is_an_error() -> None:
    with pytest.raises(EncoderError, match="shorter than one frame"):
        ENCODER.encode([np.ones(399, np.float32)])
