"""Long recordings in pieces that a Whisper model hears at once, cut where it is quiet."""

import numpy as np

from sercache.audio import Waveform

_FRAME_SECONDS = 0.1
_SEARCHED_SHARE = 1 / 3
"""How much of a piece, at its end, is searched for a quiet place."""


def quiet_pieces(waveform: Waveform, sample_rate_hz: int, longest_seconds: float) -> list[Waveform]:
    """Cut a waveform into pieces of at most ``longest_seconds``, at the quietest places near their ends.

    Args:
        waveform: ``(S,)`` samples.
        sample_rate_hz: how many of them make a second.
        longest_seconds: longest piece.

    Returns:
        Pieces, views of the waveform, which they cover one after the other.
    """
    longest = int(longest_seconds * sample_rate_hz)
    frame = max(1, int(_FRAME_SECONDS * sample_rate_hz))
    pieces: list[Waveform] = []
    while len(waveform) > longest:
        searched = waveform[int(longest * (1 - _SEARCHED_SHARE)) : longest]
        frames = searched[: len(searched) // frame * frame].reshape(-1, frame)
        quietest = int(np.square(frames).mean(axis=1).argmin()) if len(frames) else 0
        cut = longest - len(searched) + quietest * frame + frame // 2
        pieces.append(waveform[:cut])
        waveform = waveform[cut:]
    return [*pieces, waveform]
