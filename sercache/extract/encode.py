"""From what an encoder reads to frames that can be stored: prepared, in windows, checked, pooled."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sercache.cache.fingerprint import FeatureSpec
from sercache.encoders.protocol import Encoder, Frames, Pending, StagedEncoder
from sercache.encoders.windows import encode_in_windows
from sercache.errors import EncoderError
from sercache.extract.inputs import EncoderInput, FailedRow


@dataclass(frozen=True, slots=True)
class PreparedInput:
    """What an encoder reads of one utterance, and what it made of it ahead of its turn.

    Attributes:
        row: the utterance.
        prepared: what the encoder's ``prepare`` returned; None where its encoder has no such stage, or the
            audio goes through windows.
    """

    row: EncoderInput
    prepared: Any = None


@dataclass(frozen=True, slots=True)
class EncodedUtterance:
    """Frames of one utterance, ``(L, T, D)`` float32, finite, pooled over time."""

    source: EncoderInput
    frames: Frames


Ready = PreparedInput | FailedRow
Finish = Callable[[], list[EncodedUtterance | FailedRow]]
"""Waits for a group, checks it and pools it; it may be called in any thread."""


def prepare_row(encoder: Encoder, spec: FeatureSpec, row: EncoderInput | FailedRow) -> Ready:
    """Do what needs no device; threads call this side by side."""
    if isinstance(row, FailedRow):
        return row
    if not isinstance(encoder, StagedEncoder) or _needs_windows(row, spec):
        return PreparedInput(row)
    try:
        return PreparedInput(row, encoder.prepare(row.content))
    except _ROW_ERRORS as error:
        return _failed(row, error)


def begin_group(encoder: Encoder, spec: FeatureSpec, group: Sequence[Ready]) -> Finish:
    """Begin to encode a group of rows; a bad row fails alone, not its group.

    The results come in the order of the rows.
    """
    inputs = [ready for ready in group if isinstance(ready, PreparedInput)]
    try:
        pending = _begin(encoder, spec, inputs)
    except _ROW_ERRORS as error:
        if len(inputs) > 1:
            _narrow_batches(encoder, error)
            middle = len(group) // 2
            halves = [begin_group(encoder, spec, half) for half in (group[:middle], group[middle:])]
            return lambda: [result for finish in halves for result in finish()]
        failed: list[EncodedUtterance | FailedRow] = [
            ready if isinstance(ready, FailedRow) else _failed(ready.row, error) for ready in group
        ]
        return lambda: failed

    def finish() -> list[EncodedUtterance | FailedRow]:
        encoded = iter(pending())
        return [
            ready if isinstance(ready, FailedRow) else _checked(ready.row, next(encoded), spec)
            for ready in group
        ]

    return finish


def encode_rows(
    encoder: Encoder, spec: FeatureSpec, rows: Iterable[EncoderInput | FailedRow], limit_seconds: float
) -> Iterator[EncodedUtterance | FailedRow]:
    """Yield what becomes of rows, in order; neighbours share a call of at most ``limit_seconds``."""
    ready = (prepare_row(encoder, spec, row) for row in rows)
    for group in group_by_seconds(((one, _seconds(one)) for one in ready), limit_seconds):
        yield from begin_group(encoder, spec, group)()


def group_by_seconds(items: Iterable[tuple[Any, float]], limit_seconds: float) -> Iterator[list[Any]]:
    """Gather neighbours until they are ``limit_seconds`` long together; a longer one goes alone.

    >>> list(group_by_seconds([("a", 9), ("b", 3), ("c", 2)], 5))
    [['a'], ['b', 'c']]
    """
    group: list[Any] = []
    filled_seconds = 0.0
    for item, seconds in items:
        if group and filled_seconds + seconds > limit_seconds:
            yield group
            group, filled_seconds = [], 0.0
        group.append(item)
        filled_seconds += seconds
    if group:
        yield group


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


_ROW_ERRORS = (EncoderError, RuntimeError, ValueError, IndexError, MemoryError)
"""What networks raise over one odd input, running out of memory included."""


def _begin(encoder: Encoder, spec: FeatureSpec, inputs: Sequence[PreparedInput]) -> Pending:
    in_windows = {index for index, ready in enumerate(inputs) if _needs_windows(ready.row, spec)}
    at_once = [ready for index, ready in enumerate(inputs) if index not in in_windows]
    pending = _begin_at_once(encoder, at_once) if at_once else list
    long = {index: _encode_in_windows(encoder, spec, inputs[index].row) for index in in_windows}

    def finish() -> list[Frames]:
        short = iter(pending())
        return [long[index] if index in long else next(short) for index in range(len(inputs))]

    return finish


def _begin_at_once(encoder: Encoder, inputs: Sequence[PreparedInput]) -> Pending:
    if isinstance(encoder, StagedEncoder):
        return encoder.begin([ready.prepared for ready in inputs])
    contents: list[Any] = [ready.row.content for ready in inputs]
    frames = encoder.encode(contents)
    return lambda: frames


def _needs_windows(row: EncoderInput, spec: FeatureSpec) -> bool:
    return spec.window_seconds is not None and row.seconds > spec.window_seconds


def _encode_in_windows(encoder: Encoder, spec: FeatureSpec, row: EncoderInput) -> Frames:
    if isinstance(row.content, str) or spec.window_seconds is None or spec.overlap_seconds is None:
        raise EncoderError("text has no windows in seconds")
    return encode_in_windows(encoder, row.content, spec.window_seconds, spec.overlap_seconds)


def _narrow_batches(encoder: Encoder, error: Exception) -> None:
    """Halve the batches of an encoder whose device ran out of memory; the next group then fits."""
    if isinstance(encoder, StagedEncoder) and type(error).__name__ == "OutOfMemoryError":
        encoder.batch_limit /= 2


def _checked(row: EncoderInput, frames: Frames, spec: FeatureSpec) -> EncodedUtterance | FailedRow:
    wanted = (len(spec.layers), spec.dim)
    if frames.ndim != 3 or (frames.shape[0], frames.shape[2]) != wanted or frames.shape[1] == 0:
        return _failed(
            row, EncoderError(f"frames of shape {frames.shape}, not ({wanted[0]}, T, {wanted[1]})")
        )
    if not np.isfinite(frames).all():
        return _failed(row, EncoderError("the encoder gave values that are not finite (NaN or infinite)"))
    return EncodedUtterance(row, pool_over_time(frames, spec.time_pool))


def _seconds(ready: Ready) -> float:
    """Return the length of a row's audio; text and rows that failed count little."""
    if isinstance(ready, FailedRow) or isinstance(ready.row.content, str):
        return 0.0
    return ready.row.seconds


def _failed(row: EncoderInput, error: Exception) -> FailedRow:
    return FailedRow(row.utterance, "encode", error)
