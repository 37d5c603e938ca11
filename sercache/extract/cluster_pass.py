"""Run a pass over the corpus on a cluster: one engine task per shard, one progress bar, one failure limit."""

import time
from collections.abc import Sequence
from pathlib import Path

from sercache.cache.ledger import Ledger
from sercache.cache.store import Cache
from sercache.corpus import Corpus
from sercache.engines.protocol import Engine, Needs, Task
from sercache.engines.registry import EngineChoice
from sercache.errors import Interrupted, ProcessDied, SercacheError
from sercache.events import QUIET, Context, Event
from sercache.extract.device_pass import DevicePass, PassFeature, run_device_pass, stopped, times_real_time
from sercache.extract.resolve import resolve_feature, start_resolved
from sercache.recipe import FeatureRecipe


class ClusterPass:
    """Runs device passes, each of one task, on an engine with many workers.

    Args:
        name: the pass's name in events.
        device_passes: what to run; all fill the same feature sets.
        context: receives events, and says when to stop.
    """

    def __init__(self, name: str, device_passes: Sequence[DevicePass], context: Context) -> None:
        self.name = name
        self._passes = {device_pass.name: device_pass for device_pass in device_passes}
        self._any_pass = device_passes[0]
        self._total_seconds = sum(
            row.seconds for device_pass in device_passes for task in device_pass.tasks for row in task.rows
        )
        self._context = context
        self._done_seconds: dict[str, float] = {}
        self._finished: set[str] = set()
        self._over_limit: SercacheError | None = None
        self._started = time.monotonic()

    def run(self, engine: Engine, needs: Needs) -> None:
        """Run all device passes.

        The utterances of one whose workers crashed again and again are recorded as failed: one of them is
        likely to be the cause. The next extraction tries them once more.

        Raises:
            SercacheError: more utterances failed than may, or a device pass failed for another reason.
            Interrupted: ``context.should_stop`` returned True.
        """
        tasks = [
            Task(name, run_device_pass, (device_pass,), needs, _shared_folders(device_pass))
            for name, device_pass in self._passes.items()
        ]
        self._context.listener(Event("start", self.name, 0.0, self._total_seconds))
        try:
            errors = engine.run(tasks, Context(self._listen, self._should_stop))
        except Interrupted:
            raise self._over_limit or stopped(self.name, self._any_pass.cache_root) from None
        for name, error in errors.items():
            if not isinstance(error, ProcessDied):
                raise error
            _record_crash(self._passes[name], error)
            self._finished.add(name)
        self._check_limit()
        if self._over_limit is not None:
            raise self._over_limit
        self._context.listener(Event("finish", self.name, self._total_seconds, self._total_seconds))

    def _should_stop(self) -> bool:
        return self._over_limit is not None or self._context.should_stop()

    def _listen(self, event: Event) -> None:
        """Turn the progress of one device pass into that of the whole pass."""
        if event.kind in ("note", "warning") or event.task not in self._passes:
            self._context.listener(event)
            return
        self._done_seconds[event.task] = event.done
        if event.kind == "finish":
            self._finished.add(event.task)
            self._check_limit()
        done = sum(self._done_seconds.values())
        values: dict[str, str] = {"shards": f"{len(self._finished):,} of {len(self._passes):,}"}
        if self._any_pass.features[0].spec.modality == "audio":
            values["speed"] = times_real_time(done, self._started)
        self._context.listener(Event("advance", self.name, done, self._total_seconds, values=values))

    def _check_limit(self) -> None:
        """Count the failures of all finished tasks: a worker knows only those of its task."""
        tasks = {task.name for name in self._finished for task in self._passes[name].tasks}
        for feature in self._any_pass.features:
            ledger = Ledger(_feature_folder(self._any_pass, feature))
            failed = feature.failed + sum(failure.task in tasks for failure in ledger.failures.values())
            if failed > feature.failure_limit:
                self._over_limit = SercacheError(
                    f"{feature.name}: {failed} of {self._any_pass.corpus_size:,} utterances failed, at most "
                    f"{feature.failure_limit} may (--max-failures); all are in {ledger.path}"
                )


def needs_of(device: str, cores: int) -> Needs:
    """Return what a worker needs that encodes on a device; on a GPU its core only decodes."""
    return Needs(cores=max(1, cores)) if device == "cpu" else Needs(cores=1, gpus=1.0)


def resolve_on_cluster(
    engine: EngineChoice, cache_root: Path, name: str, recipe: FeatureRecipe, corpus: Corpus, device: str
) -> None:
    """Let a worker resolve a recipe on its device, and start the feature set.

    Raises:
        SercacheError: as :func:`~sercache.extract.resolve.resolve_feature` does.
    """
    task = Task(
        f"{name}: settings",
        _resolve_and_start,
        (cache_root, recipe, corpus, device),
        needs_of(device, 1),
        (cache_root,),
    )
    for error in engine.open(1, local="ray").run([task], QUIET).values():
        raise error


def _resolve_and_start(
    cache_root: Path, recipe: FeatureRecipe, corpus: Corpus, device: str, *, context: Context
) -> None:
    cache = Cache(cache_root)
    start_resolved(cache, resolve_feature(cache, recipe, corpus, device), device)


def _shared_folders(device_pass: DevicePass) -> tuple[Path, ...]:
    """Return the folders that every worker must see: the cache, which is written to, and the corpus."""
    return (device_pass.cache_root.resolve(), device_pass.corpus.root.resolve())


def _feature_folder(device_pass: DevicePass, feature: PassFeature) -> Path:
    return device_pass.cache_root / feature.spec.folder_name


def _record_crash(device_pass: DevicePass, error: ProcessDied) -> None:
    """Record every utterance of a device pass as failed."""
    for feature in device_pass.features:
        ledger = Ledger(_feature_folder(device_pass, feature))
        for task in device_pass.tasks:
            for row in task.rows:
                ledger.record(row.utterance.id, "encode", error, task.name)
        ledger.save()
