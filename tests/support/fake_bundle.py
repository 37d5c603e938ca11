"""A bundle that needs no encoder: what it says follows from the recording's loudness."""

import threading
import time
from dataclasses import replace

import numpy as np

from sercache.audio import load_audio
from sercache.bundle.clips import ClipPrediction, FailedClip, WindowPrediction
from sercache.bundle.description import BundleDescription, BundledScore, Evaluation, TrainingData
from sercache.corpus.utterance import Attribute
from sercache.errors import AudioError, Interrupted
from sercache.events import QUIET

CLASSES = ("Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral")
RATE_HZ = 16_000


class FakeBundle:
    """Predicts one recording after the other, ``pause_seconds`` each, once ``gate`` is open.

    A deaf one goes on though nobody waits any more.
    """

    name = "sample-bundle"
    classes = CLASSES
    attributes = (
        Attribute("arousal", 1, 7),
        Attribute("valence", 1, 7),
        Attribute("dominance", 1, 7),
    )

    description = BundleDescription(
        name=name,
        versions={},
        classes=CLASSES,
        attributes=(),
        features={},
        members=(),
        models="folds",
        stacker="soup",
        coverage=0.9,
        evaluation=Evaluation(
            judged_on="test",
            rows=400,
            speakers=12,
            scores={"macro_f1": BundledScore(value=0.412, low=0.37, high=0.455)},
        ),
        training_data=TrainingData(
            corpus="sample", utterances=1200, speakers=40, hours=1.4, rows_by_class={"Angry": 100}
        ),
    )

    def __init__(self, *, pause_seconds=0.0, needs_text=False, can_transcribe=False):
        self.pause_seconds = pause_seconds
        self.needs_text = needs_text
        self.can_transcribe = can_transcribe
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.is_deaf = False
        self.batches = []
        self.error = None

    def predict(self, recordings, *, windows=None, context=QUIET):
        recordings = list(recordings)
        self.batches.append([recording.id for recording in recordings])
        self.begun.set()
        while not self.gate.wait(0.01):
            if context.should_stop() and not self.is_deaf:
                raise Interrupted("stopped")
        for recording in recordings:
            time.sleep(self.pause_seconds)
            if self.error is not None:
                raise self.error
            try:
                samples = load_audio(recording.path, RATE_HZ)
            except AudioError as error:
                yield FailedClip(recording.id, str(error))
                continue
            if self.needs_text and recording.text is None and not self.can_transcribe:
                yield FailedClip(recording.id, "member 'words' reads words and no text is known")
                continue
            yield clip(recording, samples, windows)


def clip(recording, samples, windows):
    seconds = len(samples) / RATE_HZ
    probabilities, attributes = heard(samples)
    timeline = []
    for start, end in windows.spans(seconds) if windows else ():
        shares, values = heard(samples[round(start * RATE_HZ) : round(end * RATE_HZ)])
        timeline.append(WindowPrediction(start, end, max(shares, key=shares.get), shares, values))
    likely = sorted(probabilities, key=probabilities.get, reverse=True)
    return ClipPrediction(
        id=recording.id,
        seconds=seconds,
        label=likely[0],
        probabilities=probabilities,
        posteriors=probabilities,
        attributes=attributes,
        conformal_set=tuple(name for name in CLASSES if name in likely[:2]),
        members={
            f"member-{number}": dict(
                zip(CLASSES, softmax(np.log(list(probabilities.values())) * sharpness), strict=True)
            )
            for number, sharpness in enumerate((0.5, 1.0, 1.6))
        },
        disagreement=0.084,
        text=recording.text,
        notes=(),
        windows=tuple(timeline),
    )


def heard(samples):
    """Return probabilities and attributes: quiet is Sad, loud is Angry."""
    loudness = min(1.0, float(np.sqrt(np.mean(np.square(samples)))) * 4)
    places = np.linspace(0, 1, len(CLASSES))
    order = ("Sad", "Fear", "Neutral", "Contempt", "Disgust", "Surprise", "Happy", "Angry")
    shares = dict(zip(order, softmax(-30 * np.square(places - loudness)), strict=True))
    attributes = {"arousal": 1 + 6 * loudness, "valence": 4.2, "dominance": 2 + 3 * loudness}
    return {name: shares[name] for name in CLASSES}, attributes


def softmax(logits):
    weights = np.exp(np.asarray(logits) - np.max(logits))
    return (weights / weights.sum()).tolist()


class AttributesAlone(FakeBundle):
    """A bundle that hears attributes and no classes."""

    classes = ()
    description = FakeBundle.description.model_copy(
        update={
            "classes": (),
            "coverage": None,
            "evaluation": Evaluation(
                judged_on="test",
                rows=400,
                speakers=12,
                scores={"mean_ccc": BundledScore(value=0.512, low=0.47, high=0.555)},
            ),
        }
    )

    def predict(self, recordings, **options):
        for answer in super().predict(recordings, **options):
            if isinstance(answer, FailedClip):
                yield answer
                continue
            nothing = {"label": None, "probabilities": {}}
            yield replace(
                answer,
                **nothing,
                posteriors={},
                conformal_set=(),
                members={f"member-{number}": answer.attributes for number in range(2)},
                windows=tuple(replace(window, **nothing) for window in answer.windows),
            )
