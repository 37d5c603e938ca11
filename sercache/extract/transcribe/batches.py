"""Transcribe waveforms of any length, and flag doubtful transcripts."""

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from sercache.audio import Waveform
from sercache.extract.transcribe.journal import Transcript
from sercache.extract.transcribe.whisper import PieceTranscript, WhisperTranscriber, quiet_pieces

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
    """Return the flags of a doubtful transcript; none where nothing is wrong.

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
    """Return whether a waveform is too quiet for a voice; a model would make something up."""
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


EMPTY_TRANSCRIPT = Transcript("", ("silence", "empty"), "", 1.0, 0.0)
"""The transcript of a recording without audible sound."""


def transcribe_waveforms(
    transcriber: WhisperTranscriber, waveforms: Sequence[Waveform], batch_size: int
) -> list[Transcript]:
    """Transcribe waveforms ``(S,)`` at the transcriber's rate; the results come in order.

    One that is longer than the model reads is cut at quiet places; what is inaudible is not given to the
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
    transcribed = iter(
        piece
        for first in range(0, len(flat), batch_size)
        for piece in transcriber.transcribe(flat[first : first + batch_size])
    )
    return [_joined([next(transcribed) for _ in some]) if some else EMPTY_TRANSCRIPT for some in pieces]


def _joined(pieces: Sequence[PieceTranscript]) -> Transcript:
    """Put the pieces of one utterance together; a piece in which nobody speaks adds no words."""
    texts, flags = [], dict[str, None]()
    for piece in pieces:
        piece_flags = flags_of(piece.text, piece.no_speech, piece.log_probability / max(1, piece.tokens))
        if "silence" not in piece_flags:
            texts.append(piece.text)
            flags.update(dict.fromkeys(flag for flag in piece_flags if flag == "repeat"))
    text = " ".join(words for words in texts if words)
    if not texts:
        flags["silence"] = None
    if not text:
        flags["empty"] = None
    tokens = sum(piece.tokens for piece in pieces)
    return Transcript(
        text=text,
        flags=tuple(flags),
        language=Counter(piece.language for piece in pieces).most_common(1)[0][0],
        no_speech=min(piece.no_speech for piece in pieces),
        mean_log_probability=sum(piece.log_probability for piece in pieces) / max(1, tokens),
    )
