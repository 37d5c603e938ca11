"""Running the tasks of one feature set: decode, encode, publish; failures are noted, not raised."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

from sercache.cache.ledger import Ledger
from sercache.cache.precision import to_storage
from sercache.cache.shard import StoredUtterance
from sercache.cache.store import FeatureSet
from sercache.cache.writer import cannot_write, publish_shard
from sercache.corpus import Corpus
from sercache.encoders.protocol import Encoder
from sercache.errors import CacheError, Interrupted, SercacheError
from sercache.events import Event, Listener
from sercache.extract.encoding import EncodedUtterance, encode_rows
from sercache.extract.inputs import EncoderInput, FailedRow, read_ahead, read_input
from sercache.extract.plan import PlannedUtterance, Task
from sercache.interrupts import ShouldStop

_AHEAD_SECONDS = 300.0
"""Audio that is decoded before the encoder asks for it; 19 MB at 16 kHz."""

_DECODERS = min(4, os.cpu_count() or 1)


@dataclass
class TaskRunner:
    """Runs tasks one after the other; utterances of the next ones are decoded while one is encoded.

    Attributes:
        name: what the recipe calls the feature set.
        corpus: where utterances find their audio.
        encoder: what turns them into frames.
        device: where it computes.
        feature_set: where the frames go.
        ledger: where failures are noted.
        failed: utterances of the corpus that failed so far, earlier extractions included.
        failure_limit: how many may.
        listener: is told of the progress.
        should_stop: is asked between calls of the encoder.
    """

    name: str
    corpus: Corpus
    encoder: Encoder
    device: str
    feature_set: FeatureSet
    ledger: Ledger
    failed: int
    failure_limit: int
    listener: Listener
    should_stop: ShouldStop
    extracted: int = 0
    _published: int = 0
    _done_seconds: float = 0.0
    _total_seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    def run(self, tasks: Sequence[Task]) -> None:
        """Run tasks; each one's shard is on disk before the next begins.

        Raises:
            SercacheError: more utterances failed than may.
            CacheError: a value does not fit into the dtype, or the cache cannot be written.
            Interrupted: ``should_stop`` said so; the task in flight is dropped.
        """
        rows = [row for task in tasks for row in task.rows]
        self._total_seconds = sum(row.seconds for row in rows)
        self.listener(Event("start", self.name, 0.0, self._total_seconds))
        inputs = read_ahead(
            self._read,
            ((row, max(row.seconds, 1.0)) for row in rows),
            limit=_AHEAD_SECONDS,
            workers=_DECODERS,
        )
        with closing(inputs):
            try:
                for task in tasks:
                    self._run_task(task, islice(inputs, len(task.rows)))
            finally:
                self._save_ledger()
        self.listener(Event("finish", self.name, self._total_seconds, self._total_seconds))

    def _read(self, row: PlannedUtterance) -> EncoderInput | FailedRow:
        return read_input(self.corpus, row.utterance, self.feature_set.spec)

    def _run_task(self, task: Task, inputs: Iterator[EncoderInput | FailedRow]) -> None:
        planned = iter(task.rows)
        stored: list[StoredUtterance] = []
        for group in encode_rows(self.encoder, self.feature_set.spec, inputs, self.device):
            if self.should_stop():
                raise Interrupted(
                    f"{self.name}: stopped; {len(self.feature_set) + self._published:,} utterances are in "
                    f"{self.feature_set.folder}, the same command goes on from there"
                )
            for row in group:
                if isinstance(row, FailedRow):
                    self._note(row, task)
                else:
                    stored.append(self._stored(row))
            self.extracted += sum(isinstance(row, EncodedUtterance) for row in group)
            self._done_seconds += sum(row.seconds for row in islice(planned, len(group)))
            self._tell()
        for utterance in stored:
            self.ledger.forget(utterance.id)
        # The ledger goes first: a failure counts only once its task's shard is there.
        self._save_ledger()
        publish_shard(self.feature_set, task.name, stored)
        self._published += len(stored)

    def _stored(self, row: EncodedUtterance) -> StoredUtterance:
        spec, source = self.feature_set.spec, row.source
        try:
            planes = to_storage(row.frames, spec.dtype or "float32")
        except CacheError as error:
            wider = "float32" if spec.dtype == "bfloat16" else "bfloat16"
            raise CacheError(
                f"{self.name}: utterance '{source.utterance.id}': {error}; "
                f"set dtype: {wider} for this feature set and extract again"
            ) from error
        return StoredUtterance(source.utterance.id, tuple(planes), source.seconds, source.source)

    def _note(self, row: FailedRow, task: Task) -> None:
        failure = self.ledger.record(row.utterance.id, row.stage, row.error, task.name)
        self.failed += 1
        if self.failed > self.failure_limit:
            raise SercacheError(
                f"{self.name}: {self.failed} of {len(self.corpus):,} utterances failed, at most "
                f"{self.failure_limit} may (--max-failures); all are in {self.ledger.path}; the last: "
                f"'{failure.utterance}' ({failure.stage}: {failure.message})"
            )

    def _tell(self) -> None:
        values: dict[str, str | int] = {"utterances": f"{self.extracted:,}"}
        if self.failed:
            values["failed"] = self.failed
        if self.feature_set.spec.modality == "audio":
            speed = self._done_seconds / max(time.monotonic() - self._started, 1e-9)
            values["speed"] = f"{speed:.0f}x real time" if speed >= 10 else f"{speed:.1f}x real time"
        self.listener(Event("advance", self.name, self._done_seconds, self._total_seconds, values=values))

    def _save_ledger(self) -> None:
        try:
            self.ledger.save()
        except OSError as error:
            raise cannot_write(self.ledger.path, error) from error
