"""Write what an encoder computes: frames to shards, failures to the ledger, speed to ``speed.json``."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.frames import to_storage
from sercache.cache.ledger import Ledger
from sercache.cache.shard import StoredUtterance
from sercache.cache.store import FeatureSet
from sercache.cache.usage import EncodingSpeed, add_speed
from sercache.cache.writer import cannot_write, publish_shard
from sercache.encoders.protocol import Encoder
from sercache.errors import CacheError, SercacheError
from sercache.extract.encode import FailedRow, Finish, Ready, start_encoding
from sercache.extract.schedule import CHARACTERS_PER_SECOND, ShardTask


class ShardPublisher:
    """Writes shards in a thread, so that the encoder goes on while the disk syncs.

    At most one shard waits, so that memory stays flat. An error is raised by the next call.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._last: Future[None] | None = None

    def publish(self, feature_set: FeatureSet, task: str, utterances: Sequence[StoredUtterance]) -> None:
        """Publish a shard once the one before is on disk."""
        self.wait()
        self._last = self._pool.submit(publish_shard, feature_set, task, utterances)

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
            CacheError: the last shard could not be written.
        """
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)


@dataclass
class FeatureWriter:
    """Encodes the rows of a pass for one feature set, and writes what comes of them.

    Attributes:
        name: what the recipe calls the feature set.
        encoder: computes the frames.
        feature_set: receives them.
        ledger: receives the failures.
        corpus_size: how many utterances the corpus has.
        failed: how many of them have failed so far, earlier extractions included.
        failure_limit: how many may fail.
        device: where the encoder computes.
        extracted: how many utterances got their frames in this pass.
    """

    name: str
    encoder: Encoder
    feature_set: FeatureSet
    ledger: Ledger
    corpus_size: int
    failed: int
    failure_limit: int
    device: str
    extracted: int = 0
    _stored: list[StoredUtterance] = field(default_factory=list)
    # Appended to by several threads.
    _encode_seconds: list[float] = field(default_factory=list)
    _speech_seconds: list[float] = field(default_factory=list)

    @property
    def spec(self) -> FeatureSpec:
        """What the feature set holds."""
        return self.feature_set.spec

    def start(self, group: Sequence[Ready]) -> Finish:
        """Start to encode a group of rows that were prepared for this feature set."""
        started = time.perf_counter()
        finish = start_encoding(self.encoder, self.spec, group)
        self._encode_seconds.append(time.perf_counter() - started)
        return finish

    def convert(self, finish: Finish) -> list[StoredUtterance | FailedRow]:
        """Wait for a group and convert its frames to the form that is stored; any thread may do this.

        Raises:
            CacheError: a value does not fit into the feature set's dtype.
        """
        started = time.perf_counter()
        encoded = finish()
        self._encode_seconds.append(time.perf_counter() - started)
        dtype = self.spec.dtype or "float32"
        converted: list[StoredUtterance | FailedRow] = []
        for result in encoded:
            if isinstance(result, FailedRow):
                converted.append(result)
                continue
            row = result.row
            try:
                planes = to_storage(result.frames, dtype)  # (L, T, D)
            except CacheError as error:
                raise self._does_not_fit(row.utterance.id, error) from error
            is_text = isinstance(row.content, str)
            self._speech_seconds.append(len(row.content) / CHARACTERS_PER_SECOND if is_text else row.seconds)
            converted.append(StoredUtterance(row.utterance.id, tuple(planes), row.seconds, row.source))
        return converted

    def collect(self, rows: Sequence[StoredUtterance | FailedRow], task: ShardTask) -> None:
        """Keep the converted rows of a group until their task is published, and record those that failed.

        Raises:
            SercacheError: more utterances failed than may.
        """
        for row in rows:
            if isinstance(row, FailedRow):
                self._record_failure(row, task)
            else:
                self._stored.append(row)
                self.extracted += 1

    def publish(self, task: ShardTask, publisher: ShardPublisher) -> None:
        """Publish the shard of a task whose groups were all collected."""
        utterances, self._stored = self._stored, []
        for utterance in utterances:
            self.ledger.forget(utterance.id)
        # The ledger goes first: a failure counts only once its task's shard is there.
        self.save_ledger()
        self._save_speed()
        publisher.publish(self.feature_set, task.name, utterances)

    def save_ledger(self) -> None:
        """Write the failures to the ledger.

        Raises:
            CacheError: the disk is full or the folder is not writable.
        """
        known = set(self.ledger.failures)
        try:
            self.ledger.save()
        except OSError as error:
            raise cannot_write(self.ledger.path, error) from error
        self.failed += len(self.ledger.failures.keys() - known)  # those of other devices

    def _save_speed(self) -> None:
        spoken, self._speech_seconds = self._speech_seconds, []
        taken, self._encode_seconds = self._encode_seconds, []
        speed = EncodingSpeed(sum(spoken), sum(taken))
        with suppress(OSError):  # a measurement; if the disk is full, the shard will say so
            add_speed(self.feature_set.folder, self.device.partition(":")[0], speed)

    def _does_not_fit(self, utterance_id: str, error: CacheError) -> CacheError:
        wider = "float32" if self.spec.dtype == "bfloat16" else "bfloat16"
        return CacheError(
            f"{self.name}: utterance '{utterance_id}': {error}; "
            f"set dtype: {wider} for this feature set and extract again"
        )

    def _record_failure(self, row: FailedRow, task: ShardTask) -> None:
        failure = self.ledger.record(row.utterance.id, row.stage, row.error, task.name)
        self.failed += 1
        if self.failed > self.failure_limit:
            raise SercacheError(
                f"{self.name}: {self.failed} of {self.corpus_size:,} utterances failed, at most "
                f"{self.failure_limit} may (--max-failures); all are in {self.ledger.path}; the last: "
                f"'{failure.utterance}' ({failure.stage}: {failure.message})"
            )
