"""One pass over the inputs on one device, for several feature sets at once.

Reader threads decode and prepare what comes next; this thread only starts batches; one thread waits for them,
checks and converts them; one writes shards. Every queue between them is bounded.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.ledger import Ledger
from sercache.cache.shard import StoredUtterance
from sercache.cache.store import shard_path
from sercache.cache.writer import start_feature_set
from sercache.corpus import Corpus
from sercache.encoders.protocol import Encoder, Precision, StagedEncoder
from sercache.encoders.registry import load_encoder
from sercache.errors import CacheError, Interrupted
from sercache.events import QUIET, Context, Event
from sercache.extract.autotune import restore_batch_limit
from sercache.extract.encode import FailedRow, Ready, group_by_seconds, prepare_input, read_ahead, read_input
from sercache.extract.schedule import WORD_PIECES_PER_SECOND, ShardTask, TimedUtterance
from sercache.extract.write import FeatureWriter, ShardPublisher
from sercache.recipe import FeatureRecipe

_AHEAD_SECONDS = 300.0
"""Audio that is decoded before it is asked for; 19 MB at 16 kHz."""

_LEAST_COST_SECONDS = 4.0
"""What a short clip counts there: Whisper's input for it is as large as for 30 s."""

_GROUP_SECONDS = {"audio": 20.0, "text": 300.0}
"""Speech in one group at least; on a CPU a Ctrl-C waits for it."""

_READERS = min(8, os.cpu_count() or 1)

_GROUPS_IN_FLIGHT = 2
"""Groups started and not collected: on a GPU one computes while another is copied and checked."""


@dataclass(frozen=True, slots=True)
class PassFeature:
    """A feature set that a pass fills.

    Attributes:
        name: what the recipe calls it.
        recipe: what the recipe asks for.
        spec: what the feature set holds.
        failed: how many utterances of the corpus failed before.
        failure_limit: how many may fail.
    """

    name: str
    recipe: FeatureRecipe
    spec: FeatureSpec
    failed: int
    failure_limit: int


@dataclass(frozen=True, slots=True)
class DevicePass:
    """The tasks of one device in a pass, in a form that other processes can be sent.

    Attributes:
        name: the pass's name in events.
        corpus: holds the utterances of the tasks, and the folder of their audio.
        corpus_size: how many utterances the whole corpus has.
        cache_root: folder of the cache.
        features: the feature sets to fill; their encoders read the same kind of input at the same rate.
        tasks: the tasks, in order.
        device: where to compute.
        started_ns: when the pass was started, in nanoseconds since 1970. Where the process died and the tasks
            are run again, shards that are younger are not made again.
    """

    name: str
    corpus: Corpus
    corpus_size: int
    cache_root: Path
    features: tuple[PassFeature, ...]
    tasks: tuple[ShardTask, ...]
    device: str
    started_ns: int


def run_device_pass(
    device_pass: DevicePass, encoders: Sequence[Encoder] = (), *, context: Context = QUIET
) -> None:
    """Run a device's tasks; the results are shards in the cache.

    Args:
        device_pass: the tasks.
        encoders: one per feature set, if they are loaded already.
        context: receives events, and says when to stop.

    Raises:
        SercacheError: too many utterances failed, or the cache cannot be written.
        Interrupted: ``context.should_stop`` returned True.
    """
    if device_pass.device.startswith("cuda"):
        import torch

        torch.cuda.set_device(device_pass.device)  # else pinned memory claims a context on the first GPU too
    encoders = encoders or _load_encoders(device_pass)
    writers = [
        _open_writer(device_pass, feature, encoder)
        for feature, encoder in zip(device_pass.features, encoders, strict=True)
    ]
    folders = [writer.feature_set.folder for writer in writers]
    pending = [task for task in device_pass.tasks if not _is_done(task, folders, device_pass.started_ns)]
    with ExitStack() as stack:
        if any(isinstance(encoder, StagedEncoder) for encoder in encoders):
            from sercache.encoders.checkpoint import quiet_transformers

            stack.enter_context(quiet_transformers())
        _Pipeline(device_pass.name, device_pass.corpus, writers, context).run(pending)


def split_evenly(tasks: Sequence[ShardTask], count: int) -> list[tuple[ShardTask, ...]]:
    """Split tasks over ``count`` devices; they are sorted by length, so every device gets the same mix.

    >>> tasks = [ShardTask("a", ()), ShardTask("b", ()), ShardTask("c", ())]
    >>> [[task.name for task in part] for part in split_evenly(tasks, 2)]
    [['a', 'c'], ['b']]
    """
    return [tuple(tasks[first::count]) for first in range(count)]


def _is_done(task: ShardTask, folders: Sequence[Path], started_ns: int) -> bool:
    """Return whether every feature set got the task's shard since the pass was started."""
    paths = [shard_path(folder, task.name) for folder in folders]
    return all(path.exists() and path.stat().st_mtime_ns > started_ns for path in paths)


_loaded_encoders: dict[tuple[FeatureRecipe, str, Precision], Encoder] = {}
"""The encoders of the last pass: a worker that runs one pass after the other loads them once."""


def _load_encoders(device_pass: DevicePass) -> list[Encoder]:
    keys = [(feature.recipe, device_pass.device, feature.spec.precision) for feature in device_pass.features]
    for stale in _loaded_encoders.keys() - keys:
        del _loaded_encoders[stale]
    load: Callable[..., Encoder] = load_encoder
    for key in keys:
        if key not in _loaded_encoders:
            recipe, device, precision = key
            _loaded_encoders[key] = load(
                recipe.encoder,
                recipe.layers,
                device=device,
                precision=precision,
                trust_remote_code=recipe.trust_remote_code,
            )
    return [_loaded_encoders[key] for key in keys]


def _open_writer(device_pass: DevicePass, feature: PassFeature, encoder: Encoder) -> FeatureWriter:
    feature_set = start_feature_set(device_pass.cache_root, feature.spec)
    if encoder.spec.revision != feature.spec.revision:
        raise CacheError(f"{feature.name}: the encoder has changed while features were extracted with it")
    restore_batch_limit(feature_set.folder, device_pass.device, encoder)
    return FeatureWriter(
        name=feature.name,
        encoder=encoder,
        feature_set=feature_set,
        ledger=Ledger(feature_set.folder),
        corpus_size=device_pass.corpus_size,
        failed=feature.failed,
        failure_limit=feature.failure_limit,
        device=device_pass.device,
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows that are encoded together.

    Attributes:
        task: the task that they belong to.
        rows: for every row its utterance, and the input prepared for every writer.
        is_last: whether they are the last rows of the task.
    """

    task: ShardTask
    rows: Sequence[tuple[TimedUtterance, tuple[Ready, ...]]]
    is_last: bool


@dataclass
class _Pipeline:
    """Runs tasks in order, each for all feature sets.

    Attributes:
        name: the pass's name in events.
        corpus: holds the folder of the audio.
        writers: one per feature set; their encoders read the same kind of input at the same rate.
        context: receives events, and says when to stop.
    """

    name: str
    corpus: Corpus
    writers: Sequence[FeatureWriter]
    context: Context
    _done_seconds: float = 0.0
    _total_seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    def run(self, tasks: Sequence[ShardTask]) -> None:
        """Run tasks; a task is done once every feature set has its shard on disk.

        Raises:
            SercacheError: more utterances failed than may.
            CacheError: a value does not fit into the dtype, or the cache cannot be written.
            Interrupted: ``context.should_stop`` returned True; the tasks in flight are dropped.
        """
        rows = [row for task in tasks for row in task.rows]
        self._total_seconds = sum(row.seconds for row in rows)
        self.context.listener(Event("start", self.name, 0.0, self._total_seconds))
        costs = ((row, max(row.seconds, _LEAST_COST_SECONDS)) for row in rows)
        reading = read_ahead(self._read, costs, limit=_AHEAD_SECONDS, workers=_READERS)
        in_flight: deque[tuple[_Group, list[Future[list[StoredUtterance | FailedRow]]]]] = deque()
        with closing(reading), ThreadPoolExecutor(max_workers=1) as converter, ShardPublisher() as publisher:
            try:
                for group in self._groups(tasks, reading):
                    converted = []
                    for index, writer in enumerate(self.writers):
                        finish = writer.start([ready[index] for _, ready in group.rows])
                        converted.append(converter.submit(writer.convert, finish))
                    in_flight.append((group, converted))
                    if len(in_flight) >= _GROUPS_IN_FLIGHT:
                        self._collect(*in_flight.popleft(), publisher)
                while in_flight:
                    self._collect(*in_flight.popleft(), publisher)
                publisher.wait()
            finally:
                for _, converted in in_flight:
                    for future in converted:
                        future.cancel()
                for writer in self.writers:
                    writer.save_ledger()
        self.context.listener(Event("finish", self.name, self._total_seconds, self._total_seconds))

    def _read(self, timed: TimedUtterance) -> tuple[Ready, ...]:
        """Decode an utterance once, and prepare it for every writer."""
        row = read_input(self.corpus, timed.utterance, self.writers[0].spec.sample_rate_hz)
        return tuple(prepare_input(writer.encoder, writer.spec, row) for writer in self.writers)

    def _groups(self, tasks: Sequence[ShardTask], reading: Iterator[tuple[Ready, ...]]) -> Iterator[_Group]:
        """Yield groups of rows of similar length, large enough for a whole batch of every encoder."""
        spec = self.writers[0].spec
        per_second = spec.sample_rate_hz or WORD_PIECES_PER_SECOND
        encoders = [writer.encoder for writer in self.writers]
        limits = [encoder.batch_limit for encoder in encoders if isinstance(encoder, StagedEncoder)]
        limit_seconds = max([_GROUP_SECONDS[spec.modality], *(limit / per_second for limit in limits)])
        for task in tasks:
            read = zip(task.rows, islice(reading, len(task.rows)), strict=True)
            costs = ((pair, pair[0].seconds) for pair in read)
            left = len(task.rows)
            for rows in group_by_seconds(costs, limit_seconds):
                left -= len(rows)
                yield _Group(task, rows, is_last=left == 0)

    def _collect(
        self,
        group: _Group,
        converted: Sequence["Future[list[StoredUtterance | FailedRow]]"],
        publisher: ShardPublisher,
    ) -> None:
        """Wait for a group, and publish the shards of its task after the last one."""
        if self.context.should_stop():
            publisher.wait()
            raise stopped(self.name, self.writers[0].feature_set.folder.parent)
        for writer, future in zip(self.writers, converted, strict=True):
            writer.collect(future.result(), group.task)
            if group.is_last:
                writer.publish(group.task, publisher)
        self._done_seconds += sum(timed.seconds for timed, _ in group.rows)
        self._report_progress()

    def _report_progress(self) -> None:
        values: dict[str, str | int] = {"utterances": f"{max(writer.extracted for writer in self.writers):,}"}
        if failed := max(writer.failed for writer in self.writers):
            values["failed"] = failed
        if self.writers[0].spec.modality == "audio":
            values["speed"] = times_real_time(self._done_seconds, self._started)
        self.context.listener(
            Event("advance", self.name, self._done_seconds, self._total_seconds, values=values)
        )


def times_real_time(done_seconds: float, started: float) -> str:
    """Return how fast speech is encoded since ``started``, a time of ``time.monotonic``."""
    speed = done_seconds / max(time.monotonic() - started, 1e-9)
    return f"{speed:.0f}x real time" if speed >= 10 else f"{speed:.1f}x real time"


def stopped(name: str, cache_root: Path) -> Interrupted:
    """Return the error of a pass that was interrupted."""
    return Interrupted(
        f"{name}: stopped; finished shards are in {cache_root}, the same command goes on from there"
    )
