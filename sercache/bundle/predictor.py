"""Predict recordings with a bundle."""

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
from sercache.bundle.ensemble import Ensemble, SegmentPrediction
from sercache.bundle.features import Encoded, FeatureExtractor
from sercache.bundle.recordings import SegmentTranscriber
from sercache.bundle.speakers import SpeakerFrames, refuse_unknown_speakers, with_transcripts
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
"""Errors that one recording may cause, a device that runs out of memory included."""


class Bundle:
    """Predicts recordings as the run that it came from predicted its held-out rows.

    >>> bundle = Bundle.load(Path("my-bundle"))  # doctest: +SKIP
    >>> [clip.label for clip in bundle.predict([Recording("a", Path("a.wav"))])]  # doctest: +SKIP
    ['Happy']

    Attributes:
        description: what ``bundle.json`` states.
    """

    def __init__(
        self,
        description: BundleDescription,
        extractors: Mapping[str, FeatureExtractor],
        ensemble: Ensemble,
        transcriber: SegmentTranscriber | None,
    ) -> None:
        self.description = description
        self._extractors = dict(extractors)
        self._ensemble = ensemble
        self._transcriber = transcriber
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
            language: of the speech, such as ``en``; None to detect it.
            cache: folder in which frames are stored and looked up; None stores none.
            trust_remote_code: whether Python code that comes with an encoder may run.
            listener: receives a note per encoder and a warning where a library version differs.

        Raises:
            BundleError: the folder is no bundle, is damaged or of a newer format, or an encoder is another
                one than the heads learnt from.
            EncoderError: an encoder cannot be loaded.
        """
        description = read_description(path)
        device = resolve_device(device)

        def make(name: str, precision: Precision | None, kept_in: Path | None) -> FeatureExtractor:
            feature = description.features[name]
            listener(Event("note", name, message=f"loading {feature.recipe.encoder}"))
            encoder, spec = load_feature_encoder(
                name,
                feature,
                path,
                device=device,
                given=encoders or {},
                trust_remote_code=trust_remote_code,
                listener=listener,
                precision=precision,
            )
            return FeatureExtractor(name, encoder, spec, kept_in)

        extractors = {name: make(name, None, cache) for name in description.features}
        others: dict[tuple[str, Precision], FeatureExtractor] = {}

        def extractor_in(name: str, precision: Precision) -> FeatureExtractor:
            """Fine-tuned weights compute in the precision that they learnt in."""
            if extractors[name].spec.precision == precision:
                return extractors[name]
            if (name, precision) not in others:
                others[name, precision] = make(name, precision, None)
            return others[name, precision]

        ensemble = Ensemble.load(path, description, extractors, device, extractor_in)
        columns = {extractor.column for extractor in extractors.values() if extractor.reads_text}
        model = transcriber or description.transcriber
        can_transcribe = model is not None and columns
        return cls(
            description,
            extractors,
            ensemble,
            SegmentTranscriber(str(model), device, language, columns) if can_transcribe else None,
        )

    @property
    def name(self) -> str:
        """The bundle's name."""
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
        """Whether any member reads text."""
        return any(extractor.reads_text for extractor in self._extractors.values())

    @property
    def can_transcribe(self) -> bool:
        """Whether recordings without a text are transcribed."""
        return self._transcriber is not None

    def predict(
        self,
        recordings: Iterable[Recording],
        *,
        windows: Windows | None = None,
        context: Context = QUIET,
    ) -> Iterator[ClipPrediction | FailedClip]:
        """Yield the predictions of recordings, in order; a bad recording becomes a failed clip.

        Recordings are decoded ahead in threads, and those that come together share batches. A recording that
        is longer than an encoder reads at once is encoded in overlapping windows, as in extraction. Each
        window of a timeline is transcribed where the bundle can transcribe; else its prediction uses the
        audio alone.

        Where members are normalised per speaker, every recording is encoded before the first is predicted;
        frames are stored in the cache, or in a temporary folder, until then.

        Args:
            recordings: any number of them.
            windows: how to cut each for a timeline; None for none.
            context: receives events, and can stop the work.

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
            extractors = {
                name: extractor.keeping_in(Path(folder)) for name, extractor in self._extractors.items()
            }
            ensemble = replace(self._ensemble, extractors=extractors)
            keeping = Bundle(self.description, extractors, ensemble, self._transcriber)
            transcribed = keeping._measure_speakers(listed, context)
            yield from keeping._predict(transcribed, windows, context)

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
            decoded = [clip for clip in group if isinstance(clip, Decoded)]
            answers = iter(self._answers(decoded))
            for clip in group:
                answer = clip if isinstance(clip, FailedClip) else next(answers)
                if windows is not None and isinstance(answer, ClipPrediction) and isinstance(clip, Decoded):
                    answer = self._with_timeline(answer, clip, windows)
                done += 1
                context.listener(Event("advance", "predict", done=done, total=total))
                yield answer

    def _measure_speakers(self, recordings: Sequence[Recording], context: Context) -> list[Recording]:
        """Measure every speaker's frames over all recordings; return the recordings with their transcripts.

        What cannot be decoded or encoded does not count.
        """
        self._speakers = SpeakerFrames()
        texts: dict[int, str] = {}
        done = 0
        for group in self._read(recordings):
            if context.should_stop():
                raise Interrupted(f"stopped while speakers were measured, after {done} recordings")
            decoded = {done + index: clip for index, clip in enumerate(group) if isinstance(clip, Decoded)}
            texts |= self._measure_group(decoded)
            done += len(group)
            context.listener(Event("advance", "measuring speakers", done=done, total=len(recordings)))
        return with_transcripts(recordings, texts)

    def _measure_group(self, decoded: Mapping[int, Decoded]) -> dict[int, str]:
        """Add the frames of recordings to the sums of their speakers; return the transcripts, by position."""
        assert self._speakers is not None
        speakers = [clip.recording.speaker for clip in decoded.values()]
        try:
            segments = self._transcribed([clip.whole for clip in decoded.values()])
            names = sorted(self._ensemble.normalized)
            encoded = {name: self._extractors[name].encode(segments) for name in names}
        except _CLIP_ERRORS:
            if len(decoded) < 2:
                return {}
            apart = [self._measure_group({position: clip}) for position, clip in decoded.items()]
            return {position: text for group in apart for position, text in group.items()}
        for name in names:
            self._speakers.add(name, encoded[name], speakers)
        texts = zip(decoded, (segment.texts.get("") for segment in segments), strict=True)
        return {position: text for position, text in texts if text}

    def _read(self, recordings: Iterable[Recording]) -> Iterator[list[Decoded | FailedClip]]:
        """Decode recordings ahead in threads; yield them in groups that share batches, in order."""
        rates = self._rates()
        items = ((recording, max(header_seconds(recording), _LEAST_SECONDS)) for recording in recordings)
        read = read_ahead(
            lambda recording: read_recording(recording, rates),
            items,
            limit=2 * _GROUP_SECONDS,
            workers=usable_cores(),
        )
        yield from group_by_seconds(((clip, _cost(clip)) for clip in read), _GROUP_SECONDS)

    def _rates(self) -> frozenset[int]:
        specs = [extractor.spec for extractor in self._extractors.values()]
        rates = {spec.sample_rate_hz for spec in specs if spec.sample_rate_hz is not None}
        return frozenset(rates | ({self._transcriber.sample_rate_hz} if self._transcriber else set()))

    def _answers(self, decoded: Sequence[Decoded]) -> list[ClipPrediction | FailedClip]:
        """Return the answer for each clip, in order; where a group fails, each clip is tried alone."""
        try:
            segments = self._transcribed([clip.whole for clip in decoded])
            encoded, predictions = self._predict_segments(segments, [clip.recording for clip in decoded])
        except _CLIP_ERRORS as error:
            if len(decoded) > 1:
                return [answer for clip in decoded for answer in self._answers([clip])]
            reason = (str(error) or type(error).__name__).splitlines()[0]
            return [FailedClip(clip.recording.id, reason) for clip in decoded]
        return [
            FailedClip(clip.recording.id, prediction)
            if isinstance(prediction, str)
            else self._clip(
                clip.recording.id, segments[index], prediction, self._notes(encoded, segments, index)
            )
            for index, (clip, prediction) in enumerate(zip(decoded, predictions, strict=True))
        ]

    def _transcribed(self, segments: Sequence[Segment]) -> list[Segment]:
        return (
            self._transcriber.with_transcripts(segments) if self._transcriber is not None else list(segments)
        )

    def _predict_segments(
        self, segments: Sequence[Segment], recordings: Sequence[Recording]
    ) -> tuple[dict[str, Encoded], list[SegmentPrediction | str]]:
        """Return the frames of segments, and per segment its prediction or the reason for none."""
        ensemble = self._ensemble
        encoded = {name: self._extractors[name].encode(segments) for name in sorted(ensemble.reads)}
        if self._speakers is not None:
            speakers = [recording.speaker for recording in recordings]
            for name in ensemble.normalized:
                encoded[name] = self._speakers.normalize(name, encoded[name], speakers)
        indices = range(len(segments))
        complete = [index for index in indices if ensemble.can_predict(segments, encoded, index)]
        known = [recording.extras or {} for recording in recordings]
        predictions = dict(zip(complete, ensemble.predict(segments, known, encoded, complete), strict=True))
        return encoded, [
            predictions[index] if index in predictions else self._why_not(segments, encoded, index)
            for index in indices
        ]

    def _with_timeline(self, answer: ClipPrediction, clip: Decoded, windows: Windows) -> ClipPrediction:
        """Return an answer with the predictions of its windows; few windows at a time are held in memory."""
        if not clip.whole.waveforms:
            return answer
        cut = ((clip.whole.cut(*span), span[1] - span[0]) for span in windows.spans(clip.whole.seconds))
        timeline: list[WindowPrediction] = []
        notes = list(answer.notes)
        if self.needs_text and self._transcriber is None and answer.text is not None:
            notes.append("the timeline uses the audio alone: the text of a window is not known")
        for group in group_by_seconds(cut, _GROUP_SECONDS):
            try:
                segments = self._transcribed(group)
                _, predictions = self._predict_segments(segments, [clip.recording] * len(segments))
            except _CLIP_ERRORS as error:
                notes.append(f"timeline: {str(error).splitlines()[0]}")
                break
            for segment, prediction in zip(segments, predictions, strict=True):
                if isinstance(prediction, str):
                    notes.append(f"timeline: {prediction}")
                else:
                    timeline.append(self._window(segment, prediction))
        return replace(answer, windows=tuple(timeline), notes=tuple(dict.fromkeys(notes)))

    def _clip(
        self, clip_id: str, segment: Segment, prediction: SegmentPrediction, notes: tuple[str, ...]
    ) -> ClipPrediction:
        return ClipPrediction(
            id=clip_id,
            seconds=segment.seconds,
            label=None if prediction.decision is None else self.classes[prediction.decision],
            probabilities=self._by_class(prediction.probabilities),
            posteriors=self._by_class(prediction.posteriors),
            attributes=self._by_attribute(prediction.attributes),
            conformal_set=tuple(
                name for name, is_in in zip(self.classes, prediction.conformal_set, strict=True) if is_in
            ),
            members={
                name: self._by_class(values) if self.classes else self._by_attribute(values)
                for name, values in zip(self._ensemble.names, prediction.members, strict=True)
            },
            disagreement=prediction.disagreement,
            text=self._text_of(segment),
            notes=notes,
        )

    def _window(self, segment: Segment, prediction: SegmentPrediction) -> WindowPrediction:
        start, end = segment.span or (0.0, segment.seconds)
        return WindowPrediction(
            start,
            end,
            label=None if prediction.decision is None else self.classes[prediction.decision],
            probabilities=self._by_class(prediction.probabilities),
            attributes=self._by_attribute(prediction.attributes),
        )

    def _by_class(self, values: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.classes, values.tolist(), strict=True))

    def _by_attribute(self, values: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip((attribute.name for attribute in self.attributes), values.tolist(), strict=True))

    def _text_of(self, segment: Segment) -> str | None:
        """Return the text that members read; where they read several columns, the text of the first."""
        columns = [extractor.column for extractor in self._extractors.values() if extractor.reads_text] or [
            ""
        ]
        return segment.text_for(columns[0])

    def _notes(
        self, encoded: Mapping[str, Encoded], segments: Sequence[Segment], index: int
    ) -> tuple[str, ...]:
        notes = [
            f"{name}: {feature.errors[index]}" for name, feature in encoded.items() if index in feature.errors
        ]
        if self.needs_text and self._text_of(segments[index]) is None:
            notes.append("predicted without text: none is known")
        return tuple(notes)

    def _why_not(self, segments: Sequence[Segment], encoded: Mapping[str, Encoded], index: int) -> str:
        errors = [
            f"{name}: {feature.errors[index]}" for name, feature in encoded.items() if index in feature.errors
        ]
        if errors:
            return errors[0]
        member = next(
            member
            for member in self._ensemble.members
            if not member.can_predict(segments, encoded, self._extractors, index)
        )
        texts = [self._extractors[name] for name in member.features if self._extractors[name].reads_text]
        if any(extractor.has_input(segments[index]) is False for extractor in texts):
            return (
                f"member '{member.name}' reads words and no text is known; give one with --text or a "
                "manifest, or a Whisper model with --transcriber"
            )
        return f"member '{member.name}' reads audio, and the recording has none"


def _cost(clip: Decoded | FailedClip) -> float:
    seconds = clip.whole.seconds if isinstance(clip, Decoded) else 0.0
    return max(seconds, _LEAST_SECONDS) if seconds == seconds else _LEAST_SECONDS
