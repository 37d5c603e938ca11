"""A few utterances from all over a corpus, decoded: what choices and estimates are based on."""

from collections.abc import Iterator, Sequence

from sercache.corpus import Corpus, Utterance
from sercache.extract.inputs import EncoderInput, read_input

_CANDIDATES = 64
"""Most utterances that are tried; a corpus whose files are all bad must not be decoded for a sample."""

_STRIDE = 8


def probe_inputs(corpus: Corpus, sample_rate_hz: int | None) -> Iterator[EncoderInput]:
    """Yield readable utterances from all over a corpus, far ones first; the same corpus gives the same ones.

    Args:
        corpus: where to look.
        sample_rate_hz: what audio is resampled to; None for text.
    """
    for utterance in _spread(corpus.utterances):
        row = read_input(corpus, utterance, sample_rate_hz)
        if isinstance(row, EncoderInput):
            yield row


def _spread(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Return candidates from all over a corpus, whatever its order."""
    ordered = sorted(utterances, key=lambda utterance: utterance.id)
    step = max(1, len(ordered) // _CANDIDATES)
    candidates = ordered[::step][:_CANDIDATES]
    stride = max(1, len(candidates) // _STRIDE)
    return [candidates[i] for first in range(stride) for i in range(first, len(candidates), stride)]
