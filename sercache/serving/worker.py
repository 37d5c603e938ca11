"""A thread that predicts, with a queue of jobs."""

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
    """The interface of what is served: a :class:`sercache.bundle.predictor.Bundle`."""

    @property
    def description(self) -> BundleDescription:
        """The content of ``bundle.json``."""

    @property
    def name(self) -> str:
        """The bundle's name."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order."""

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """Names and scales of the attributes, in order."""

    @property
    def needs_text(self) -> bool:
        """Whether any member reads text."""

    @property
    def can_transcribe(self) -> bool:
        """Whether recordings without a text are transcribed."""

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
    """One recording to predict for a request.

    Attributes:
        recording: what to predict.
        windows: also over windows; None for the whole clip only.
        seconds: how long the recording is.
        answer: the prediction; an error is a :class:`SercacheError` whose line may be shown.
    """

    recording: Recording
    windows: Windows | None
    seconds: float
    answer: "Future[ClipPrediction | FailedClip]" = field(default_factory=Future)
    _is_cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Cancel the job: it is not begun any more, and its answer is dropped."""
        self._is_cancelled.set()
        self.answer.cancel()

    @property
    def is_cancelled(self) -> bool:
        """Whether the job was cancelled."""
        return self._is_cancelled.is_set()


class Worker:
    """Predicts submitted jobs, several together where several wait.

    One thread, as one forward pass uses all cores already. The caller limits how many jobs wait.

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
        """Start the thread."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Append a job to the queue; refuse it once the worker is stopping."""
        if self._stopping:
            job.answer.set_exception(ServingError(_STOPPING))
        else:
            self._submitted.put(job)

    def stop(self) -> None:
        """Interrupt the running jobs and refuse the waiting ones. May be called from a signal handler."""
        self._stopping = True
        self._submitted.put(None)

    def join(self) -> None:
        """Wait for the thread to end, with a time limit."""
        self._thread.join(_JOIN_SECONDS)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs and is not stopping."""
        return self._thread.is_alive() and not self._stopping

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
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
        """Move submitted jobs to the queue; wait for one where the queue is empty."""
        while not self._submitted.empty() or not (self._waiting or self._stopping):
            job = self._submitted.get()
            if job is not None:
                self._waiting.append(job)

    def _next_batch(self) -> list[Job]:
        """Return the first waiting job and later ones that can be predicted in the same batch."""
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
        """Answer every job; where several fail together, each is tried again alone."""

        def should_stop() -> bool:
            return self._stopping or all(job.is_cancelled for job in jobs)

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
        except Exception as raised:  # any error: the thread must survive for the next request
            _LOG.exception("prediction failed")
            error = raised
        left = jobs[answered:]
        if len(jobs) > 1 and not isinstance(error, ServingError):
            for job in left:
                self._answer([job])
            return
        for job in left:
            job.answer.set_exception(error)
