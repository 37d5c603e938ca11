"""From an utterance to frames: read it, prepare it, encode it, check and pool the frames."""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from sercache.audio import Waveform, load_audio
from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.ledger import Stage
from sercache.cache.sources import Source, read_source
from sercache.corpus import Corpus, Utterance
from sercache.encoders.protocol import Encoder, Frames, Pending, StagedEncoder
from sercache.encoders.windows import encode_in_windows
from sercache.errors import AudioError, CorpusError, EncoderError

Item = TypeVar("Item")
Result = TypeVar("Result")

_ROW_ERRORS = (EncoderError, RuntimeError, ValueError, IndexError, MemoryError)
"""What networks raise over one odd input, running out of memory included."""


@dataclass(frozen=True, slots=True)
class EncoderInput:
    """What an encoder reads of an utterance.

    Attributes:
        utterance: the utterance.
        content: samples at the encoder's rate, or the text.
        seconds: length of the audio; NaN for text.
        source: digest and span of the file or text that it was read from.
    """

    utterance: Utterance
    content: Waveform | str
    seconds: float
    source: Source


@dataclass(frozen=True, slots=True)
class FailedRow:
    """An utterance that gets no features: the stage at which it failed, and the error."""

    utterance: Utterance
    stage: Stage
    error: Exception


@dataclass(frozen=True, slots=True)
class PreparedInput:
    """An encoder's input, after the work that needs no device.

    Attributes:
        row: the input.
        prepared: what the encoder's ``prepare`` returned; None where the encoder has no such stage, or the
            audio is encoded in windows.
        in_windows: whether the audio is longer than the feature set's window.
    """

    row: EncoderInput
    prepared: Any = None
    in_windows: bool = False


@dataclass(frozen=True, slots=True)
class EncodedUtterance:
    """Frames of one input, ``(L, T, D)`` float32, finite, pooled over time."""

    row: EncoderInput
    frames: Frames


Ready = PreparedInput | FailedRow
Finish = Callable[[], list[EncodedUtterance | FailedRow]]
"""Waits for a group, checks its frames and pools them; it may be called once, in any thread."""


def read_input(corpus: Corpus, utterance: Utterance, sample_rate_hz: int | None) -> EncoderInput | FailedRow:
    """Decode one utterance's audio, or read its text; a bad one is a failed row, never an exception.

    Args:
        corpus: holds the folder of the audio.
        utterance: the utterance.
        sample_rate_hz: the rate that audio is resampled to; None reads the text.
    """
    if sample_rate_hz is None:
        if not (utterance.text or "").strip():
            return FailedRow(utterance, "text", CorpusError("no text"))
        source = read_source(corpus, utterance, "text")
        return EncoderInput(utterance, utterance.text or "", math.nan, source)
    if not utterance.audio:
        return FailedRow(utterance, "audio", CorpusError("no audio"))
    try:
        path = corpus.audio_path(utterance)
        waveform = load_audio(path, sample_rate_hz, utterance.start_seconds, utterance.end_seconds)
        source = read_source(corpus, utterance, "audio")
        return EncoderInput(utterance, waveform, len(waveform) / sample_rate_hz, source)
    except (AudioError, OSError, RuntimeError, ValueError, MemoryError) as error:
        return FailedRow(utterance, "decode", error)


def read_ahead(
    read: Callable[[Item], Result], items: Iterable[tuple[Item, float]], *, limit: float, workers: int
) -> Generator[Result, None, None]:
    """Yield ``read(item)`` in order, with the next ones already being read in threads.

    Args:
        read: what to do with an item; an exception in it is raised here.
        items: items and what each costs.
        limit: most cost that is read ahead; one item is always read ahead, whatever it costs.
        workers: number of threads.
    """
    waiting = iter(items)
    ahead: deque[tuple[Future[Result], float]] = deque()
    cost_ahead = 0.0
    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            while True:
                while cost_ahead < limit or not ahead:
                    item = next(waiting, None)
                    if item is None:
                        break
                    ahead.append((pool.submit(read, item[0]), item[1]))
                    cost_ahead += item[1]
                if not ahead:
                    return
                future, cost = ahead.popleft()
                cost_ahead -= cost
                yield future.result()
        finally:
            for future, _ in ahead:
                future.cancel()


def prepare_input(encoder: Encoder, spec: FeatureSpec, row: EncoderInput | FailedRow) -> Ready:
    """Do the part of the encoding that needs no device; several threads may call this at once."""
    if isinstance(row, FailedRow):
        return row
    if spec.window_seconds is not None and row.seconds > spec.window_seconds:
        return PreparedInput(row, in_windows=True)
    if not isinstance(encoder, StagedEncoder):
        return PreparedInput(row)
    try:
        return PreparedInput(row, encoder.prepare(row.content))
    except _ROW_ERRORS as error:
        return FailedRow(row.utterance, "encode", error)


def start_encoding(encoder: Encoder, spec: FeatureSpec, group: Sequence[Ready]) -> Finish:
    """Start to encode a group of rows; the results come in the order of the rows.

    A bad row fails alone, not its group: a group that raises is encoded in halves.
    """
    rows = [ready for ready in group if isinstance(ready, PreparedInput)]
    try:
        fetch = _start_batch(encoder, [ready for ready in rows if not ready.in_windows])
        windowed = [_encode_in_windows(encoder, spec, ready.row) for ready in rows if ready.in_windows]
    except _ROW_ERRORS as error:
        if len(rows) > 1:
            _halve_batches(encoder, error)
            middle = len(group) // 2
            halves = [start_encoding(encoder, spec, half) for half in (group[:middle], group[middle:])]
            return lambda: [result for finish in halves for result in finish()]
        failed: list[EncodedUtterance | FailedRow] = [
            ready if isinstance(ready, FailedRow) else FailedRow(ready.row.utterance, "encode", error)
            for ready in group
        ]
        return lambda: failed

    def finish() -> list[EncodedUtterance | FailedRow]:
        whole_frames, windowed_frames = iter(fetch()), iter(windowed)
        results: list[EncodedUtterance | FailedRow] = []
        for ready in group:
            if isinstance(ready, FailedRow):
                results.append(ready)
            else:
                frames = next(windowed_frames if ready.in_windows else whole_frames)
                results.append(_check_and_pool(ready.row, frames, spec))
        return results

    return finish


def encode_rows(
    encoder: Encoder, spec: FeatureSpec, rows: Iterable[EncoderInput | FailedRow], limit_seconds: float
) -> Iterator[EncodedUtterance | FailedRow]:
    """Yield what becomes of rows, in order; neighbours share a call of at most ``limit_seconds``."""
    ready = (prepare_input(encoder, spec, row) for row in rows)
    for group in group_by_seconds(((item, _audio_seconds(item)) for item in ready), limit_seconds):
        yield from start_encoding(encoder, spec, group)()


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
    starts = np.arange(0, frames.shape[1], count)  # (T / count,)
    lengths = np.diff(starts, append=frames.shape[1])
    sums = np.add.reduceat(frames, starts, axis=1)  # (L, T / count, D)
    return np.asarray(sums / lengths[:, None], dtype=np.float32)


def _start_batch(encoder: Encoder, rows: Sequence[PreparedInput]) -> Pending:
    """Start to encode rows of which each fits into one window."""
    if not rows:
        return list
    if isinstance(encoder, StagedEncoder):
        return encoder.begin([ready.prepared for ready in rows])
    contents: list[Any] = [ready.row.content for ready in rows]
    frames = encoder.encode(contents)
    return lambda: frames


def _encode_in_windows(encoder: Encoder, spec: FeatureSpec, row: EncoderInput) -> Frames:
    if isinstance(row.content, str) or spec.window_seconds is None or spec.overlap_seconds is None:
        raise EncoderError("text has no windows in seconds")
    return encode_in_windows(encoder, row.content, spec.window_seconds, spec.overlap_seconds)


def _halve_batches(encoder: Encoder, error: Exception) -> None:
    """Halve the batches of an encoder whose device ran out of memory; the next group then fits."""
    if isinstance(encoder, StagedEncoder) and type(error).__name__ == "OutOfMemoryError":
        encoder.batch_limit /= 2


def _check_and_pool(row: EncoderInput, frames: Frames, spec: FeatureSpec) -> EncodedUtterance | FailedRow:
    layers, dim = len(spec.layers), spec.dim
    if frames.ndim != 3 or (frames.shape[0], frames.shape[2]) != (layers, dim) or frames.shape[1] == 0:
        error = EncoderError(f"frames of shape {frames.shape}, not ({layers}, T, {dim})")
        return FailedRow(row.utterance, "encode", error)
    if not np.isfinite(frames).all():
        error = EncoderError("the encoder gave values that are not finite (NaN or infinite)")
        return FailedRow(row.utterance, "encode", error)
    return EncodedUtterance(row, pool_over_time(frames, spec.time_pool))


def _audio_seconds(ready: Ready) -> float:
    """Return the length of a row's audio; text and rows that failed count nothing."""
    if isinstance(ready, FailedRow) or isinstance(ready.row.content, str):
        return 0.0
    return ready.row.seconds
