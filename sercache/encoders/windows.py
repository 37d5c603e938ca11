"""Long recordings in overlapping windows, joined without a seam."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sercache.encoders.protocol import Encoder, Frames, Waveform
from sercache.errors import EncoderError


def encode_in_windows(
    encoder: Encoder, waveform: Waveform, window_seconds: float, overlap_seconds: float
) -> Frames:
    """Encode a waveform of any length in windows of at most ``window_seconds``.

    A waveform that fits into one window is encoded in a single pass. A longer one is covered by windows of
    nearly equal length, spread evenly, that share ``overlap_seconds`` or a little more; where two windows
    meet, one fades into the other. Windows start on the encoder's own frame grid, so there are as many frames
    as a single pass would give (up to rounding, where a frame is not a whole number of samples).

    Args:
        encoder: an audio encoder.
        waveform: ``(S,)`` samples at the encoder's sampling rate.
        window_seconds: longest stretch that the encoder sees at once.
        overlap_seconds: least stretch that neighbouring windows share.

    Returns:
        ``(L, T, D)`` frames.

    Raises:
        EncoderError: the overlap leaves no room to move on, or a window cannot be encoded.
    """
    sample_rate_hz, frame_rate_hz = encoder.spec.sample_rate_hz, encoder.spec.frame_rate_hz
    if sample_rate_hz is None or frame_rate_hz is None:
        raise EncoderError(f"encoder '{encoder.spec.encoder}' reads text, which has no windows in seconds")
    window_samples = round(window_seconds * sample_rate_hz)
    if len(waveform) <= window_samples:
        return encoder.encode([waveform])[0]
    first = encoder.encode([waveform[:window_samples]])[0]  # (L, T_window, D)
    longest_step = first.shape[1] - math.ceil(overlap_seconds * frame_rate_hz)
    if longest_step < 1:
        raise EncoderError(
            f"windows of {window_seconds:g} s cannot overlap by {overlap_seconds:g} s: "
            "the overlap must be shorter than the window"
        )
    samples_per_frame = sample_rate_hz / frame_rate_hz
    last_start = math.ceil((len(waveform) - window_samples) / samples_per_frame)
    count = math.ceil(last_start / longest_step) + 1
    starts = [round(index * last_start / (count - 1)) for index in range(count)]
    positions = [round(start * samples_per_frame) for start in starts[1:]]
    others = encoder.encode([waveform[position : position + window_samples] for position in positions])
    return cross_fade([first, *others], starts)


def cross_fade(parts: Sequence[Frames], starts: Sequence[int]) -> Frames:
    """Join overlapping stretches of frames; the weights at every frame sum to one.

    Args:
        parts: ``(L, T_i, D)`` frames each.
        starts: the frame at which each part starts, ascending, with no gap between the parts.

    Returns:
        ``(L, T, D)`` float32, where T is the end of the longest-reaching part.
    """
    ends = [start + part.shape[1] for start, part in zip(starts, parts, strict=True)]
    planes, _, dim = parts[0].shape
    joined = np.zeros((planes, max(ends), dim))  # (L, T, D)
    total = np.zeros(max(ends))  # (T,)
    for index, (part, start, end) in enumerate(zip(parts, starts, ends, strict=True)):
        fade_in = ends[index - 1] - start if index > 0 else 0
        fade_out = end - starts[index + 1] if index + 1 < len(parts) else 0
        weights = _ramp(end - start, fade_in) * _ramp(end - start, fade_out)[::-1]  # (T_i,)
        joined[:, start:end] += part * weights[:, None]
        total[start:end] += weights
    return (joined / total[:, None]).astype(np.float32)


def _ramp(length: int, rise: int) -> NDArray[np.float64]:
    """Return ``(length,)`` weights that rise linearly over ``rise`` frames and stay at one."""
    return np.minimum(np.arange(1, length + 1) / (rise + 1), 1.0)
