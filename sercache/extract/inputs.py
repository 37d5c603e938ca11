"""From an utterance to what encoders read, some utterances ahead of them."""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from sercache.audio import Waveform, load_audio
from sercache.cache.ledger import Stage
from sercache.cache.sources import Source, read_source
from sercache.corpus import Corpus, Utterance
from sercache.errors import AudioError, CorpusError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class EncoderInput:
    """What an encoder reads of one utterance.

    Attributes:
        utterance: whose input this is.
        content: samples at the encoder's rate, or the text.
        seconds: length of the audio; NaN for text.
        source: what it was read from.
    """

    utterance: Utterance
    content: Waveform | str
    seconds: float
    source: Source


@dataclass(frozen=True, slots=True)
class FailedRow:
    """An utterance that has no features, and why."""

    utterance: Utterance
    stage: Stage
    error: Exception


def read_input(corpus: Corpus, utterance: Utterance, sample_rate_hz: int | None) -> EncoderInput | FailedRow:
    """Decode one utterance's audio, or read its text; a bad one is a failed row, never an exception.

    Args:
        corpus: where the utterance finds its audio.
        utterance: which one.
        sample_rate_hz: what audio is resampled to; None for text.
    """
    if sample_rate_hz is None:
        if not (utterance.text or "").strip():
            return FailedRow(utterance, "text", CorpusError("no text"))
        source = read_source(corpus, utterance, "text")
        return EncoderInput(utterance, utterance.text or "", math.nan, source)
    if not utterance.audio:
        return FailedRow(utterance, "audio", CorpusError("no audio"))
    try:
        return _decode(corpus, utterance, sample_rate_hz)
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


def _decode(corpus: Corpus, utterance: Utterance, sample_rate_hz: int) -> EncoderInput:
    path = corpus.audio_path(utterance)
    waveform = load_audio(path, sample_rate_hz, utterance.start_seconds, utterance.end_seconds)
    source = read_source(corpus, utterance, "audio")
    return EncoderInput(utterance, waveform, len(waveform) / sample_rate_hz, source)
