"""Recordings as bytes."""

import io

import numpy as np
import soundfile

RATE_HZ = 16_000


def wav_bytes(seconds=1.0, *, levels=(0.2,), rate_hz=RATE_HZ, kind="WAV"):
    """Return a tone whose level changes in steps of equal length."""
    count = round(seconds * rate_hz)
    level = np.repeat(levels, -(-count // len(levels)))[:count]
    samples = level * np.sin(2 * np.pi * 220 * np.arange(count) / rate_hz)
    stream = io.BytesIO()
    soundfile.write(stream, samples.astype(np.float32), rate_hz, format=kind)
    return stream.getvalue()


def write_wav(path, seconds, seed):
    """Write noise, the same for the same seed."""
    noise = np.random.default_rng(seed).normal(size=round(seconds * RATE_HZ)) / 8
    soundfile.write(path, noise.clip(-1, 1), RATE_HZ, subtype="PCM_16")
