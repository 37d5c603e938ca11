"""Run a pass over the corpus on each device, in this process, in another one, or on a cluster."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.ledger import Ledger
from sercache.cache.store import shard_path
from sercache.cache.writer import start_feature_set
from sercache.corpus import Corpus
from sercache.encoders.protocol import Encoder, Precision, StagedEncoder
from sercache.encoders.registry import load_encoder
from sercache.errors import CacheError
from sercache.events import QUIET, Context
from sercache.extract.autotune import restore_batch_limit
from sercache.extract.pipeline import PassRunner
from sercache.extract.schedule import Task
from sercache.extract.write import Lane
from sercache.recipe import FeatureRecipe


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature set of a pass, settled.

    Attributes:
        name: what the recipe calls it.
        recipe: what it asks for.
        spec: what it holds.
        failed: utterances of the corpus that failed before.
        failure_limit: how many may.
    """

    name: str
    recipe: FeatureRecipe
    spec: FeatureSpec
    failed: int
    failure_limit: int


@dataclass(frozen=True, slots=True)
class Share:
    """The tasks that one device does.

    Attributes:
        name: what to call it in events.
        corpus: where utterances find their audio; it needs to hold no others than those of the tasks.
        corpus_size: how many utterances the whole corpus has.
        cache_root: folder of the cache.
        features: the feature sets to fill; their encoders read the same kind of input at the same rate.
        tasks: what to do.
        device: where to compute.
        begun_ns: when the pass was begun, in nanoseconds since 1970; a shard that is younger is not made
            again when the share is, because its process died.
    """

    name: str
    corpus: Corpus
    corpus_size: int
    cache_root: Path
    features: tuple[Feature, ...]
    tasks: tuple[Task, ...]
    device: str
    begun_ns: int


def run_share(
    share: Share,
    encoders: Sequence[Encoder] = (),
    *,
    context: Context = QUIET,
) -> None:
    """Do a device's tasks; what it makes lies in the cache.

    Args:
        share: the work.
        encoders: one per feature set, if they are loaded already.
        context: receives events, and says when to stop.

    Raises:
        SercacheError: too many utterances failed, or the cache cannot be written.
        Interrupted: ``context.should_stop`` returned True.
    """
    if share.device.startswith("cuda"):
        import torch

        torch.cuda.set_device(share.device)  # else pinned memory claims a context on the first GPU too
    loaded = encoders or _loaded(share)
    lanes = [_lane(share, feature, encoder) for feature, encoder in zip(share.features, loaded, strict=True)]
    with ExitStack() as stack:
        if any(isinstance(encoder, StagedEncoder) for encoder in loaded):
            from sercache.encoders.checkpoint import quiet_transformers

            stack.enter_context(quiet_transformers())
        PassRunner(share.name, share.corpus, lanes, context).run(
            [task for task in share.tasks if not _is_done(task, lanes, share.begun_ns)]
        )


def deal(tasks: Sequence[Task], count: int) -> list[tuple[Task, ...]]:
    """Deal tasks to ``count`` devices; they are sorted by length, so each gets the same mix.

    >>> [[task.name for task in hand] for hand in deal([Task("a", ()), Task("b", ()), Task("c", ())], 2)]
    [['a', 'c'], ['b']]
    """
    return [tuple(tasks[first::count]) for first in range(count)]


def _is_done(task: Task, lanes: Sequence[Lane], begun_ns: int) -> bool:
    paths = [shard_path(lane.feature_set.folder, task.name) for lane in lanes]
    return all(path.exists() and path.stat().st_mtime_ns > begun_ns for path in paths)


_kept: dict[tuple[FeatureRecipe, str, Precision], Encoder] = {}
"""The encoders of the share before: a worker that gets one share after the other loads them once."""


def _loaded(share: Share) -> list[Encoder]:
    keys = [(feature.recipe, share.device, _precision(feature)) for feature in share.features]
    for stale in _kept.keys() - keys:
        del _kept[stale]
    for feature, key in zip(share.features, keys, strict=True):
        if key not in _kept:
            _kept[key] = _load(feature, share.device)
    return [_kept[key] for key in keys]


def _precision(feature: Feature) -> Precision:
    return "bfloat16" if feature.spec.options.get("precision") == "bfloat16" else "float32"


def _load(feature: Feature, device: str) -> Encoder:
    load: Callable[..., Encoder] = load_encoder
    return load(
        feature.recipe.encoder,
        feature.recipe.layers,
        device=device,
        precision=_precision(feature),
        trust_remote_code=feature.recipe.trust_remote_code,
    )


def _lane(share: Share, feature: Feature, encoder: Encoder) -> Lane:
    feature_set = start_feature_set(share.cache_root, feature.spec)
    if encoder.spec.revision != feature.spec.revision:
        raise CacheError(f"{feature.name}: the encoder has changed while features were extracted with it")
    restore_batch_limit(feature_set.folder, share.device, encoder)
    return Lane(
        name=feature.name,
        encoder=encoder,
        feature_set=feature_set,
        ledger=Ledger(feature_set.folder),
        corpus_size=share.corpus_size,
        failed=feature.failed,
        failure_limit=feature.failure_limit,
        device=share.device,
    )
