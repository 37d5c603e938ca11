"""One pass over the inputs for several encoders: decode -> encode -> check -> publish, all at the same time.

Reader threads decode and prepare what comes next; this thread only begins batches; one thread waits for them,
checks them and converts them; one writes shards. Every queue between them is bounded.
"""

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

from sercache.cache.shard import StoredUtterance
from sercache.corpus import Corpus
from sercache.encoders.protocol import StagedEncoder
from sercache.errors import Interrupted
from sercache.events import Context, Event
from sercache.extract.encode import Ready, group_by_seconds, prepare_row
from sercache.extract.inputs import FailedRow, read_ahead, read_input
from sercache.extract.schedule import WORD_PIECES_PER_SECOND, PlannedUtterance, Task
from sercache.extract.write import Lane, Publisher

_AHEAD_SECONDS = 300.0
"""Audio that is decoded before it is asked for; 19 MB at 16 kHz."""

_LEAST_COST_SECONDS = 4.0
"""What a short clip counts there: Whisper's input for it is as large as for 30 s."""

_GROUP_SECONDS = {"audio": 20.0, "text": 300.0}
"""Speech in one group at least; on a CPU a Ctrl-C waits for it."""

_READERS = min(8, os.cpu_count() or 1)

_GROUPS_IN_FLIGHT = 2
"""Groups begun and not collected: on a GPU one computes while another is copied and checked."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A group on its way through every lane."""

    task: Task
    rows: int
    seconds: float
    is_last: bool
    stored: tuple["Future[list[StoredUtterance | FailedRow]]", ...]


@dataclass
class PassRunner:
    """Runs tasks in order, each through all lanes.

    Attributes:
        name: what to call the pass in events.
        corpus: where utterances find their audio.
        lanes: the feature sets to fill; their encoders read the same kind of input at the same rate.
        context: receives events, and says when to stop.
    """

    name: str
    corpus: Corpus
    lanes: Sequence[Lane]
    context: Context
    _done_seconds: float = 0.0
    _total_seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    def run(self, tasks: Sequence[Task]) -> None:
        """Run tasks; a task is done once each lane's shard of it is on disk.

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
        begun: deque[_Begun] = deque()
        with closing(reading), ThreadPoolExecutor(max_workers=1) as finisher, Publisher() as publisher:
            try:
                for task, group, is_last in self._groups(tasks, reading):
                    begun.append(self._begin(task, group, is_last, finisher))
                    while len(begun) >= _GROUPS_IN_FLIGHT:
                        self._collect(begun.popleft(), publisher)
                while begun:
                    self._collect(begun.popleft(), publisher)
                publisher.wait()
            finally:
                for group_begun in begun:
                    for future in group_begun.stored:
                        future.cancel()
                for lane in self.lanes:
                    lane.save_ledger()
        self.context.listener(Event("finish", self.name, self._total_seconds, self._total_seconds))

    def _read(self, planned: PlannedUtterance) -> tuple[Ready, ...]:
        """Decode an utterance once, and prepare it for every lane."""
        row = read_input(self.corpus, planned.utterance, self.lanes[0].spec.sample_rate_hz)
        return tuple(prepare_row(lane.encoder, lane.spec, row) for lane in self.lanes)

    def _groups(
        self, tasks: Sequence[Task], reading: Iterator[tuple[Ready, ...]]
    ) -> Iterator[tuple[Task, list[tuple[PlannedUtterance, tuple[Ready, ...]]], bool]]:
        """Yield groups of rows of similar length, and whether a group is its task's last."""
        limit_seconds = self._group_seconds
        for task in tasks:
            read = zip(task.rows, islice(reading, len(task.rows)), strict=True)
            costs = ((pair, pair[0].seconds) for pair in read)
            left = len(task.rows)
            for group in group_by_seconds(costs, limit_seconds):
                left -= len(group)
                yield task, group, left == 0

    @property
    def _group_seconds(self) -> float:
        """Audio in one group: enough for a whole batch of every lane."""
        spec = self.lanes[0].spec
        per_second = spec.sample_rate_hz or WORD_PIECES_PER_SECOND
        encoders = [lane.encoder for lane in self.lanes]
        limits = [encoder.batch_limit for encoder in encoders if isinstance(encoder, StagedEncoder)]
        return max([_GROUP_SECONDS[spec.modality], *(limit / per_second for limit in limits)])

    def _begin(
        self,
        task: Task,
        group: Sequence[tuple[PlannedUtterance, tuple[Ready, ...]]],
        is_last: bool,
        finisher: ThreadPoolExecutor,
    ) -> _Begun:
        stored = []
        for index, lane in enumerate(self.lanes):
            finish = lane.begin([ready[index] for _, ready in group])
            stored.append(finisher.submit(lane.stored, finish))
        seconds = sum(planned.seconds for planned, _ in group)
        return _Begun(task, len(group), seconds, is_last, tuple(stored))

    def _collect(self, begun: _Begun, publisher: Publisher) -> None:
        if self.context.should_stop():
            publisher.wait()
            lane = self.lanes[0]
            raise Interrupted(
                f"{self.name}: stopped; finished shards are in {lane.feature_set.folder.parent}, "
                "the same command goes on from there"
            )
        for lane, stored in zip(self.lanes, begun.stored, strict=True):
            lane.collect(stored.result(), begun.task)
            if begun.is_last:
                lane.publish(begun.task, publisher)
        self._done_seconds += begun.seconds
        self._tell()

    def _tell(self) -> None:
        values: dict[str, str | int] = {"utterances": f"{max(lane.extracted for lane in self.lanes):,}"}
        if failed := max(lane.failed for lane in self.lanes):
            values["failed"] = failed
        if self.lanes[0].spec.modality == "audio":
            speed = self._done_seconds / max(time.monotonic() - self._started, 1e-9)
            values["speed"] = f"{speed:.0f}x real time" if speed >= 10 else f"{speed:.1f}x real time"
        self.context.listener(
            Event("advance", self.name, self._done_seconds, self._total_seconds, values=values)
        )
