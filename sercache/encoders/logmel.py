"""``logmel``: log-mel frames with deltas, energy and pitch. Needs no download; numpy only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sercache.cache.fingerprint import FeatureSpec
from sercache.encoders.protocol import Frames, Waveform
from sercache.errors import EncoderError

Array = NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
HOP_SAMPLES = 320
FRAME_SAMPLES = 400
FFT_SAMPLES = 512
MEL_BANDS = 40
LOWEST_HZ, HIGHEST_HZ = 50.0, 7_600.0
FLOOR = 1e-8
"""Added to every power before the logarithm: 80 dB below a full-scale sine."""

PITCH_SAMPLES = 1024
PITCH_LOWEST_HZ, PITCH_HIGHEST_HZ = 60.0, 500.0
PITCH_BAND_HZ = (1_500.0, 2_500.0)
VOICED = 0.45
"""Least normalised autocorrelation of a voiced frame, as in Praat."""
OCTAVE_COST = 0.01
"""Cost of a candidate per octave that it is lower: a period beats its multiples."""

DELTA_REACH = 2
DIM = 3 * (MEL_BANDS + 1) + 2

_CHUNK_FRAMES = 512
"""Frames transformed at once, which bounds memory; the frames do not depend on it."""


class LogMelEncoder:
    """Frames of 25 ms every 20 ms: on the same grid, and as many, as wav2vec2 gives.

    The columns are 40 log-mel bands and log energy, their deltas, their delta-deltas, pitch in octaves above
    60 Hz (0 where unvoiced), and voicing (the normalised autocorrelation at the pitch period, 0 to 1; Boersma
    1993, without the path search).

    The level is left as it is. How loud somebody speaks tells of arousal; and so a frame depends on nothing
    but the 185 ms around it, and long audio in windows gives the frames of a single pass. A gain only adds
    one constant to the 41 static log columns (down to the floor) and touches no other column: whoever wants
    frames without it subtracts their mean over the clip.
    """

    @property
    def spec(self) -> FeatureSpec:
        """What the fingerprint hashes."""
        return FeatureSpec(
            encoder="logmel",
            revision="1",
            modality="audio",
            layers=("last",),
            num_layers=0,
            dim=DIM,
            frame_rate_hz=SAMPLE_RATE_HZ / HOP_SAMPLES,
            sample_rate_hz=SAMPLE_RATE_HZ,
            normalization="none",
            library="sercache",
            options={"mel_bands": MEL_BANDS},
        )

    def encode(self, inputs: Sequence[Waveform] | Sequence[str]) -> list[Frames]:
        """Encode waveforms at 16 kHz; returns one ``(1, T_i, 125)`` array each.

        Raises:
            EncoderError: a waveform is shorter than one frame.
        """
        return [_encode_waveform(waveform) for waveform in inputs]


def frame_count(samples: int) -> int:
    """Return how many frames a waveform of ``samples`` samples has."""
    return max(0, 1 + (samples - FRAME_SAMPLES) // HOP_SAMPLES)


def track_pitch(waveform: Waveform) -> tuple[Array, Array]:
    """Return F0 in Hz and voicing, each ``(T,)``; F0 is the best candidate even where voicing is low.

    A frame without any candidate (silence) has F0 0 and voicing 0.
    """
    count = frame_count(len(waveform))
    before = (PITCH_SAMPLES - FRAME_SAMPLES) // 2
    segments = _segments(np.pad(waveform, (before, PITCH_SAMPLES)), PITCH_SAMPLES, count)  # (T, 1024)
    starts = range(0, count, _CHUNK_FRAMES)
    chunks = [_pitch_of_segments(segments[start : start + _CHUNK_FRAMES]) for start in starts]
    return np.concatenate([f0 for f0, _ in chunks]), np.concatenate([voicing for _, voicing in chunks])


def _encode_waveform(waveform: Waveform | str) -> Frames:
    if isinstance(waveform, str):
        raise EncoderError("encoder 'logmel' reads audio, not text")
    count = frame_count(len(waveform))
    if count == 0:
        raise EncoderError(f"a clip of {len(waveform)} samples is shorter than one frame ({FRAME_SAMPLES})")
    segments = _segments(waveform, FRAME_SAMPLES, count)  # (T, 400)
    chunks = [_static(segments[start : start + _CHUNK_FRAMES]) for start in range(0, count, _CHUNK_FRAMES)]
    static = np.concatenate(chunks)  # (T, 41)
    deltas = _deltas(static)
    f0, voicing = track_pitch(waveform)
    octaves = np.where(voicing >= VOICED, np.log2(np.maximum(f0, PITCH_LOWEST_HZ) / PITCH_LOWEST_HZ), 0)
    columns = (static, deltas, _deltas(deltas), octaves[:, None], voicing[:, None])
    return np.concatenate(columns, axis=1, dtype=np.float32)[None]  # (1, T, 125)


def _segments(waveform: Waveform, length: int, count: int) -> Array:
    """Return a ``(count, length)`` view with one segment per hop."""
    return np.lib.stride_tricks.sliding_window_view(waveform, length)[::HOP_SAMPLES][:count]


def _static(segments: Array) -> Array:
    """Return ``(T, 41)`` log-mel bands and log energy of ``(T, 400)`` segments."""
    spectrum = np.fft.rfft(segments * _WINDOW, FFT_SAMPLES)  # (T, 257)
    power = spectrum.real**2 + spectrum.imag**2
    energy = np.mean(segments**2, axis=1, keepdims=True)  # (T, 1)
    return np.log(np.concatenate([power @ _MEL_FILTERS, energy], axis=1) + np.float32(FLOOR))


def _deltas(columns: Array) -> Array:
    """Return the slope of the regression line over five frames; edge frames are repeated (HTK book, 5.9)."""
    count = len(columns)
    padded = np.pad(columns, ((DELTA_REACH, DELTA_REACH), (0, 0)), mode="edge")
    slope = np.zeros_like(columns)
    for step in range(1, DELTA_REACH + 1):
        ahead = padded[DELTA_REACH + step : DELTA_REACH + step + count]
        behind = padded[DELTA_REACH - step : DELTA_REACH - step + count]
        slope += np.float32(step) * (ahead - behind)
    return slope / np.float32(2 * sum(step**2 for step in range(1, DELTA_REACH + 1)))


def _pitch_of_segments(segments: Array) -> tuple[Array, Array]:
    """Return F0 and voicing of ``(T, 1024)`` segments: the best peak of the normalised autocorrelation."""
    centred = (segments - segments.mean(axis=1, keepdims=True)) * _PITCH_WINDOW  # (T, 1024)
    correlation = _autocorrelation(centred)[:, : _LONGEST_LAG + 2]  # (T, longest lag + 2)
    normal = correlation / np.maximum(correlation[:, :1], FLOOR) / _PITCH_WINDOW_CORRELATION
    # (T, lags) each
    left, here, right = (normal[:, _SHORTEST_LAG + shift : _LONGEST_LAG + 1 + shift] for shift in (-1, 0, 1))
    is_peak = (here > left) & (here >= right) & (here > 0)
    # the parabola through three lags: periods are seldom whole numbers of samples
    curvature = np.minimum(left - 2 * here + right, -np.float32(1e-12))
    shift = np.where(is_peak, np.float32(0.5) * (left - right) / curvature, 0)
    height = np.where(is_peak, here - np.float32(0.25) * (left - right) * shift, 0)
    best = np.argmax(np.where(is_peak, height - _LAG_COST, -np.inf), axis=1)[:, None]  # (T, 1)
    found, lag_shift, voicing = (np.take_along_axis(lags, best, axis=1) for lags in (is_peak, shift, height))
    f0 = np.where(found, SAMPLE_RATE_HZ / (_SHORTEST_LAG + best + lag_shift), 0)
    return f0[:, 0].astype(np.float32), np.clip(voicing[:, 0], 0, 1).astype(np.float32)


def _autocorrelation(segments: Array) -> Array:
    """Return ``(T, 1024)`` linear autocorrelations of the low-passed segments, from their power spectrum."""
    spectrum = np.fft.rfft(segments, 2 * PITCH_SAMPLES)  # (T, 1025)
    correlation = np.fft.irfft((spectrum.real**2 + spectrum.imag**2) * _PITCH_BAND)
    return correlation[:, :PITCH_SAMPLES].astype(np.float32)


def _pitch_band() -> Array:
    """Return ``(1025,)`` weights that fade out from 1.5 to 2.5 kHz, so that peaks are wider than a sample."""
    hz = np.fft.rfftfreq(2 * PITCH_SAMPLES, 1 / SAMPLE_RATE_HZ)
    fade = np.clip((hz - PITCH_BAND_HZ[0]) / (PITCH_BAND_HZ[1] - PITCH_BAND_HZ[0]), 0, 1)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * fade), dtype=np.float32)


def _mel_filters() -> Array:
    """Return ``(257, 40)`` triangles, equally spaced in mel (O'Shaughnessy), each of height one."""
    lowest_mel, highest_mel = _mel(np.array([LOWEST_HZ, HIGHEST_HZ]))
    mel_edges = np.linspace(lowest_mel, highest_mel, MEL_BANDS + 2)
    bins_mel = _mel(np.fft.rfftfreq(FFT_SAMPLES, 1 / SAMPLE_RATE_HZ))
    rising = (bins_mel[:, None] - mel_edges[:-2]) / (mel_edges[1:-1] - mel_edges[:-2])
    falling = (mel_edges[2:] - bins_mel[:, None]) / (mel_edges[2:] - mel_edges[1:-1])
    return np.asarray(np.maximum(0, np.minimum(rising, falling)), dtype=np.float32)


def _mel(hz: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(2595 * np.log10(1 + hz / 700))


def _hann(length: int) -> Array:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


_WINDOW = _hann(FRAME_SAMPLES) / np.float32(FRAME_SAMPLES / 4)  # a full-scale sine then has power one
_MEL_FILTERS = _mel_filters()
_PITCH_WINDOW = _hann(PITCH_SAMPLES)
_PITCH_BAND = _pitch_band()
_SHORTEST_LAG = int(SAMPLE_RATE_HZ / PITCH_HIGHEST_HZ)
_LONGEST_LAG = int(np.ceil(SAMPLE_RATE_HZ / PITCH_LOWEST_HZ))
_LAG_COST = OCTAVE_COST * np.log2(np.arange(_SHORTEST_LAG, _LONGEST_LAG + 1) / _SHORTEST_LAG)
_PITCH_WINDOW_CORRELATION = _autocorrelation(_PITCH_WINDOW[None])[0, : _LONGEST_LAG + 2]
_PITCH_WINDOW_CORRELATION /= _PITCH_WINDOW_CORRELATION[0]
