"""Recordings to predict, their predictions as JSON and CSV, and their decoded audio."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sercache.audio import Waveform, audio_seconds, load_audio
from sercache.errors import AudioError
from sercache.files import without_nan

_CLASS_KEYS = ("label", "probabilities", "posteriors", "conformal_set")


@dataclass(frozen=True)
class Recording:
    """A recording to predict.

    Attributes:
        id: that the answer carries.
        path: its audio; None for a text alone.
        text: its transcript; None to transcribe it, where the bundle reads text and can transcribe.
        start_seconds: where in the file it begins.
        end_seconds: where it ends.
        extras: further columns of a manifest, for stackers that read them.
        speaker: for members that are normalised per speaker; None where it is not known.
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
    """Windows of a timeline: of one length, starting ``hop_seconds`` apart."""

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
    """The prediction for one window of a recording; label and probabilities only where there are classes."""

    start_seconds: float
    end_seconds: float
    label: str | None
    probabilities: Mapping[str, float]
    attributes: Mapping[str, float]


@dataclass(frozen=True)
class ClipPrediction:
    """The prediction for a recording.

    Attributes:
        id: of the recording.
        seconds: how long it is; NaN where there is no audio.
        label: the decision; None of a bundle with attributes alone, which has no ``probabilities``,
            ``posteriors`` and ``conformal_set`` either.
        probabilities: by class, calibrated where the bundle can.
        posteriors: by class, of the stacker, before calibration.
        attributes: by name, on the corpus's scale.
        conformal_set: classes that contain the true class with the bundle's coverage; empty where the bundle
            is not calibrated.
        members: of each member, its probabilities by class; with attributes alone, its attribute values.
        disagreement: between members, 0 (all agree) to 1 (each is sure of another class):
            Jensen-Shannon divergence as a share of its largest value. With attributes alone, the standard
            deviation of their values as a share of the largest that the scales allow.
        text: the transcript, as far as it is known.
        notes: what makes the answer less reliable than it could be.
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


def as_csv(
    answers: Iterator[ClipPrediction | FailedClip], classes: Sequence[str], attributes: Sequence[str]
) -> Iterator[str]:
    """Yield the lines of a table: one per recording, or one per window where there are windows.

    ``sercache audit`` and ``sercache stack --predictions`` read it.
    """
    columns = ["id", "start", "end", *(["label"] if classes else []), *(f"p:{name}" for name in classes)]
    columns += [f"attribute:{name}" for name in attributes]
    columns += ["conformal_set"] if classes else []
    columns += ["disagreement", "seconds", "text", "notes", "error"]
    yield _line(columns)
    for answer in answers:
        if isinstance(answer, FailedClip):
            yield _line([answer.id, *[""] * (len(columns) - 2), answer.error])
            continue
        rest = [
            *([" ".join(answer.conformal_set)] if classes else []),
            f"{answer.disagreement:.6f}",
            "" if answer.seconds != answer.seconds else f"{answer.seconds:.3f}",
            answer.text or "",
            "; ".join(answer.notes),
            "",
        ]
        for part in answer.windows or (answer,):
            span = ["", ""]
            if isinstance(part, WindowPrediction):
                span = [f"{part.start_seconds:.3f}", f"{part.end_seconds:.3f}"]
            numbers = [*part.probabilities.values(), *part.attributes.values()]
            label = [part.label or ""] if classes else []
            yield _line([answer.id, *span, *label, *(f"{number:.6f}" for number in numbers), *rest])


@dataclass(frozen=True)
class Segment:
    """The audio and texts of a recording, or of one window of it, that encoders read.

    Attributes:
        waveforms: by sampling rate, ``(S,)`` each; empty for a text alone.
        seconds: how long it is; NaN for a text alone.
        texts: transcripts: the given or transcribed text under the empty name, columns of a manifest under
            their names.
        span: the window; None for the whole recording.
    """

    waveforms: Mapping[int, Waveform]
    seconds: float
    texts: Mapping[str, str]
    span: tuple[float, float] | None = None

    def text_for(self, column: str) -> str | None:
        """Return the text for an encoder that learnt from a column of transcripts; None if none is known."""
        return self.texts.get(column) or self.texts.get("")

    def cut(self, start_seconds: float, end_seconds: float) -> "Segment":
        """Return a window of this segment; texts are kept only if the window is the whole segment."""
        texts = self.texts if (start_seconds, end_seconds) == (0.0, self.seconds) else {}
        waveforms = {
            rate: waveform[round(start_seconds * rate) : round(end_seconds * rate)]
            for rate, waveform in self.waveforms.items()
        }
        span = (start_seconds, end_seconds)
        return Segment(waveforms, end_seconds - start_seconds, texts, span)


@dataclass(frozen=True)
class Decoded:
    """A recording with its decoded audio and texts."""

    recording: Recording
    whole: Segment


def read_recording(recording: Recording, rates_hz: frozenset[int]) -> Decoded | FailedClip:
    """Decode a recording at each of the rates; a bad one is a failed clip, never an exception."""
    every = {**(recording.extras or {}), "": recording.text or ""}
    texts = {column: stripped for column, text in every.items() if (stripped := text.strip())}
    if recording.path is None or not rates_hz:
        return Decoded(recording, Segment({}, _seconds(recording), texts))
    try:
        waveforms = {
            rate: load_audio(recording.path, rate, recording.start_seconds, recording.end_seconds)
            for rate in sorted(rates_hz)
        }
    except (AudioError, OSError, RuntimeError, ValueError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return FailedClip(recording.id, reason)
    rate, waveform = next(iter(waveforms.items()))
    return Decoded(recording, Segment(waveforms, len(waveform) / rate, texts))


def header_seconds(recording: Recording) -> float:
    """Return the duration of a recording by its header; 0 where the header does not state it."""
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
        return {key: _rounded(nested) for key, nested in value.items()}
    if isinstance(value, list):
        return [_rounded(nested) for nested in value]
    return round(value, 6) if isinstance(value, float) else value


def _line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
