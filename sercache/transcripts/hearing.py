"""Waveforms of any lengths through a transcriber: what is said in each, and what is doubtful about it."""

from collections import Counter
from collections.abc import Sequence

from sercache.audio import Waveform
from sercache.transcripts.flags import flags_of, is_inaudible
from sercache.transcripts.journal import Transcript
from sercache.transcripts.whisper import Heard, WhisperTranscriber
from sercache.transcripts.windows import quiet_pieces

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
