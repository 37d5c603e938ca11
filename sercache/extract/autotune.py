"""Choose the fastest precision and batch size of an encoder on this machine's CPU by measuring."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sercache.corpus import Corpus, Utterance
from sercache.encoders.protocol import Encoder, Frames, Precision, StagedEncoder
from sercache.errors import EncoderError
from sercache.extract.encode import EncoderInput, read_input
from sercache.files import read_json, write_json

_CANDIDATES = 64
"""Most utterances that are tried; a corpus whose files are all bad must not be decoded for a sample."""

_STRIDE = 8


def sample_inputs(corpus: Corpus, sample_rate_hz: int | None) -> Iterator[EncoderInput]:
    """Yield readable utterances from all over a corpus, in an order that depends on the ids only.

    Args:
        corpus: the corpus to sample.
        sample_rate_hz: what audio is resampled to; None for text.
    """
    for utterance in _spread_over(corpus.utterances):
        row = read_input(corpus, utterance, sample_rate_hz)
        if isinstance(row, EncoderInput):
            yield row


def _spread_over(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Return candidates from all over a corpus, whatever its order."""
    ordered = sorted(utterances, key=lambda utterance: utterance.id)
    step = max(1, len(ordered) // _CANDIDATES)
    candidates = ordered[::step][:_CANDIDATES]
    stride = max(1, len(candidates) // _STRIDE)
    return [candidates[i] for first in range(stride) for i in range(first, len(candidates), stride)]


AUTOTUNING_NAME = "calibration.json"

SMALLEST_NETWORK = 20_000_000
"""Parameters; a smaller network is never worth the measuring."""

BFLOAT16_TOLERANCE = 1e-2
"""Largest relative error of a clip's frames, against float32, that bfloat16 may have."""

_GAIN = 1.15
"""What another setting must bring before the plain one (float32, one clip at a time) is left."""

_TIMED_SECONDS, _LONGEST_SECONDS = 12.0, 8.0
_TIMED_TEXTS = 12

LoadAtPrecision = Callable[[Precision], Encoder]


@dataclass(frozen=True, slots=True)
class Autotuning:
    """The chosen precision and batch size, and the measurements behind the choice.

    Attributes:
        precision: how the network computes.
        batch_limit: most samples or tokens in one batch, padding included; 0 means one clip at a time.
        speeds: measured speed of each setting, in clips a second.
        bfloat16_error: largest relative error of a clip in bfloat16; None where it was not measured.
    """

    precision: Precision
    batch_limit: float
    speeds: Mapping[str, float]
    bfloat16_error: float | None


def autotune(
    load: LoadAtPrecision, encoder: Encoder, inputs: Sequence[EncoderInput], precisions: Sequence[Precision]
) -> tuple[Autotuning, Encoder] | None:
    """Measure the settings on a few clips; return the choice, and the encoder in that setting.

    Args:
        load: loads the encoder at another precision.
        encoder: the encoder at the first of ``precisions``.
        inputs: clips of the corpus, as :func:`clips_to_time` picks them.
        precisions: the precisions to choose from, the plain one first.

    Returns:
        None where there is nothing to choose: a small network, no readable clip.
    """
    contents: list[Any] = [row.content for row in inputs]
    if not isinstance(encoder, StagedEncoder) or encoder.parameter_count < SMALLEST_NETWORK or not contents:
        return None
    speeds: dict[str, float] = {}
    best: tuple[float, StagedEncoder, Precision, float] | None = None
    expected: list[Frames] | None = None
    error: float | None = None
    for precision in precisions:
        candidate = encoder if precision == precisions[0] else load(precision)
        if not isinstance(candidate, StagedEncoder):
            raise EncoderError(f"encoder '{candidate.spec.encoder}' is another one at another precision")
        plain_limit, candidate.batch_limit = candidate.batch_limit, 0.0
        seconds, frames = _timed(candidate, contents)
        if expected is not None:
            error = max(relative_error(clip, exact) for clip, exact in zip(frames, expected, strict=True))
            if error > BFLOAT16_TOLERANCE:
                speeds[f"{precision}, one clip"] = len(contents) / seconds
                continue
        expected = expected or frames
        best = _better(best, (seconds, candidate, precision, 0.0))
        speeds[f"{precision}, one clip"] = len(contents) / seconds
        if candidate.can_be_padded and len(contents) > 1:
            candidate.batch_limit = limit = max(plain_limit, candidate.batch_cost(contents))
            seconds, _ = _timed(candidate, contents)
            speeds[f"{precision}, {len(contents)} clips"] = len(contents) / seconds
            best = _better(best, (seconds, candidate, precision, limit))
    if best is None:
        return None
    _, chosen, precision, limit = best
    chosen.batch_limit = limit
    return Autotuning(precision, limit, speeds, error), chosen


def clips_to_time(rows: Sequence[EncoderInput]) -> list[EncoderInput]:
    """Return the first of ``rows`` that make some 12 seconds together, each of 8 s at most; or some texts."""
    if any(isinstance(row.content, str) for row in rows):
        return list(rows[:_TIMED_TEXTS])
    chosen: list[EncoderInput] = []
    total_seconds = 0.0
    for row in rows:
        if total_seconds >= _TIMED_SECONDS:
            break
        if row.seconds <= _LONGEST_SECONDS:
            chosen.append(row)
            total_seconds += row.seconds
    return chosen


def relative_error(frames: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the norm of the difference over the norm of what was expected."""
    return float(np.linalg.norm(frames - expected) / max(float(np.linalg.norm(expected)), 1e-30))


def save_autotuning(folder: Path, device: str, autotuning: Autotuning) -> None:
    """Write a choice beside the shards of a feature set.

    Raises:
        OSError: the disk is full or the folder is not writable.
    """
    write_json(
        folder / AUTOTUNING_NAME,
        {
            "device": device.partition(":")[0],
            "precision": autotuning.precision,
            "batch_limit": autotuning.batch_limit,
            "clips_per_second": {name: round(speed, 3) for name, speed in autotuning.speeds.items()},
            "bfloat16_error": autotuning.bfloat16_error,
        },
    )


def restore_batch_limit(folder: Path, device: str, encoder: Encoder) -> None:
    """Set the batch limit of an encoder to what was measured on this kind of device, where it was."""
    if not isinstance(encoder, StagedEncoder):
        return
    try:
        kept: Any = read_json(folder / AUTOTUNING_NAME)
        limit = float(kept["batch_limit"])
        if kept["device"] == device.partition(":")[0] and limit >= 0:
            encoder.batch_limit = limit
    except (OSError, ValueError, KeyError, TypeError):
        return  # none was kept, or it cannot be read: the plain batches are right too


def _timed(encoder: StagedEncoder, contents: Sequence[Any]) -> tuple[float, list[Frames]]:
    """Return the shorter of two runs, and the frames."""
    runs = []
    for _ in range(2):
        started = time.perf_counter()
        frames = encoder.encode(contents)
        runs.append(time.perf_counter() - started)
    return min(runs), frames


Choice = tuple[float, StagedEncoder, Precision, float]


def _better(best: Choice | None, other: Choice) -> Choice:
    """Return the faster choice; a later one must bring something, since noise must not decide."""
    return other if best is None or other[0] * _GAIN < best[0] else best
