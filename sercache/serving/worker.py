"""One thread that predicts, and the line of those who wait for it."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol

from sercache.bundle.clips import ClipPrediction, FailedClip, Recording, Windows
from sercache.bundle.description import BundleDescription
from sercache.corpus.utterance import Attribute
from sercache.errors import Interrupted, SercacheError, ServingError
from sercache.events import QUIET, Context
from sercache.serving.limits import Limits

_LOG = logging.getLogger(__name__)

_STOPPING = "the server is being stopped"
_JOIN_SECONDS = 10.0
_SMOOTHING = 0.3


class Predictor(Protocol):
    """What is served: a :class:`sercache.bundle.predictor.Bundle`."""

    @property
    def description(self) -> BundleDescription:
        """All that the bundle says of itself."""

    @property
    def name(self) -> str:
        """What the bundle is called."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order."""

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """Names and scales of the attributes, in order."""

    @property
    def needs_text(self) -> bool:
        """Whether any member reads what is said."""

    @property
    def can_transcribe(self) -> bool:
        """Whether it can find out by itself what is said."""

    def predict(
        self,
        recordings: Iterable[Recording],
        *,
        windows: Windows | None = None,
        context: Context = QUIET,
    ) -> Iterator[ClipPrediction | FailedClip]:
        """Predict recordings, in order."""


@dataclass(eq=False)
class Job:
    """One recording that somebody waits for.

    Attributes:
        recording: what to predict.
        windows: also over windows; None for the whole clip only.
        seconds: how long the recording is.
        answer: what comes of it; an error is a :class:`SercacheError` whose line may be shown.
    """

    recording: Recording
    windows: Windows | None
    seconds: float
    answer: "Future[ClipPrediction | FailedClip]" = field(default_factory=Future)
    _is_abandoned: threading.Event = field(default_factory=threading.Event)

    def abandon(self) -> None:
        """Nobody waits any more: if it has not begun it never will, and its answer goes nowhere."""
        self._is_abandoned.set()
        self.answer.cancel()

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits for it."""
        return self._is_abandoned.is_set()


class Worker:
    """Predicts what is submitted, several recordings together where several wait.

    One thread, as one forward pass uses all cores already. How many may wait is bounded by who submits.

    Args:
        predictor: predicts; only the worker's thread calls it.
        limits: of these ``batch`` and ``max_seconds``.
    """

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self._predictor = predictor
        self._limits = limits
        # A SimpleQueue, because only its put may be called from a signal handler.
        self._submitted: SimpleQueue[Job | None] = SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._stopping = False
        self._seconds_per_job = 1.0
        self._thread = threading.Thread(target=self._run, name="sercache-predict", daemon=True)

    def start(self) -> None:
        """Begin to predict."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Put a job at the end of the line; one that comes too late is refused."""
        if self._stopping:
            job.answer.set_exception(ServingError(_STOPPING))
        else:
            self._submitted.put(job)

    def stop(self) -> None:
        """End soon: what runs is interrupted, what waits is refused. May be called from a signal handler."""
        self._stopping = True
        self._submitted.put(None)

    def join(self) -> None:
        """Wait for the end, once stopped; not for ever."""
        self._thread.join(_JOIN_SECONDS)

    @property
    def is_alive(self) -> bool:
        """Whether it predicts."""
        return self._thread.is_alive() and not self._stopping

    @property
    def waiting(self) -> int:
        """How many jobs stand in the line."""
        return self._submitted.qsize() + len(self._waiting)

    def seconds_until_free(self, waiting: int) -> int:
        """Return whole seconds after which ``waiting`` jobs are probably answered; at least 1."""
        return min(
            max(1, math.ceil(waiting * self._seconds_per_job)), round(self._limits.timeout_seconds) + 1
        )

    def _run(self) -> None:
        while not self._stopping:
            self._gather()
            batch = self._next_batch()
            if batch and not self._stopping:
                self._predict(batch)
            else:
                self._waiting.extendleft(reversed(batch))
        while self._waiting or not self._submitted.empty():
            self._gather()
            while self._waiting:
                job = self._waiting.popleft()
                if job.answer.set_running_or_notify_cancel():
                    job.answer.set_exception(ServingError(_STOPPING))

    def _gather(self) -> None:
        """Take in what was submitted; wait for it where nothing is there to do."""
        while not self._submitted.empty() or not (self._waiting or self._stopping):
            job = self._submitted.get()
            if job is not None:
                self._waiting.append(job)

    def _next_batch(self) -> list[Job]:
        """Take the first in the line and those behind it that can be predicted with it."""
        batch: list[Job] = []
        passed: deque[Job] = deque()
        seconds = 0.0
        while self._waiting and len(batch) < self._limits.batch:
            job = self._waiting.popleft()
            if job.answer.cancelled():
                continue
            fits = seconds + job.seconds <= self._limits.max_seconds
            if not batch or (fits and job.windows == batch[0].windows):
                batch.append(job)
                seconds += job.seconds
            else:
                passed.append(job)
        self._waiting.extendleft(reversed(passed))
        return batch

    def _predict(self, batch: Sequence[Job]) -> None:
        jobs = [job for job in batch if job.answer.set_running_or_notify_cancel()]
        if not jobs:
            return
        started = time.monotonic()
        self._answer(jobs)
        taken = (time.monotonic() - started) / len(jobs)
        self._seconds_per_job += _SMOOTHING * (taken - self._seconds_per_job)

    def _answer(self, jobs: Sequence[Job]) -> None:
        """Answer every job; what went wrong with several of them is tried again one by one."""

        def should_stop() -> bool:
            return self._stopping or all(job.is_abandoned for job in jobs)

        answered = 0
        error: Exception
        try:
            predictions = self._predictor.predict(
                [job.recording for job in jobs],
                windows=jobs[0].windows,
                context=Context(should_stop=should_stop),
            )
            for job, prediction in zip(jobs, predictions, strict=True):
                job.answer.set_result(prediction)
                answered += 1
            return
        except Interrupted:
            error = ServingError(_STOPPING)
        except SercacheError as raised:
            error = raised
        except Exception as raised:  # whatever it is, the next request must find a thread that works
            _LOG.exception("prediction failed")
            error = raised
        left = jobs[answered:]
        if len(jobs) > 1 and not isinstance(error, ServingError):
            for job in left:
                self._answer([job])
            return
        for job in left:
            job.answer.set_exception(error)
