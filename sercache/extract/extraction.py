"""Extraction: every utterance of a corpus through frozen encoders, once, into the cache."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sercache.cache.ledger import Ledger, default_failure_limit
from sercache.cache.store import Cache, FeatureSet
from sercache.corpus import Corpus, Utterance
from sercache.devices import usable_cores
from sercache.encoders.protocol import Encoder
from sercache.encoders.registry import ENCODERS, check_encoder
from sercache.engines.protocol import Needs, Task
from sercache.engines.registry import AUTO, LOCAL, EngineChoice
from sercache.engines.task_range import TaskRange
from sercache.errors import Interrupted, SercacheError
from sercache.events import QUIET, Context
from sercache.extract.cluster_pass import ClusterPass, needs_of, resolve_on_cluster
from sercache.extract.device_pass import DevicePass, PassFeature, run_device_pass, split_evenly, stopped
from sercache.extract.resolve import (
    drop_changed,
    pending_utterances,
    refuse_changed,
    resolve_feature,
    start_resolved,
)
from sercache.extract.schedule import ShardTask, cut_into_tasks, expected_lengths, restrict_tasks
from sercache.files import locked, remove_stale_temporaries
from sercache.recipe import FeatureRecipe


@dataclass(frozen=True, slots=True)
class FeatureReport:
    """The result of the extraction for one feature set.

    Attributes:
        name: what the recipe calls it.
        folder: its folder in the cache.
        extracted: utterances encoded now.
        reused: utterances of the corpus that were there before.
        failed: utterances of the corpus that have no features; ``failures.csv`` says why.
        elsewhere: utterances without features that belong to another part of the tasks.
        size_bytes: size of the whole feature set on disk.
        audio_seconds: length of all audio in it; 0 for text.
        took_seconds: how long it took; feature sets of one pass share the time.
    """

    name: str
    folder: Path
    extracted: int
    reused: int
    failed: int
    elsewhere: int
    size_bytes: int
    audio_seconds: float
    took_seconds: float


@dataclass(frozen=True, slots=True)
class ExtractionReport:
    """The result for every feature set, in the recipe's order."""

    features: tuple[FeatureReport, ...]


def extract(
    corpus: Corpus,
    features: Mapping[str, FeatureRecipe],
    cache_root: Path,
    *,
    devices: Sequence[str] = ("auto",),
    max_failures: int | None = None,
    retry_failed: bool = False,
    replace_changed: bool = False,
    engine: EngineChoice = LOCAL,
    part: TaskRange | None = None,
    context: Context = QUIET,
) -> ExtractionReport:
    """Bring every feature set up to date with a corpus; what is in the cache is not computed again.

    Neighbours in ``features`` whose encoders read the same (audio at one rate, or the same texts) share one
    pass: an utterance is decoded once and goes through all of them.

    Args:
        corpus: the utterances.
        features: feature sets by name.
        cache_root: folder of the cache.
        devices: ``auto``, or devices as torch names them; with several, each does a part of the tasks in
            its own process (``("cuda:0", "cuda:1")``, ``("cpu", "cpu")``). On a cluster, which knows its
            devices, ``cpu`` or ``cuda``, repeated for at most so many workers.
        max_failures: how many utterances of a feature set may fail; None for 5 % of the corpus, but at least
            10, and never all of it.
        retry_failed: try again what failed before.
        replace_changed: extract anew what changed since it was extracted.
        engine: where to extract.
        part: which of the tasks to do; None for all. Several parts may be done at once.
        context: receives events, and says when to stop.

    Raises:
        SercacheError: too many utterances failed.
        CacheError: the cache holds other audio or text under an id, cannot be written, or is damaged.
        EncoderError: an encoder cannot be loaded.
        Interrupted: ``context.should_stop`` returned True; all shards published until then stay.
    """
    if part is not None and replace_changed:
        raise SercacheError("--replace-changed takes features away: do it once, without --task-range")
    for recipe in features.values():  # a misspelt name must not show after hours of work on the one before
        check_encoder(recipe.encoder, recipe.layers, trust_remote_code=recipe.trust_remote_code)
    extraction = _Extraction(
        corpus=corpus,
        cache=Cache(cache_root),
        devices=_resolve_devices(features, devices, engine),
        engine=engine,
        part=part,
        failure_limit=default_failure_limit(len(corpus)) if max_failures is None else max_failures,
        retry_failed=retry_failed,
        replace_changed=replace_changed,
        context=context,
    )
    return ExtractionReport(tuple(extraction.reports(features)))


@dataclass(frozen=True, slots=True)
class _OpenFeature:
    """A feature set that is to be filled, with the utterances that it lacks.

    Attributes:
        feature: what a pass needs to know of it.
        corpus: the corpus, with the texts that the encoder reads.
        encoder: loaded.
        feature_set: the folder to fill.
        missing: ids of the corpus that it lacks.
        pending: the utterances to extract: those of ``missing`` that have not failed before.
    """

    feature: PassFeature
    corpus: Corpus
    encoder: Encoder
    feature_set: FeatureSet
    missing: frozenset[str]
    pending: tuple[Utterance, ...]

    def can_share_pass(self, other: "_OpenFeature") -> bool:
        """Return whether both read the same input, and are not one feature set by two names."""
        spec, other_spec = self.feature.spec, other.feature.spec
        reads_same = (spec.modality, spec.sample_rate_hz) == (other_spec.modality, other_spec.sample_rate_hz)
        same_text = self.feature.recipe.text_column == other.feature.recipe.text_column
        return reads_same and same_text and self.feature_set.folder != other.feature_set.folder


@dataclass(frozen=True, slots=True)
class _Extraction:
    """The settings that all feature sets of one extraction share."""

    corpus: Corpus
    cache: Cache
    devices: Sequence[str]
    engine: EngineChoice
    part: TaskRange | None
    failure_limit: int
    retry_failed: bool
    replace_changed: bool
    context: Context

    def reports(self, features: Mapping[str, FeatureRecipe]) -> Iterator[FeatureReport]:
        """Fill all feature sets, neighbours that read the same in one pass."""
        together: list[_OpenFeature] = []
        started = time.monotonic()
        for name, recipe in features.items():
            opened = self._open(name, recipe)
            if together and not all(opened.can_share_pass(other) for other in together):
                yield from self._fill(together, started)
                together, started = [], time.monotonic()
                opened = self._open(name, recipe)  # it may be another name of the one that was just filled
            together.append(opened)
        yield from self._fill(together, started)

    def _open(self, name: str, recipe: FeatureRecipe) -> _OpenFeature:
        """Resolve a recipe, start its feature set where there is none, and list what it lacks."""
        device = "cpu" if recipe.encoder in ENCODERS else self.devices[0]  # embedded ones are numpy
        corpus = self.corpus if recipe.text_column is None else self.corpus.with_text_of(recipe.text_column)
        if self.engine.is_cluster and device != "cpu":  # this machine may not have the workers' device
            resolve_on_cluster(self.engine, self.cache.root, name, recipe, corpus, device)
            device = "cpu"
        with self._locked_against_other_parts():
            resolved = resolve_feature(self.cache, recipe, corpus, device)
            feature_set = start_resolved(self.cache, resolved, device)
        remove_stale_temporaries(feature_set.folder)
        if self.replace_changed:
            feature_set = drop_changed(feature_set, corpus)
        else:
            refuse_changed(feature_set, corpus)
        ledger = Ledger(feature_set.folder)
        missing = frozenset(feature_set.missing(corpus.ids))
        pending = pending_utterances(feature_set, ledger, corpus, retry_failed=self.retry_failed)
        feature = PassFeature(name, recipe, resolved.spec, len(missing) - len(pending), self.failure_limit)
        return _OpenFeature(feature, corpus, resolved.encoder, feature_set, missing, tuple(pending))

    @contextmanager
    def _locked_against_other_parts(self) -> Iterator[None]:
        """Let commands that do parts of the tasks resolve a recipe in turn, so that they agree."""
        if self.part is None:
            yield
            return
        self.cache.root.mkdir(parents=True, exist_ok=True)
        with locked(self.cache.root):
            yield

    def _fill(self, together: Sequence[_OpenFeature], started: float) -> Iterator[FeatureReport]:
        """Extract what feature sets lack that read the same input, and report on each."""
        failed: Counter[str] = Counter()
        tasks_of_part = None if self.part is None else _tasks_of_part(self.part, together)
        ids = set(self.corpus.ids) if tasks_of_part is None else _ids_of(tasks_of_part)
        for lacking, tasks in _passes(together, tasks_of_part):
            self._run_pass(lacking, tasks, failed)
            for opened in lacking:
                failures = Ledger(opened.feature_set.folder).failures
                failed[opened.feature.name] += len(_ids_of(tasks) & failures.keys())
        for opened in together:
            feature_set = FeatureSet(opened.feature_set.folder)
            still_missing = set(feature_set.missing(self.corpus.ids))
            yield FeatureReport(
                name=opened.feature.name,
                folder=feature_set.folder,
                extracted=len(opened.missing & ids) - len(still_missing & ids),
                reused=len(self.corpus) - len(opened.missing),
                failed=len(still_missing & ids),
                elsewhere=len(still_missing - ids),
                size_bytes=feature_set.size_bytes,
                audio_seconds=feature_set.seconds,
                took_seconds=time.monotonic() - started,
            )

    def _run_pass(
        self, lacking: Sequence[_OpenFeature], tasks: Sequence[ShardTask], failed: Mapping[str, int]
    ) -> None:
        """Run the tasks of one pass: here, in a process for each of several devices, or on a cluster.

        Args:
            lacking: the feature sets to fill.
            tasks: one per shard.
            failed: how many utterances of each feature set failed in the passes before.
        """
        is_numpy = all(opened.feature.recipe.encoder in ENCODERS for opened in lacking)
        devices = ["cpu"] * len(self.devices) if is_numpy else self.devices
        features = tuple(
            replace(opened.feature, failed=opened.feature.failed + failed[opened.feature.name])
            for opened in lacking
        )
        name = " + ".join(feature.name for feature in features)
        started_ns = time.time_ns()
        # a worker may have another working folder
        corpus = replace(lacking[0].corpus, root=lacking[0].corpus.root.resolve())
        cache_root = self.cache.root.resolve()

        def make_pass(name: str, device: str, tasks: Sequence[ShardTask]) -> DevicePass:
            rows = corpus.select(row.utterance.id for task in tasks for row in task.rows)
            return DevicePass(name, rows, len(corpus), cache_root, features, tuple(tasks), device, started_ns)

        if self.engine.is_cluster:
            self._run_on_cluster(name, tasks, devices, make_pass, is_numpy)
        elif len(devices) == 1 and self.engine.name == AUTO:
            encoders = [opened.encoder for opened in lacking]
            run_device_pass(make_pass(name, devices[0], tasks), encoders, context=self.context)
        else:
            self._run_on_devices(name, tasks, devices, make_pass)

    def _run_on_cluster(
        self,
        name: str,
        tasks: Sequence[ShardTask],
        devices: Sequence[str],
        make_pass: "_MakePass",
        is_numpy: bool,
    ) -> None:
        """Run every task as a device pass of its own, on any worker."""
        workers = None if len(devices) == 1 else len(devices)
        cores = 1 if is_numpy else _threads_here() if workers is None else usable_cores() // workers
        device_passes = [make_pass(f"{name}: {task.name}", devices[0], [task]) for task in tasks]
        engine = self.engine.open(workers, local="ray")
        ClusterPass(name, device_passes, self.context).run(engine, needs_of(devices[0], cores))

    def _run_on_devices(
        self, name: str, tasks: Sequence[ShardTask], devices: Sequence[str], make_pass: "_MakePass"
    ) -> None:
        """Split the tasks evenly over devices of this machine, each in its own process."""
        device_passes = []
        for number, device in enumerate(devices, 1):
            if device_tasks := split_evenly(tasks, len(devices))[number - 1]:
                label = name if len(devices) == 1 else f"{name} [{number}: {device}]"
                device_passes.append(make_pass(label, device, device_tasks))
        cores = 0 if len(devices) == 1 else max(1, usable_cores() // max(1, devices.count("cpu")))
        engine_tasks = [
            Task(
                device_pass.name,
                run_device_pass,
                (device_pass,),
                Needs(cores=cores if device_pass.device == "cpu" else 0),
            )
            for device_pass in device_passes
        ]
        try:
            errors = self.engine.open(len(engine_tasks), local="processes").run(engine_tasks, self.context)
        except Interrupted:
            raise stopped(name, self.cache.root) from None
        for error in errors.values():
            raise error


_MakePass = Callable[[str, str, Sequence[ShardTask]], DevicePass]


def _tasks_of_part(part: TaskRange, together: Sequence[_OpenFeature]) -> list[ShardTask]:
    """Return a part of the tasks over the whole corpus, whatever of it is in the cache already.

    So commands that start at different times take their parts from the same list of tasks.
    """
    return part.part(_cut(together, together[0].corpus.utterances))


def _passes(
    together: Sequence[_OpenFeature], tasks_of_part: Sequence[ShardTask] | None
) -> list[tuple[list[_OpenFeature], list[ShardTask]]]:
    """Group the pending utterances by the feature sets that lack them: a pass for each group, with its tasks.

    All passes are cut by the largest feature set of the extraction: one that was interrupted after some of
    its feature sets got a task cuts that task again, for the others. The cuts of a part are given.
    """
    ids_of_part = None if tasks_of_part is None else _ids_of(tasks_of_part)
    lacking: dict[str, list[int]] = defaultdict(list)
    for number, opened in enumerate(together):
        for utterance in opened.pending:
            if ids_of_part is None or utterance.id in ids_of_part:
                lacking[utterance.id].append(number)
    groups: dict[tuple[int, ...], list[Utterance]] = defaultdict(list)
    for utterance in together[0].corpus.utterances:
        if utterance.id in lacking:
            groups[tuple(lacking[utterance.id])].append(utterance)
    passes = []
    for numbers, utterances in groups.items():
        if tasks_of_part is None:
            tasks = _cut(together, utterances)
        else:
            modality = together[0].feature.spec.modality
            tasks = restrict_tasks(tasks_of_part, {utterance.id for utterance in utterances}, modality)
        passes.append(([together[number] for number in numbers], tasks))
    return passes


def _cut(together: Sequence[_OpenFeature], utterances: Sequence[Utterance]) -> list[ShardTask]:
    """Cut utterances into tasks that suit the largest of the feature sets."""
    corpus, specs = together[0].corpus, [opened.feature.spec for opened in together]
    return cut_into_tasks(expected_lengths(corpus, utterances, specs[0].modality), specs, len(corpus))


def _ids_of(tasks: Sequence[ShardTask]) -> set[str]:
    return {row.utterance.id for task in tasks for row in task.rows}


def _threads_here() -> int:
    """Return how many threads torch uses on this machine: workers elsewhere then make the same bits."""
    import torch

    return torch.get_num_threads()


def _resolve_devices(
    features: Mapping[str, FeatureRecipe], devices: Sequence[str], engine: EngineChoice
) -> list[str]:
    """Return the devices as torch names them; embedded encoders alone need no torch to find them."""
    if all(recipe.encoder in ENCODERS for recipe in features.values()):
        devices = ["cpu" if name == "auto" else name for name in devices]
    if not devices:
        raise SercacheError("no device is named; write auto, cpu, cuda:0, or several: cuda:0,cuda:1")
    return [engine.resolve_device(name) for name in devices]
