"""A small source-filter speech synthesiser (Fant 1960; Klatt 1980), good enough to carry prosody.

Glottal pulses of Rosenberg's shape (1971), with jitter, shimmer and breath, go through three moving formant
resonators; frication is noise through a resonator of its own. It sounds like a robot, on purpose: what the
sample needs is pitch, loudness, rate, timbre and their movement, from a file that can be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from sercache.data.lexicon import PHONEMES, WORDS, Phoneme

SAMPLE_RATE_HZ = 16_000
_BLOCK = 80
"""Samples between two changes of the filters: 5 ms."""

_BANDWIDTHS_HZ = (80.0, 110.0, 160.0)
_EDGE_SECONDS = 0.08
_PEAK = 0.8
"""Loudest sample: louder clips are turned down, never clipped."""


@dataclass(frozen=True, slots=True)
class Voice:
    """How one clip is spoken.

    Attributes:
        pitch_hz: mean fundamental frequency.
        pitch_range: standard deviation of the pitch contour, in semitones.
        final_rise: semitones that the pitch rises over the clip's last third; negative falls.
        rate: speaking rate; 1 is the lexicon's.
        loudness_db: level against a common reference.
        tension: 0 (lax, dull) to 1 (tense, bright): open quotient and spectral tilt.
        breath: strength of aspiration.
        jitter: relative irregularity of the pitch periods.
        pause: chance of a pause after a word.
        tract: scale of all formants; above 1 is a shorter vocal tract.
    """

    pitch_hz: float
    pitch_range: float
    final_rise: float
    rate: float
    loudness_db: float
    tension: float
    breath: float
    jitter: float
    pause: float
    tract: float


def synthesize(text: str, voice: Voice, generator: np.random.Generator) -> NDArray[np.float32]:
    """Return a sentence as 16 kHz samples in [-1, 1], ``(S,)``.

    Args:
        text: words of the lexicon, separated by spaces.
        voice: how it is spoken.
        generator: the source of randomness.
    """
    phonemes, blocks = _timeline(text, voice, generator)
    size = sum(blocks) * _BLOCK
    starts = np.cumsum([0, *blocks[:-1]])
    centres = starts + np.asarray(blocks) / 2
    grid = np.arange(sum(blocks))

    def track(values: Sequence[float]) -> NDArray[np.float64]:
        """Interpolate one value per phoneme to one per block; neighbours melt into each other."""
        return np.interp(grid, centres, values)

    formants = np.stack(
        [voice.tract * track([one.formants[index] for one in phonemes]) for index in range(3)], axis=1
    )
    pitch = _pitch(size, voice, generator)
    voiced = np.repeat(track([one.voicing for one in phonemes]), _BLOCK)
    source = voiced * _glottal_source(pitch, voice, generator)
    speech = _resonate(source, formants, _BANDWIDTHS_HZ)
    speech = speech / (np.sqrt(np.mean(speech**2)) + 1e-9)
    noise = np.repeat(track([one.noise for one in phonemes]), _BLOCK) * generator.normal(size=size)
    noise_hz = voice.tract * track([one.noise_hz for one in phonemes])
    frication = _resonate(noise, np.minimum(noise_hz, 7000.0)[:, None], (900.0,))
    speech += 2.0 * frication / (np.abs(frication).max() + 1e-9) * (0.5 + 0.5 * voice.tension)
    edge = np.minimum(np.arange(size), np.arange(size)[::-1]) / (SAMPLE_RATE_HZ * _EDGE_SECONDS)
    speech *= 0.06 * 10 ** (voice.loudness_db / 20) * np.minimum(edge, 1)
    speech *= min(1.0, _PEAK / np.abs(speech).max())
    room = 0.002 * generator.normal(size=size)
    return (speech + room).astype(np.float32)


def _timeline(text: str, voice: Voice, generator: np.random.Generator) -> tuple[list[Phoneme], list[int]]:
    """Return the phonemes of a text and how many blocks each lasts."""
    names: list[str] = ["_"]
    for word in text.split():
        names += WORDS[word].split()
        if generator.random() < voice.pause:
            names.append("_")
    names.append("_")
    phonemes = [PHONEMES[name] for name in names]
    stretched = [one.seconds / voice.rate * generator.uniform(0.85, 1.15) for one in phonemes]
    return phonemes, [max(4, round(seconds * SAMPLE_RATE_HZ / _BLOCK)) for seconds in stretched]


def _pitch(size: int, voice: Voice, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return the fundamental frequency of every sample: a slow random contour, declination, a final move."""
    time = np.linspace(0, 1, size)
    knots = max(4, size // 4000)
    contour = np.interp(time, np.linspace(0, 1, knots), generator.normal(size=knots))
    contour = (contour - contour.mean()) / (contour.std() + 1e-9)
    semitones = voice.pitch_range * contour - 2.0 * (time - 0.5)
    semitones += voice.final_rise * np.clip((time - 2 / 3) * 3, 0, 1)
    return voice.pitch_hz * 2 ** (semitones / 12)


def _glottal_source(
    pitch: NDArray[np.float64], voice: Voice, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return the derivative of the glottal flow, with breath where the glottis is open."""
    step = pitch / SAMPLE_RATE_HZ
    period = np.floor(np.cumsum(step)).astype(np.int64)
    irregular = 1 + voice.jitter * generator.normal(size=period[-1] + 2)
    phase = np.cumsum(step * irregular[period]) % 1.0
    open_quotient = 0.75 - 0.35 * voice.tension
    rising, falling = 0.65 * open_quotient, 0.35 * open_quotient
    flow = np.where(
        phase < rising,
        0.5 * (1 - np.cos(np.pi * phase / rising)),
        np.where(phase < open_quotient, np.cos(0.5 * np.pi * (phase - rising) / falling), 0.0),
    )
    shimmer = 1 + 2 * voice.jitter * generator.normal(size=period[-1] + 2)
    pulses = np.diff(flow * shimmer[period], prepend=0.0)
    breath = voice.breath * 0.03 * flow * generator.normal(size=len(flow))
    dullness = 0.9 - 0.85 * voice.tension
    return np.asarray(lfilter([1 - dullness], [1, -dullness], pulses) + breath)


def _resonate(
    signal: NDArray[np.float64], centres_hz: NDArray[np.float64], bandwidths_hz: Sequence[float]
) -> NDArray[np.float64]:
    """Filter by a cascade of two-pole resonators whose centres ``(blocks, R)`` move from block to block."""
    for column, bandwidth in enumerate(bandwidths_hz):
        radius = np.exp(-np.pi * bandwidth / SAMPLE_RATE_HZ)
        filtered, memory = np.empty_like(signal), np.zeros(2)
        for block, centre in enumerate(centres_hz[:, column]):
            cosine = 2 * radius * np.cos(2 * np.pi * centre / SAMPLE_RATE_HZ)
            part = slice(block * _BLOCK, (block + 1) * _BLOCK)
            gain = 1 - cosine + radius**2
            filtered[part], memory = lfilter([gain], [1, -cosine, radius**2], signal[part], zi=memory)
        signal = filtered
    return signal
