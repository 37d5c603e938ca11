"""A bundle, opened: recordings in, what is heard in them out."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
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
from sercache.bundle.recordings import Listening
from sercache.bundle.speakers import SpeakerFrames, refuse_unknown_speakers, with_words
from sercache.corpus import Attribute
from sercache.devices import resolve_device, usable_cores
from sercache.encoders.protocol import Precision
from sercache.errors import Interrupted, SercacheError
from sercache.events import QUIET, Context, Event, Listener, ignore
from sercache.extract.encode import group_by_seconds, read_ahead

_GROUP_SECONDS = 120.0
_LEAST_SECONDS = 2.0
"""What a recording counts for at least when recordings are gathered: a group has at most 60."""

_CLIP_ERRORS = (SercacheError, RuntimeError, ValueError, MemoryError)
"""What may happen over one odd recording, a device that runs out of memory included."""


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
        self._speakers: SpeakerFrames | None = None

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        device: str = "auto",
        encoders: Mapping[str, str] | None = None,
        transcriber: str | None = None,
        language: str | None = None,
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
            language: that it shall hear, such as ``en``; None to detect it.
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

        def make(name: str, precision: Precision | None, kept_in: Path | None) -> FeatureMaker:
            feature = description.features[name]
            listener(Event("note", name, message=f"loading {feature.recipe.encoder}"))
            encoder, spec = load_feature_encoder(
                name,
                feature,
                path,
                device=place,
                given=encoders or {},
                trust_remote_code=trust_remote_code,
                listener=listener,
                precision=precision,
            )
            return FeatureMaker(name, encoder, spec, kept_in)

        makers = {name: make(name, None, cache) for name in description.features}
        others: dict[tuple[str, Precision], FeatureMaker] = {}

        def maker_in(name: str, precision: Precision) -> FeatureMaker:
            """Fine-tuned weights compute in the precision that they learnt in."""
            if makers[name].spec.options.get("precision", "float32") == precision:
                return makers[name]
            if (name, precision) not in others:
                others[name, precision] = make(name, precision, None)
            return others[name, precision]

        ensemble = Ensemble.load(path, description, makers, place, maker_in)
        columns = {maker.column for maker in makers.values() if maker.reads_text}
        model = transcriber or description.transcriber
        has_ears = model is not None and columns
        listening = Listening(str(model), place, language, columns) if has_ears else None
        return cls(description, makers, ensemble, listening)

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
        context: Context = QUIET,
    ) -> Iterator[ClipPrediction | FailedClip]:
        """Yield what is heard in recordings, in order; a bad one is a failed clip and does not end the rest.

        Recordings are decoded ahead in threads, and those that come together share batches. A recording that
        is longer than an encoder reads at once goes in overlapping windows, as in extraction. A timeline
        hears the words of each window where they can be transcribed; else it goes by the sound alone.

        Where members are normalised per speaker, every recording is encoded before the first is predicted;
        frames lie in the cache, or in a temporary folder, until then.

        Args:
            recordings: any number of them.
            windows: how to cut each for a timeline; None for none.
            context: receives events, and says when to stop.

        Raises:
            BundleError: members are normalised per speaker, and no speaker has enough recordings.
            Interrupted: ``context.should_stop`` returned True.
        """
        if not self._ensemble.normalized:
            yield from self._predict(recordings, windows, context)
            return
        listed = list(recordings)
        refuse_unknown_speakers(self.name, listed)
        with tempfile.TemporaryDirectory(prefix="sercache-") as folder:
            makers = {name: maker.keeping_in(Path(folder)) for name, maker in self._makers.items()}
            ensemble = replace(self._ensemble, makers=makers)
            keeping = Bundle(self.description, makers, ensemble, self._listening)
            heard = keeping._hear_speakers(listed, context)
            yield from keeping._predict(heard, windows, context)

    def _predict(
        self,
        recordings: Iterable[Recording],
        windows: Windows | None,
        context: Context,
    ) -> Iterator[ClipPrediction | FailedClip]:
        done, total = 0, len(recordings) if isinstance(recordings, Sized) else None
        for group in self._read(recordings):
            if context.should_stop():
                raise Interrupted(f"stopped after {done} recordings")
            decoded = [one for one in group if isinstance(one, Decoded)]
            answers = iter(self._answers(decoded))
            for one in group:
                answer = one if isinstance(one, FailedClip) else next(answers)
                if windows is not None and isinstance(answer, ClipPrediction) and isinstance(one, Decoded):
                    answer = self._with_timeline(answer, one, windows)
                done += 1
                context.listener(Event("advance", "predict", done=done, total=total))
                yield answer

    def _hear_speakers(self, recordings: Sequence[Recording], context: Context) -> list[Recording]:
        """Measure every speaker's frames over all recordings; return these with what was transcribed.

        What cannot be decoded or encoded does not count.
        """
        self._speakers = SpeakerFrames()
        words: dict[int, str] = {}
        done = 0
        for group in self._read(recordings):
            if context.should_stop():
                raise Interrupted(f"stopped while speakers were measured, after {done} recordings")
            decoded = {done + place: one for place, one in enumerate(group) if isinstance(one, Decoded)}
            words |= self._hear_group(decoded)
            done += len(group)
            context.listener(Event("advance", "measuring speakers", done=done, total=len(recordings)))
        return with_words(recordings, words)

    def _hear_group(self, decoded: Mapping[int, Decoded]) -> dict[int, str]:
        """Add the frames of recordings to their speakers'; return what is said in them, by position."""
        assert self._speakers is not None
        speakers = [one.recording.speaker for one in decoded.values()]
        try:
            segments = self._with_words([one.whole for one in decoded.values()])
            names = sorted(self._ensemble.normalized)
            encoded = {name: self._makers[name].encode(segments) for name in names}
        except _CLIP_ERRORS:
            if len(decoded) < 2:
                return {}
            apart = [self._hear_group({position: one}) for position, one in decoded.items()]
            return {position: text for words in apart for position, text in words.items()}
        for name in names:
            self._speakers.add(name, encoded[name], speakers)
        texts = zip(decoded, (segment.words.get("") for segment in segments), strict=True)
        return {position: text for position, text in texts if text}

    def _read(self, recordings: Iterable[Recording]) -> Iterator[list[Decoded | FailedClip]]:
        """Decode recordings ahead in threads; yield them in groups that share batches, in order."""
        rates = self._rates()
        items = ((one, max(header_seconds(one), _LEAST_SECONDS)) for one in recordings)
        read = read_ahead(
            lambda one: read_recording(one, rates), items, limit=2 * _GROUP_SECONDS, workers=usable_cores()
        )
        yield from group_by_seconds(((one, _cost(one)) for one in read), _GROUP_SECONDS)

    def _rates(self) -> frozenset[int]:
        specs = [maker.spec for maker in self._makers.values()]
        rates = {spec.sample_rate_hz for spec in specs if spec.sample_rate_hz is not None}
        return frozenset(rates | ({self._listening.sample_rate_hz} if self._listening else set()))

    def _answers(self, decoded: Sequence[Decoded]) -> list[ClipPrediction | FailedClip]:
        """Return what is heard in each, in order; over an error that one causes, the others go on."""
        try:
            segments = self._with_words([one.whole for one in decoded])
            encoded, said = self._hear(segments, [one.recording for one in decoded])
        except _CLIP_ERRORS as error:
            if len(decoded) > 1:
                return [answer for one in decoded for answer in self._answers([one])]
            reason = (str(error) or type(error).__name__).splitlines()[0]
            return [FailedClip(one.recording.id, reason) for one in decoded]
        return [
            FailedClip(one.recording.id, its)
            if isinstance(its, str)
            else self._clip(one.recording.id, segments[place], its, self._notes(encoded, segments, place))
            for place, (one, its) in enumerate(zip(decoded, said, strict=True))
        ]

    def _with_words(self, segments: Sequence[Segment]) -> list[Segment]:
        return self._listening.with_words(segments) if self._listening is not None else list(segments)

    def _hear(
        self, segments: Sequence[Segment], recordings: Sequence[Recording]
    ) -> tuple[dict[str, Encoded], list[Said | str]]:
        """Return the frames of segments, and what is said of each or why nothing can be."""
        ensemble = self._ensemble
        encoded = {name: self._makers[name].encode(segments) for name in sorted(ensemble.reads)}
        if self._speakers is not None:
            speakers = [recording.speaker for recording in recordings]
            for name in ensemble.normalized:
                encoded[name] = self._speakers.normalize(name, encoded[name], speakers)
        places = range(len(segments))
        complete = [place for place in places if ensemble.can_predict(segments, encoded, place)]
        known = [recording.extras or {} for recording in recordings]
        said = dict(zip(complete, ensemble.say(segments, known, encoded, complete), strict=True))
        return encoded, [
            said[place] if place in said else self._why_not(segments, encoded, place) for place in places
        ]

    def _with_timeline(self, answer: ClipPrediction, one: Decoded, windows: Windows) -> ClipPrediction:
        """Return an answer with what is heard in each window; few windows at a time are held in memory."""
        if not one.whole.waveforms:
            return answer
        cut = ((one.whole.cut(*span), span[1] - span[0]) for span in windows.spans(one.whole.seconds))
        timeline: list[WindowPrediction] = []
        notes = list(answer.notes)
        if self.needs_text and self._listening is None and answer.text is not None:
            notes.append("the timeline goes by the sound alone: which words fall into a window is not known")
        for group in group_by_seconds(cut, _GROUP_SECONDS):
            try:
                segments = self._with_words(group)
                _, said = self._hear(segments, [one.recording] * len(segments))
            except _CLIP_ERRORS as error:
                notes.append(f"timeline: {str(error).splitlines()[0]}")
                break
            for segment, its in zip(segments, said, strict=True):
                if isinstance(its, str):
                    notes.append(f"timeline: {its}")
                else:
                    timeline.append(self._window(segment, its))
        return replace(answer, windows=tuple(timeline), notes=tuple(dict.fromkeys(notes)))

    def _clip(self, clip_id: str, segment: Segment, said: Said, notes: tuple[str, ...]) -> ClipPrediction:
        return ClipPrediction(
            id=clip_id,
            seconds=segment.seconds,
            label=None if said.decision is None else self.classes[said.decision],
            probabilities=self._by_class(said.probabilities),
            posteriors=self._by_class(said.posteriors),
            attributes=self._by_attribute(said.attributes),
            conformal_set=tuple(
                name for name, is_in in zip(self.classes, said.conformal_set, strict=True) if is_in
            ),
            members={
                name: self._by_class(values) if self.classes else self._by_attribute(values)
                for name, values in zip(self._ensemble.names, said.members, strict=True)
            },
            disagreement=said.disagreement,
            text=self._text_of(segment),
            notes=notes,
        )

    def _window(self, segment: Segment, said: Said) -> WindowPrediction:
        start, end = segment.span or (0.0, segment.seconds)
        return WindowPrediction(
            start,
            end,
            label=None if said.decision is None else self.classes[said.decision],
            probabilities=self._by_class(said.probabilities),
            attributes=self._by_attribute(said.attributes),
        )

    def _by_class(self, values: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.classes, values.tolist(), strict=True))

    def _by_attribute(self, values: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip((one.name for one in self.attributes), values.tolist(), strict=True))

    def _text_of(self, segment: Segment) -> str | None:
        """Return the words that a member reads; where members read several columns, those of the first."""
        columns = [maker.column for maker in self._makers.values() if maker.reads_text] or [""]
        return segment.words_of(columns[0])

    def _notes(
        self, encoded: Mapping[str, Encoded], segments: Sequence[Segment], place: int
    ) -> tuple[str, ...]:
        notes = [f"{name}: {one.errors[place]}" for name, one in encoded.items() if place in one.errors]
        if self.needs_text and self._text_of(segments[place]) is None:
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
        texts = [self._makers[name] for name in member.features if self._makers[name].reads_text]
        if any(maker.has_input(segments[place]) is False for maker in texts):
            return (
                f"member '{member.name}' reads words and no text is known; give one with --text or a "
                "manifest, or a Whisper model with --transcriber"
            )
        return f"member '{member.name}' hears sound, and there is no audio"


def _cost(one: Decoded | FailedClip) -> float:
    seconds = one.whole.seconds if isinstance(one, Decoded) else 0.0
    return max(seconds, _LEAST_SECONDS) if seconds == seconds else _LEAST_SECONDS
