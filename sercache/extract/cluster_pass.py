"""Run a pass over the corpus on a cluster: one task per shard, one progress bar, one failure limit."""

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
from sercache.extract.device_pass import Feature, Share, run_share
from sercache.extract.resolve import open_settled, settle
from sercache.recipe import FeatureRecipe


class Spread:
    """Runs the shares of a pass, each of one task, on an engine with many workers.

    Args:
        name: what to call the pass in events.
        context: receives events, and says when to stop.
    """

    def __init__(self, name: str, context: Context) -> None:
        self.name = name
        self._context = context
        self._shares: dict[str, Share] = {}
        self._done_seconds: dict[str, float] = {}
        self._finished: set[str] = set()
        self._over_limit: SercacheError | None = None
        self._started = time.monotonic()

    def run(self, engine: Engine, shares: Sequence[Share], needs: Needs) -> None:
        """Run all shares.

        The utterances of a share whose workers died again and again are noted as failed: one of them is
        likely to blame. The next extraction tries them once more.

        Raises:
            SercacheError: more utterances failed than may, or a share failed for another reason.
            Interrupted: ``context.should_stop`` returned True.
        """
        self._shares = {share.name: share for share in shares}
        tasks = [Task(share.name, run_share, (share,), needs, _folders(share)) for share in shares]
        self._context.listener(Event("start", self.name, 0.0, self._total_seconds))
        try:
            errors = engine.run(tasks, Context(self._listen, self._wants_to_stop))
        except Interrupted:
            raise self._over_limit or stopped(self.name, shares[0].cache_root) from None
        for name, error in errors.items():
            if not isinstance(error, ProcessDied):
                raise error
            _note(self._shares[name], error)
            self._finished.add(name)
        self._check_limit()
        if self._over_limit is not None:
            raise self._over_limit
        self._context.listener(Event("finish", self.name, self._total_seconds, self._total_seconds))

    @property
    def _total_seconds(self) -> float:
        return sum(
            row.seconds for share in self._shares.values() for task in share.tasks for row in task.rows
        )

    def _wants_to_stop(self) -> bool:
        return self._over_limit is not None or self._context.should_stop()

    def _listen(self, event: Event) -> None:
        if event.kind in ("note", "warning") or event.task not in self._shares:
            self._context.listener(event)
            return
        self._done_seconds[event.task] = event.done
        if event.kind == "finish":
            self._finished.add(event.task)
            self._check_limit()
        done = sum(self._done_seconds.values())
        values: dict[str, str] = {"shards": f"{len(self._finished):,} of {len(self._shares):,}"}
        if next(iter(self._shares.values())).features[0].spec.modality == "audio":
            speed = done / max(time.monotonic() - self._started, 1e-9)
            values["speed"] = f"{speed:.0f}x real time" if speed >= 10 else f"{speed:.1f}x real time"
        self._context.listener(Event("advance", self.name, done, self._total_seconds, values=values))

    def _check_limit(self) -> None:
        """Count what failed in finished shares: each worker knows only of its own."""
        tasks = {task.name for name in self._finished for task in self._shares[name].tasks}
        share = next(iter(self._shares.values()))
        for feature in share.features:
            ledger = Ledger(_folder(share, feature))
            failed = feature.failed + sum(failure.task in tasks for failure in ledger.failures.values())
            if failed > feature.failure_limit:
                self._over_limit = SercacheError(
                    f"{feature.name}: {failed} of {share.corpus_size:,} utterances failed, at most "
                    f"{feature.failure_limit} may (--max-failures); all are in {ledger.path}"
                )


def needs_of(device: str, cores: int) -> Needs:
    """Return what a worker takes that encodes on a device; on a GPU its cores only decode."""
    return Needs(cores=max(1, cores)) if device == "cpu" else Needs(cores=1, gpus=1.0)


def settle_elsewhere(
    engine: EngineChoice, cache_root: Path, name: str, recipe: FeatureRecipe, corpus: Corpus, device: str
) -> None:
    """Let a worker decide what a recipe leaves open, on its own device, and begin the feature set.

    Raises:
        SercacheError: as :func:`~sercache.extract.resolve.settle` does.
    """
    task = Task(
        f"{name}: settings", _settle, (cache_root, recipe, corpus, device), needs_of(device, 1), (cache_root,)
    )
    for error in engine.open(1, local="ray").run([task], QUIET).values():
        raise error


def stopped(name: str, cache_root: Path) -> Interrupted:
    """Return what to say of a pass that was interrupted."""
    return Interrupted(
        f"{name}: stopped; finished shards are in {cache_root}, the same command goes on from there"
    )


def _settle(
    cache_root: Path,
    recipe: FeatureRecipe,
    corpus: Corpus,
    device: str,
    *,
    context: Context,
) -> None:
    cache = Cache(cache_root)
    open_settled(cache, settle(cache, recipe, corpus, device), device)


def _folders(share: Share) -> tuple[Path, ...]:
    """Return what every worker must see: the cache, which is written to, and where the corpus lies."""
    return (share.cache_root.resolve(), share.corpus.root.resolve())


def _folder(share: Share, feature: Feature) -> Path:
    return share.cache_root / feature.spec.folder_name


def _note(share: Share, error: ProcessDied) -> None:
    for feature in share.features:
        ledger = Ledger(_folder(share, feature))
        for task in share.tasks:
            for row in task.rows:
                ledger.record(row.utterance.id, "encode", error, task.name)
        ledger.save()
