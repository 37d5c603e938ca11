"""Transcribe waveforms of any length, and flag doubtful transcripts."""

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from sercache.audio import Waveform
from sercache.extract.transcribe.journal import Transcript
from sercache.extract.transcribe.whisper import Heard, WhisperTranscriber, quiet_pieces

Flag = Literal["silence", "repeat", "empty"]

NO_SPEECH_PROBABILITY = 0.6
LOWEST_MEAN_LOG_PROBABILITY = -1.0
HIGHEST_COMPRESSION = 2.4
"""The thresholds of openai/whisper's own transcription (Radford et al. 2023, section 4.5)."""

AUDIBLE_LEVEL = 3e-4
"""Root mean square, 70 dB below full scale: quieter than the noise of any microphone, and no voice."""

LONGEST_LOOP_WORDS = 8
LEAST_REPETITIONS = 4


def flags_of(text: str, no_speech: float, mean_log_probability: float) -> tuple[Flag, ...]:
    """Return what is wrong with a transcript.

    Args:
        text: what the model wrote.
        no_speech: probability that nobody speaks, 0 to 1.
        mean_log_probability: of the tokens that it wrote, the end included.
    """
    flags: list[Flag] = []
    if no_speech > NO_SPEECH_PROBABILITY and mean_log_probability < LOWEST_MEAN_LOG_PROBABILITY:
        flags.append("silence")
    if compression(text) > HIGHEST_COMPRESSION or loops(text):
        flags.append("repeat")
    if not text.strip():
        flags.append("empty")
    return tuple(flags)


def is_inaudible(waveform: Waveform) -> bool:
    """Return whether nothing can be heard in a waveform; a model would make something up."""
    return bool(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))) < AUDIBLE_LEVEL)


def compression(text: str) -> float:
    """Return how many times smaller zlib makes a text; loops compress well.

    >>> compression("so what did you want to say") < 1.5 < compression("no " * 60)
    True
    """
    content = text.encode()
    return len(content) / len(zlib.compress(content)) if content else 0.0


def loops(text: str) -> bool:
    """Return whether a text says the same words again and again, one time right after the other.

    >>> loops("thank you. thank you. thank you. thank you."), loops("no no no, I said no")
    (True, False)
    """
    words = re.findall(r"\w+", text.lower())
    for length in range(1, LONGEST_LOOP_WORDS + 1):
        run = 0
        for index in range(length, len(words)):
            run = run + 1 if words[index] == words[index - length] else 0
            if run >= length * (LEAST_REPETITIONS - 1):
                return True
    return False


NOTHING_HEARD = Transcript("", ("silence", "empty"), "", 1.0, 0.0)
"""Of a recording in which there is nothing to hear."""


def hear(transcriber: WhisperTranscriber, waveforms: Sequence[Waveform], batch_size: int) -> list[Transcript]:
    """Transcribe waveforms ``(S,)`` at the transcriber's rate; the results come in order.

    One that is longer than the model reads is cut at quiet places; what nobody can hear is not given to the
    model, which would make something up.

    Args:
        transcriber: the model.
        waveforms: of any lengths.
        batch_size: pieces that share a batch.
    """
    pieces = [
        []
        if is_inaudible(waveform)
        else quiet_pieces(waveform, transcriber.sample_rate_hz, transcriber.longest_seconds)
        for waveform in waveforms
    ]
    flat = [piece for some in pieces for piece in some]
    written = iter(
        one
        for first in range(0, len(flat), batch_size)
        for one in transcriber.transcribe(flat[first : first + batch_size])
    )
    return [_joined([next(written) for _ in some]) if some else NOTHING_HEARD for some in pieces]


def _joined(heard: Sequence[Heard]) -> Transcript:
    """Put the pieces of one utterance together; a piece in which nobody speaks adds no words."""
    pieces, flags = [], dict[str, None]()
    for one in heard:
        wrong = flags_of(one.text, one.no_speech, one.log_probability / max(1, one.tokens))
        if "silence" not in wrong:
            pieces.append(one.text)
            flags.update(dict.fromkeys(flag for flag in wrong if flag == "repeat"))
    text = " ".join(piece for piece in pieces if piece)
    if not pieces:
        flags["silence"] = None
    if not text:
        flags["empty"] = None
    tokens = sum(one.tokens for one in heard)
    return Transcript(
        text=text,
        flags=tuple(flags),
        language=Counter(one.language for one in heard).most_common(1)[0][0],
        no_speech=min(one.no_speech for one in heard),
        mean_log_probability=sum(one.log_probability for one in heard) / max(1, tokens),
    )
