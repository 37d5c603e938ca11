"""Extraction: every utterance of a corpus through frozen encoders, once, into the cache."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sercache.cache.ledger import Ledger, default_failure_limit
from sercache.cache.store import Cache, FeatureSet
from sercache.corpus import Corpus, Utterance
from sercache.devices import usable_cores
from sercache.encoders.protocol import Encoder
from sercache.encoders.registry import ENCODERS, check_encoder
from sercache.engines.protocol import Needs
from sercache.engines.protocol import Task as EngineTask
from sercache.engines.registry import AUTO, LOCAL, EngineChoice
from sercache.engines.task_range import TaskRange
from sercache.errors import Interrupted, SercacheError
from sercache.events import QUIET, Context
from sercache.extract.cluster_pass import Spread, needs_of, settle_elsewhere, stopped
from sercache.extract.device_pass import Feature, Share, deal, run_share
from sercache.extract.resolve import open_settled, settle, unsettled, without_changed
from sercache.extract.schedule import Task, measure, plan_tasks, within
from sercache.files import locked, remove_stale_temporaries
from sercache.recipe import FeatureRecipe


@dataclass(frozen=True, slots=True)
class FeatureReport:
    """What became of one feature set.

    Attributes:
        name: what the recipe calls it.
        folder: where it lies.
        extracted: utterances encoded now.
        reused: utterances of the corpus that were there before.
        failed: utterances of the corpus that have no features; ``failures.csv`` says why.
        elsewhere: utterances that have none yet, because they belong to another part of the tasks.
        size_bytes: what the whole feature set takes on disk.
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
    """What became of every feature set, in the recipe's order."""

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
        devices: ``auto``, or devices as torch names them; with several, each does its share of the tasks in a
            process of its own (``("cuda:0", "cuda:1")``, ``("cpu", "cpu")``). On a cluster, which knows its
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
        places=_places(features, devices, engine),
        engine=engine,
        part=part,
        failure_limit=default_failure_limit(len(corpus)) if max_failures is None else max_failures,
        retry_failed=retry_failed,
        replace_changed=replace_changed,
        context=context,
    )
    return ExtractionReport(tuple(extraction.reports(features)))


@dataclass(frozen=True, slots=True)
class _Opened:
    """A feature set that is to be filled."""

    feature: Feature
    corpus: Corpus
    encoder: Encoder
    feature_set: FeatureSet
    missing: frozenset[str]
    pending: tuple[Utterance, ...]

    def shares_pass_with(self, other: "_Opened") -> bool:
        """Return whether both read the same thing, and are not one feature set by two names."""
        mine, others = self.feature.spec, other.feature.spec
        reads_same = (mine.modality, mine.sample_rate_hz) == (others.modality, others.sample_rate_hz)
        same_text = self.feature.recipe.text_column == other.feature.recipe.text_column
        return reads_same and same_text and self.feature_set.folder != other.feature_set.folder


@dataclass(frozen=True, slots=True)
class _Extraction:
    """What all feature sets of one extraction have in common."""

    corpus: Corpus
    cache: Cache
    places: Sequence[str]
    engine: EngineChoice
    part: TaskRange | None
    failure_limit: int
    retry_failed: bool
    replace_changed: bool
    context: Context

    def reports(self, features: Mapping[str, FeatureRecipe]) -> Iterator[FeatureReport]:
        """Fill all feature sets, neighbours that read the same in one pass."""
        together: list[_Opened] = []
        started = time.monotonic()
        for name, recipe in features.items():
            opened = self._open(name, recipe)
            if together and not all(opened.shares_pass_with(other) for other in together):
                yield from self._fill(together, started)
                together, started = [], time.monotonic()
                opened = self._open(name, recipe)  # it may be another name of one that was just filled
            together.append(opened)
        yield from self._fill(together, started)

    def _open(self, name: str, recipe: FeatureRecipe) -> _Opened:
        place = "cpu" if recipe.encoder in ENCODERS else self.places[0]  # embedded ones are numpy
        corpus = self.corpus if recipe.text_column is None else self.corpus.with_text_of(recipe.text_column)
        if self.engine.is_cluster and place != "cpu":  # this machine may not have what it will run on
            settle_elsewhere(self.engine, self.cache.root, name, recipe, corpus, place)
            place = "cpu"
        with self._alone():
            settled = settle(self.cache, recipe, corpus, place)
            feature_set = open_settled(self.cache, settled, place)
        remove_stale_temporaries(feature_set.folder)
        feature_set = without_changed(feature_set, corpus, replace_changed=self.replace_changed)
        ledger = Ledger(feature_set.folder)
        missing = frozenset(feature_set.missing(corpus.ids))
        pending = unsettled(feature_set, ledger, corpus, retry_failed=self.retry_failed)
        feature = Feature(name, recipe, settled.spec, len(missing) - len(pending), self.failure_limit)
        return _Opened(feature, corpus, settled.encoder, feature_set, missing, tuple(pending))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let commands that do parts decide one after the other: they must not decide differently."""
        if self.part is None:
            yield
            return
        self.cache.root.mkdir(parents=True, exist_ok=True)
        with locked(self.cache.root):
            yield

    def _fill(self, together: Sequence[_Opened], started: float) -> Iterator[FeatureReport]:
        failed: Counter[str] = Counter()
        part = None if self.part is None else _part_of(self.part, together)
        own = set(self.corpus.ids)
        if part is not None:
            own = {row.utterance.id for task in part for row in task.rows}
        for lacking, tasks in _passes(together, part):
            self._run(lacking, tasks, failed)
            for opened in lacking:
                failures = Ledger(opened.feature_set.folder).failures
                ids = (row.utterance.id for task in tasks for row in task.rows)
                failed[opened.feature.name] += sum(utterance_id in failures for utterance_id in ids)
        for opened in together:
            feature_set = FeatureSet(opened.feature_set.folder)
            still_missing = set(feature_set.missing(self.corpus.ids))
            yield FeatureReport(
                name=opened.feature.name,
                folder=feature_set.folder,
                extracted=len(opened.missing & own) - len(still_missing & own),
                reused=len(self.corpus) - len(opened.missing),
                failed=len(still_missing & own),
                elsewhere=len(still_missing - own),
                size_bytes=feature_set.size_bytes,
                audio_seconds=feature_set.seconds,
                took_seconds=time.monotonic() - started,
            )

    def _run(self, lacking: Sequence[_Opened], tasks: Sequence[Task], failed: Mapping[str, int]) -> None:
        """Do the tasks of one pass: here, in a process for each of several devices, or on a cluster.

        ``failed`` says how many utterances of each feature set failed in the passes before.
        """
        is_numpy = all(opened.feature.recipe.encoder in ENCODERS for opened in lacking)
        places = ["cpu"] * len(self.places) if is_numpy else self.places
        features = tuple(
            replace(one.feature, failed=one.feature.failed + failed[one.feature.name]) for one in lacking
        )
        name = " + ".join(feature.name for feature in features)
        corpus, begun_ns = lacking[0].corpus, time.time_ns()
        corpus = replace(
            corpus, root=corpus.root.resolve()
        )  # a worker elsewhere has another folder to begin in
        cache_root = self.cache.root.resolve()

        def share(name: str, place: str, tasks: Sequence[Task]) -> Share:
            own = corpus.select(row.utterance.id for task in tasks for row in task.rows)
            return Share(name, own, len(corpus), cache_root, features, tuple(tasks), place, begun_ns)

        if self.engine.is_cluster:
            workers = None if len(places) == 1 else len(places)
            cores = 1 if is_numpy else _threads_here() if workers is None else usable_cores() // workers
            shares = [share(f"{name}: {task.name}", places[0], [task]) for task in tasks]
            spread = Spread(name, self.context)
            spread.run(self.engine.open(workers, local="ray"), shares, needs_of(places[0], cores))
            return
        if len(places) == 1 and self.engine.name == AUTO:
            encoders = [opened.encoder for opened in lacking]
            run_share(share(name, places[0], tasks), encoders, context=self.context)
            return
        shares = [
            share(name if len(places) == 1 else f"{name} [{number}: {place}]", place, hand)
            for number, (place, hand) in enumerate(zip(places, deal(tasks, len(places)), strict=True), 1)
            if hand
        ]
        cores = 0 if len(places) == 1 else max(1, usable_cores() // max(1, places.count("cpu")))
        work = [
            EngineTask(one.name, run_share, (one,), Needs(cores=cores if one.device == "cpu" else 0))
            for one in shares
        ]
        try:
            errors = self.engine.open(len(work), local="processes").run(work, self.context)
        except Interrupted:
            raise stopped(name, self.cache.root) from None
        for error in errors.values():
            raise error


def _part_of(part: TaskRange, together: Sequence[_Opened]) -> list[Task]:
    """Return a part of the tasks over the whole corpus, whatever of it is there already.

    So commands that begin at different times have the same list of tasks to take their parts from.
    """
    corpus, specs = together[0].corpus, [opened.feature.spec for opened in together]
    return part.part(plan_tasks(measure(corpus, corpus.utterances, specs[0].modality), specs, len(corpus)))


def _passes(
    together: Sequence[_Opened], part: Sequence[Task] | None
) -> list[tuple[list[_Opened], list[Task]]]:
    """Return who lacks the same utterances, and the tasks that give them to those.

    All are cut by the largest feature set of the extraction: one that was interrupted after some of its
    feature sets got a task plans that task again, for the others. Of a ``part`` the cuts are known.
    """
    own = None if part is None else {row.utterance.id for task in part for row in task.rows}
    lacking: dict[str, list[_Opened]] = defaultdict(list)
    for opened in together:
        for utterance in opened.pending:
            if own is None or utterance.id in own:
                lacking[utterance.id].append(opened)
    by_lack: dict[tuple[int, ...], list[Utterance]] = defaultdict(list)
    who: dict[tuple[int, ...], list[_Opened]] = {}
    corpus = together[0].corpus
    for utterance in corpus.utterances:
        if (those := lacking.get(utterance.id)) is not None:
            key = tuple(id(opened) for opened in those)
            by_lack[key].append(utterance)
            who[key] = those
    specs = [opened.feature.spec for opened in together]

    def tasks_of(utterances: Sequence[Utterance]) -> list[Task]:
        if part is not None:
            return within(part, {utterance.id for utterance in utterances}, specs[0].modality)
        return plan_tasks(measure(corpus, utterances, specs[0].modality), specs, len(corpus))

    return [(who[key], tasks_of(utterances)) for key, utterances in by_lack.items()]


def _threads_here() -> int:
    """Return with how many threads this machine would encode alone: workers elsewhere make the same bits."""
    import torch

    return torch.get_num_threads()


def _places(features: Mapping[str, FeatureRecipe], devices: Sequence[str], engine: EngineChoice) -> list[str]:
    """Return the devices; embedded encoders alone need no torch to find out which there are."""
    if all(recipe.encoder in ENCODERS for recipe in features.values()):
        devices = ["cpu" if name == "auto" else name for name in devices]
    if not devices:
        raise SercacheError("no device is named; write auto, cpu, cuda:0, or several: cuda:0,cuda:1")
    return [engine.resolve_device(name) for name in devices]
