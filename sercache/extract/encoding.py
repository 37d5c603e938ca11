"""From what an encoder reads to frames that can be stored: groups, windows, checks, pooling over time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sercache.cache.fingerprint import FeatureSpec
from sercache.encoders.protocol import Encoder, Frames
from sercache.encoders.windows import encode_in_windows
from sercache.errors import EncoderError
from sercache.extract.inputs import EncoderInput, FailedRow

_GROUP_SECONDS_CPU, _GROUP_SECONDS = 20.0, 240.0
"""Audio in one call: on a CPU a Ctrl-C waits for it, and larger batches are no faster."""

_GROUP_TEXTS = 64


@dataclass(frozen=True, slots=True)
class EncodedUtterance:
    """Frames of one utterance, ``(L, T, D)`` float32, finite, pooled over time."""

    source: EncoderInput
    frames: Frames


def encode_rows(
    encoder: Encoder, spec: FeatureSpec, rows: Iterable[EncoderInput | FailedRow], device: str
) -> Iterator[list[EncodedUtterance | FailedRow]]:
    """Yield one list per call of the encoder, all rows in order; a bad row fails alone, not its group."""
    limit_seconds = _GROUP_SECONDS_CPU if device == "cpu" else _GROUP_SECONDS
    for group in _groups(rows, spec, limit_seconds):
        yield _encode_group(encoder, spec, group)


def pool_over_time(frames: Frames, count: int) -> Frames:
    """Average every ``count`` frames into one; a shorter rest at the end is averaged over what it has.

    >>> pool_over_time(np.array([[[1.0], [3.0], [8.0]]], np.float32), 2).tolist()
    [[[2.0], [8.0]]]
    """
    if count == 1:
        return frames
    starts = np.arange(0, frames.shape[1], count)
    lengths = np.diff(starts, append=frames.shape[1])
    return np.asarray(np.add.reduceat(frames, starts, axis=1) / lengths[:, None], dtype=np.float32)


def _groups(
    rows: Iterable[EncoderInput | FailedRow], spec: FeatureSpec, limit_seconds: float
) -> Iterator[list[EncoderInput | FailedRow]]:
    """Gather neighbours, which are of similar length; audio longer than a window goes alone."""
    group: list[EncoderInput | FailedRow] = []
    cost = 0.0
    for row in rows:
        row_cost = 0.0
        if isinstance(row, EncoderInput):
            row_cost = limit_seconds / _GROUP_TEXTS if spec.modality == "text" else row.seconds
        if spec.window_seconds is not None and row_cost > spec.window_seconds:
            row_cost = limit_seconds
        if group and cost + row_cost > limit_seconds:
            yield group
            group, cost = [], 0.0
        group.append(row)
        cost += row_cost
    if group:
        yield group


def _encode_group(
    encoder: Encoder, spec: FeatureSpec, group: Sequence[EncoderInput | FailedRow]
) -> list[EncodedUtterance | FailedRow]:
    inputs = [row for row in group if isinstance(row, EncoderInput)]
    try:
        encoded = iter(_encode(encoder, spec, inputs))
    except _ROW_ERRORS as error:
        if len(inputs) > 1:
            return [result for row in group for result in _encode_group(encoder, spec, [row])]
        return [row if isinstance(row, FailedRow) else _failed(row, error) for row in group]
    return [row if isinstance(row, FailedRow) else _checked(row, next(encoded), spec) for row in group]


_ROW_ERRORS = (EncoderError, RuntimeError, ValueError, IndexError, MemoryError)
"""What networks raise over one odd input, running out of memory included."""


def _encode(encoder: Encoder, spec: FeatureSpec, inputs: Sequence[EncoderInput]) -> list[Frames]:
    if not inputs:
        return []
    texts = [row.content for row in inputs if isinstance(row.content, str)]
    if texts:
        return encoder.encode(texts)
    waveforms = [row.content for row in inputs if not isinstance(row.content, str)]
    if len(waveforms) == 1 and spec.window_seconds is not None and spec.overlap_seconds is not None:
        return [encode_in_windows(encoder, waveforms[0], spec.window_seconds, spec.overlap_seconds)]
    return encoder.encode(waveforms)


def _checked(row: EncoderInput, frames: Frames, spec: FeatureSpec) -> EncodedUtterance | FailedRow:
    wanted = (len(spec.layers), spec.dim)
    if frames.ndim != 3 or (frames.shape[0], frames.shape[2]) != wanted or frames.shape[1] == 0:
        return _failed(
            row, EncoderError(f"frames of shape {frames.shape}, not ({wanted[0]}, T, {wanted[1]})")
        )
    if not np.isfinite(frames).all():
        return _failed(row, EncoderError("the encoder gave values that are not finite (NaN or infinite)"))
    return EncodedUtterance(row, pool_over_time(frames, spec.time_pool))


def _failed(row: EncoderInput, error: Exception) -> FailedRow:
    return FailedRow(row.utterance, "encode", error)
