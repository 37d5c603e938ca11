"""Finding out what is said in recordings that came without a text."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from sercache.bundle.clips import Segment
from sercache.devices import computes_in_bfloat16
from sercache.encoders.protocol import Precision
from sercache.transcripts.hearing import hear
from sercache.transcripts.whisper import WhisperTranscriber

_PIECES_ON_CPU, _PIECES_ON_GPU = 4, 32


class Listening:
    """A Whisper model, for segments whose words are not known.

    Args:
        model: hub name or folder.
        device: where it computes, as torch names it.
        language: code of the language; None to detect it, clip by clip.
        columns: of transcripts, that encoders learnt from.

    Raises:
        EncoderError: it cannot be loaded, or is no Whisper model.
    """

    def __init__(self, model: str, device: str, language: str | None, columns: Collection[str]) -> None:
        precision: Precision = "bfloat16" if computes_in_bfloat16(device) else "float32"
        self._columns = columns
        self._transcriber = WhisperTranscriber(model, language=language, device=device, precision=precision)
        self._batch_size = _PIECES_ON_CPU if device == "cpu" else _PIECES_ON_GPU

    @property
    def sample_rate_hz(self) -> int:
        """What audio must be resampled to."""
        return self._transcriber.sample_rate_hz

    def with_words(self, segments: Sequence[Segment]) -> list[Segment]:
        """Return the segments, each with its words unless nobody speaks in it."""
        rate = self.sample_rate_hz
        silent = [
            place
            for place, one in enumerate(segments)
            if rate in one.waveforms and any(one.words_of(column) is None for column in self._columns)
        ]
        heard = hear(
            self._transcriber, [segments[place].waveforms[rate] for place in silent], self._batch_size
        )
        texts = {place: transcript.text for place, transcript in zip(silent, heard, strict=True)}
        return [
            replace(one, words={**one.words, "": texts[place]}) if texts.get(place) else one
            for place, one in enumerate(segments)
        ]
