"""What is wrong with a transcript: nothing was said, or the model fell into a loop."""

import re
import zlib
from typing import Literal

import numpy as np

from sercache.audio import Waveform

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
