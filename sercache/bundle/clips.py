"""What is predicted, and what comes of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sercache.audio import Waveform, audio_seconds, load_audio
from sercache.errors import AudioError
from sercache.files import without_nan

_CLASS_KEYS = ("label", "probabilities", "posteriors", "conformal_set")


@dataclass(frozen=True)
class Recording:
    """What to predict.

    Attributes:
        id: how the answer calls it.
        path: its audio; None for a text alone.
        text: what is said in it; None to transcribe it, where the bundle needs text and can.
        start_seconds: where in the file it begins.
        end_seconds: where it ends.
        extras: further columns of a manifest, for stackers that see them.
        speaker: who speaks, for members that are normalised per speaker; None where that is not known.
    """

    id: str
    path: Path | None
    text: str | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    extras: Mapping[str, str] | None = None
    speaker: str | None = None


@dataclass(frozen=True)
class Windows:
    """How a recording is cut for a timeline: stretches of one length that begin ``hop_seconds`` apart."""

    length_seconds: float = 6.0
    hop_seconds: float = 3.0

    def spans(self, seconds: float) -> list[tuple[float, float]]:
        """Return start and end of each window; the last one ends with the recording.

        >>> Windows(6.0, 3.0).spans(10.0)
        [(0.0, 6.0), (3.0, 9.0), (4.0, 10.0)]
        """
        if seconds <= self.length_seconds:
            return [(0.0, seconds)]
        starts = [0.0]
        while starts[-1] + self.length_seconds < seconds - 1e-6:
            starts.append(min(starts[-1] + self.hop_seconds, seconds - self.length_seconds))
        return [(start, start + self.length_seconds) for start in starts]


@dataclass(frozen=True)
class WindowPrediction:
    """What is heard in one window of a recording; no label, no probabilities from attributes alone."""

    start_seconds: float
    end_seconds: float
    label: str | None
    probabilities: Mapping[str, float]
    attributes: Mapping[str, float]


@dataclass(frozen=True)
class ClipPrediction:
    """What is heard in a recording.

    Attributes:
        id: the recording's.
        seconds: how long it is; NaN where there is no audio.
        label: the decision; None of a bundle with attributes alone, which has no ``probabilities``,
            ``posteriors`` and ``conformal_set`` either.
        probabilities: by class, calibrated where the bundle can.
        posteriors: by class, as the stacker says them, before calibration.
        attributes: by name, on the corpus's scale.
        conformal_set: the classes that the truth is among as often as the bundle's coverage says; empty where
            the bundle is not calibrated.
        members: of each member, its probabilities by class; with attributes alone, its attribute values.
        disagreement: between members, 0 (all say the same) to 1 (each is sure of something else):
            Jensen-Shannon divergence as a share of its largest value. With attributes alone, the standard
            deviation of their values as a share of the largest that the scales allow.
        text: what was said, as far as it is known.
        notes: what stands behind the answer less firmly than it should.
        windows: the timeline, if one was asked for.
    """

    id: str
    seconds: float
    label: str | None
    probabilities: Mapping[str, float]
    posteriors: Mapping[str, float]
    attributes: Mapping[str, float]
    conformal_set: tuple[str, ...]
    members: Mapping[str, Mapping[str, float]]
    disagreement: float
    text: str | None
    notes: tuple[str, ...] = ()
    windows: tuple[WindowPrediction, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values; numbers have six decimals. Attributes alone come without keys of classes."""
        content = asdict(self)
        if self.label is None:
            for part in (content, *content["windows"]):
                for key in _CLASS_KEYS:
                    part.pop(key, None)
        return dict(_rounded(without_nan(content)))


@dataclass(frozen=True)
class FailedClip:
    """A recording that cannot be predicted, and why, in one line."""

    id: str
    error: str

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"id": self.id, "error": self.error}


@dataclass(frozen=True)
class Segment:
    """What encoders read of a recording, or of one window of it.

    Attributes:
        waveforms: by sampling rate, ``(S,)`` each; empty for a text alone.
        seconds: how long it is; NaN for a text alone.
        words: what is said in it: what was given or heard under the empty name, columns of a manifest under
            theirs.
        span: the window; None for the whole recording.
    """

    waveforms: Mapping[int, Waveform]
    seconds: float
    words: Mapping[str, str]
    span: tuple[float, float] | None = None

    def words_of(self, column: str) -> str | None:
        """Return what an encoder reads that learnt from a column of transcripts; None if nothing is known."""
        return self.words.get(column) or self.words.get("")

    def cut(self, start_seconds: float, end_seconds: float) -> "Segment":
        """Return a window of this segment; which words fall into it is known only if it is all."""
        words = self.words if (start_seconds, end_seconds) == (0.0, self.seconds) else {}
        waveforms = {
            rate: waveform[round(start_seconds * rate) : round(end_seconds * rate)]
            for rate, waveform in self.waveforms.items()
        }
        span = (start_seconds, end_seconds)
        return Segment(waveforms, end_seconds - start_seconds, words, span)


@dataclass(frozen=True)
class Decoded:
    """A recording and what encoders read of it."""

    recording: Recording
    whole: Segment


def read_recording(recording: Recording, rates_hz: frozenset[int]) -> Decoded | FailedClip:
    """Decode a recording at each of the rates; a bad one is a failed clip, never an exception."""
    every = {**(recording.extras or {}), "": recording.text or ""}
    words = {column: stripped for column, text in every.items() if (stripped := text.strip())}
    if recording.path is None or not rates_hz:
        return Decoded(recording, Segment({}, _seconds(recording), words))
    try:
        waveforms = {
            rate: load_audio(recording.path, rate, recording.start_seconds, recording.end_seconds)
            for rate in sorted(rates_hz)
        }
    except (AudioError, OSError, RuntimeError, ValueError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return FailedClip(recording.id, reason)
    rate, waveform = next(iter(waveforms.items()))
    return Decoded(recording, Segment(waveforms, len(waveform) / rate, words))


def header_seconds(recording: Recording) -> float:
    """Return about how long decoding will take, by the header; 0 where it tells nothing."""
    seconds = _seconds(recording)
    return seconds if seconds == seconds else 0.0


def _seconds(recording: Recording) -> float:
    if recording.path is None:
        return float("nan")
    if recording.start_seconds is not None and recording.end_seconds is not None:
        return recording.end_seconds - recording.start_seconds
    try:
        return audio_seconds(recording.path)
    except AudioError:
        return float("nan")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value
