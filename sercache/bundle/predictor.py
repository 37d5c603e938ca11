"""A bundle, opened: recordings in, what is heard in them out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sercache.bundle.clips import (
    ClipPrediction,
    Decoded,
    FailedClip,
    Recording,
    Segment,
    WindowPrediction,
    Windows,
    header_seconds,
    read_recording,
)
from sercache.bundle.description import BundleDescription, read_description
from sercache.bundle.encoders import load_feature_encoder
from sercache.bundle.ensemble import Ensemble, Said
from sercache.bundle.features import Encoded, FeatureMaker
from sercache.bundle.listening import Listening
from sercache.corpus import Attribute
from sercache.devices import resolve_device, usable_cores
from sercache.errors import Interrupted
from sercache.events import Event, Listener, ignore
from sercache.extract.encoding import group_by_seconds
from sercache.extract.inputs import read_ahead
from sercache.interrupts import ShouldStop, never

_GROUP_SECONDS = 120.0
_LEAST_SECONDS = 2.0
"""What a recording counts for at least when recordings are gathered: a group has at most 60."""


class Bundle:
    """Predicts recordings as the run that it came from predicted its held-out rows.

    >>> bundle = Bundle.load(Path("my-bundle"))  # doctest: +SKIP
    >>> [one.label for one in bundle.predict([Recording("a", Path("a.wav"))])]  # doctest: +SKIP
    ['Happy']

    Attributes:
        description: all that the bundle says of itself.
    """

    def __init__(
        self,
        description: BundleDescription,
        makers: Mapping[str, FeatureMaker],
        ensemble: Ensemble,
        listening: Listening | None,
    ) -> None:
        self.description = description
        self._makers = dict(makers)
        self._ensemble = ensemble
        self._listening = listening

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        device: str = "auto",
        encoders: Mapping[str, str] | None = None,
        transcriber: str | None = None,
        cache: Path | None = None,
        trust_remote_code: bool = False,
        listener: Listener = ignore,
    ) -> "Bundle":
        """Open a bundle; every file of it is compared with its digest before it is read.

        Args:
            path: its folder.
            device: ``auto``, or a device as torch names it.
            encoders: folders or hub names of encoders by feature set, for a bundle without them.
            transcriber: the Whisper model for recordings without a text; else the one the bundle names.
            cache: folder in which frames are kept and looked up; None keeps none.
            trust_remote_code: whether Python code that comes with an encoder may run.
            listener: told of what is loaded, and of what is not as it was.

        Raises:
            BundleError: the folder is no bundle, is damaged or of a newer format, or an encoder is another
                one than the heads learnt from.
            EncoderError: an encoder cannot be loaded.
        """
        description = read_description(path)
        place = resolve_device(device)
        makers = {}
        for name, feature in description.features.items():
            listener(Event("note", name, message=f"loading {feature.recipe.encoder}"))
            encoder, spec = load_feature_encoder(
                name,
                feature,
                path,
                device=place,
                given=encoders or {},
                trust_remote_code=trust_remote_code,
                listener=listener,
            )
            makers[name] = FeatureMaker(name, encoder, spec, cache)
        reads_text = any(maker.reads_text for maker in makers.values())
        model = transcriber or description.transcriber
        listening = Listening(model, place) if model is not None and reads_text else None
        return cls(description, makers, Ensemble.load(path, description, makers, place), listening)

    @property
    def name(self) -> str:
        """What the bundle is called."""
        return self.description.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order."""
        return self.description.classes

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """Names and scales of the attributes, in order."""
        return self.description.attribute_ranges()

    @property
    def needs_text(self) -> bool:
        """Whether any member reads what is said."""
        return any(maker.reads_text for maker in self._makers.values())

    @property
    def can_transcribe(self) -> bool:
        """Whether it can find out by itself what is said."""
        return self._listening is not None

    def predict(
        self,
        recordings: Iterable[Recording],
        *,
        windows: Windows | None = None,
        listener: Listener = ignore,
        should_stop: ShouldStop = never,
    ) -> Iterator[ClipPrediction | FailedClip]:
        """Yield what is heard in recordings, in order; a bad one is a failed clip and does not end the rest.

        Recordings are decoded ahead in threads, and those that come together share batches. A recording that
        is longer than an encoder reads at once goes in overlapping windows, as in extraction.

        Args:
            recordings: any number of them.
            windows: how to cut each for a timeline; None for none.
            listener: told of the progress.
            should_stop: looked at between groups.

        Raises:
            Interrupted: ``should_stop`` said so.
        """
        rates = self._rates()
        items = ((one, max(header_seconds(one), _LEAST_SECONDS)) for one in recordings)
        read = read_ahead(
            lambda one: read_recording(one, rates), items, limit=2 * _GROUP_SECONDS, workers=usable_cores()
        )
        done, total = 0, len(recordings) if isinstance(recordings, Sized) else None
        for group in group_by_seconds(((one, _cost(one)) for one in read), _GROUP_SECONDS):
            if should_stop():
                raise Interrupted(f"stopped after {done} recordings")
            for answer in self._predict_group(group, windows):
                done += 1
                listener(Event("advance", "predict", done=done, total=total))
                yield answer

    def _rates(self) -> frozenset[int]:
        rates = {
            maker.spec.sample_rate_hz
            for maker in self._makers.values()
            if maker.spec.sample_rate_hz is not None
        }
        return frozenset(rates | ({self._listening.sample_rate_hz} if self._listening else set()))

    def _predict_group(
        self, group: Sequence[Decoded | FailedClip], windows: Windows | None
    ) -> Iterator[ClipPrediction | FailedClip]:
        answers = iter(self._answers([one for one in group if isinstance(one, Decoded)], windows))
        for each in group:
            yield each if isinstance(each, FailedClip) else next(answers)

    def _answers(
        self, decoded: Sequence[Decoded], windows: Windows | None
    ) -> list[ClipPrediction | FailedClip]:
        """Return what is heard in each, in order; what is common to all is done once."""
        wholes = [one.whole for one in decoded]
        if self._listening is not None:
            wholes = self._listening.with_texts(wholes)
        cut = [_windows_of(whole, windows) for whole in wholes]
        segments = [*wholes, *chain.from_iterable(cut)]
        encoded = {
            name: maker.encode(segments)
            for name, maker in self._makers.items()
            if name in self._ensemble.reads
        }
        complete = [
            place for place in range(len(segments)) if self._ensemble.can_predict(segments, encoded, place)
        ]
        known = [one.recording.extras or {} for one in decoded]
        known += [extras for extras, its in zip(known, cut, strict=True) for _ in its]
        said = dict(zip(complete, self._ensemble.say(segments, known, encoded, complete), strict=True))
        answers: list[ClipPrediction | FailedClip] = []
        first = len(wholes)
        for place, (one, its) in enumerate(zip(decoded, cut, strict=True)):
            if place in said:
                notes = self._notes(encoded, wholes[place], place)
                span = [at for at in range(first, first + len(its)) if at in said]
                timeline = tuple(self._window(segments[at], said[at]) for at in span)
                answers.append(self._clip(one.recording.id, wholes[place], said[place], notes, timeline))
            else:
                answers.append(FailedClip(one.recording.id, self._why_not(segments, encoded, place)))
            first += len(its)
        return answers

    def _clip(
        self,
        clip_id: str,
        segment: Segment,
        said: Said,
        notes: tuple[str, ...],
        timeline: tuple[WindowPrediction, ...],
    ) -> ClipPrediction:
        return ClipPrediction(
            id=clip_id,
            seconds=segment.seconds,
            label=self.classes[said.decision],
            probabilities=self._by_class(said.probabilities),
            posteriors=self._by_class(said.posteriors),
            attributes=self._by_attribute(said.attributes),
            conformal_set=tuple(
                name for name, is_in in zip(self.classes, said.conformal_set, strict=True) if is_in
            ),
            members={
                name: self._by_class(probabilities)
                for name, probabilities in zip(self._ensemble.names, said.members, strict=True)
            },
            disagreement=said.disagreement,
            text=segment.text,
            notes=notes,
            windows=timeline,
        )

    def _window(self, segment: Segment, said: Said) -> WindowPrediction:
        start, end = segment.span or (0.0, segment.seconds)
        return WindowPrediction(
            start,
            end,
            label=self.classes[said.decision],
            probabilities=self._by_class(said.probabilities),
            attributes=self._by_attribute(said.attributes),
        )

    def _by_class(self, values: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.classes, values.tolist(), strict=True))

    def _by_attribute(self, values: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip((one.name for one in self.attributes), values.tolist(), strict=True))

    def _notes(self, encoded: Mapping[str, Encoded], segment: Segment, place: int) -> tuple[str, ...]:
        notes = [f"{name}: {one.errors[place]}" for name, one in encoded.items() if place in one.errors]
        if self.needs_text and segment.text is None:
            notes.append("without its words: no text is known")
        return tuple(notes)

    def _why_not(self, segments: Sequence[Segment], encoded: Mapping[str, Encoded], place: int) -> str:
        errors = [f"{name}: {one.errors[place]}" for name, one in encoded.items() if place in one.errors]
        if errors:
            return errors[0]
        member = next(
            one
            for one in self._ensemble.members
            if not one.can_predict(segments, encoded, self._makers, place)
        )
        wants_words = any(self._makers[name].reads_text for name in member.features)
        if segments[place].text is None and wants_words:
            return (
                f"member '{member.name}' reads words and no text is known; give one with --text or a "
                "manifest, or a Whisper model with --transcriber"
            )
        return f"member '{member.name}' hears sound, and there is no audio"


def _windows_of(whole: Segment, windows: Windows | None) -> list[Segment]:
    if windows is None or not whole.waveforms:
        return []
    return [whole.cut(*span) for span in windows.spans(whole.seconds)]


def _cost(one: Decoded | FailedClip) -> float:
    seconds = one.whole.seconds if isinstance(one, Decoded) else 0.0
    return max(seconds, _LEAST_SECONDS) if seconds == seconds else _LEAST_SECONDS
