"""Repair a feature set: what is damaged is extracted again, and nothing else."""

from dataclasses import dataclass
from pathlib import Path

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.shard import read_whole
from sercache.cache.store import Cache, FeatureSet, task_of
from sercache.cache.verify import Damage, verify
from sercache.cache.writer import cannot_write, publish_shard
from sercache.corpus import Corpus
from sercache.devices import resolve_device
from sercache.errors import CacheError
from sercache.events import QUIET, Context, Event
from sercache.extract.extraction import extract
from sercache.extract.resolve import resolve_feature
from sercache.recipe import FeatureRecipe

_SET_ASIDE = ".damaged"


@dataclass(frozen=True, slots=True)
class Repaired:
    """The result of a repair.

    Attributes:
        folder: of the feature set.
        found: what was damaged.
        extracted: utterances that were extracted again.
        lost: utterances that were damaged and could not be extracted again: the corpus does not hold them, or
            they failed (``failures.csv`` says why).
    """

    folder: Path
    found: tuple[Damage, ...]
    extracted: int
    lost: tuple[str, ...]


def repair(
    feature_set: FeatureSet,
    corpus: Corpus,
    encoder: str,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    context: Context = QUIET,
) -> Repaired:
    """Verify a feature set and extract again what is damaged.

    The encoder is loaded first: one that would make features of another setting (another version of it, or of
    its library) is refused. A shard whose metadata is damaged is set aside until its utterances are there
    again. As its ids are not known, all utterances that the corpus has and the feature set lacks are then
    extracted, except those that failed before.

    Args:
        feature_set: the one to repair.
        corpus: where the audio or the texts are.
        encoder: the name or folder of its encoder.
        device: where to compute.
        trust_remote_code: let Python code that comes with a checkpoint run.
        context: receives events, and says when to stop.

    Raises:
        CacheError: the encoder makes another feature set now, or the cache cannot be written.
        EncoderError: the encoder cannot be loaded.
        Interrupted: ``context.should_stop`` returned True; the same command goes on.
    """
    folder, spec = feature_set.folder, feature_set.spec
    found = verify(feature_set, context=context)
    aside = sorted(folder.glob(f"shard-*.h5{_SET_ASIDE}"))
    if not found and not aside:
        return Repaired(folder, (), 0, ())
    recipe = recipe_of(spec, encoder, trust_remote_code)
    device = resolve_device(device)
    # raises if the encoder would make another feature set
    resolve_feature(Cache(folder.parent), recipe, corpus, device)
    damaged: set[str] = set()
    for path in sorted({damage.path for damage in found}):
        try:
            damaged |= _drop_damaged(path, feature_set)
        except CacheError:
            aside.append(_set_aside(path))
    wanted = [name for name in corpus.ids if name in damaged] if not aside else list(corpus.ids)
    before = len(FeatureSet(folder).missing(wanted))
    if wanted:
        context.listener(
            Event("note", folder.name, message=f"{folder.name}: extracting again what was damaged")
        )
        extract(
            corpus.select(wanted),
            {folder.name: recipe},
            folder.parent,
            devices=[device],
            max_failures=len(wanted),
            context=context,
        )
    repaired = FeatureSet(folder)
    for path in aside:
        path.unlink(missing_ok=True)
    lost = repaired.missing(sorted(damaged))
    return Repaired(folder, tuple(found), before - len(repaired.missing(wanted)), tuple(lost))


def recipe_of(spec: FeatureSpec, encoder: str, trust_remote_code: bool = False) -> FeatureRecipe:
    """Return the recipe that asks for exactly this feature set.

    Raises:
        CacheError: its frames were imported; no encoder makes them.
    """
    if spec.library == "imported":
        raise CacheError(f"{spec.encoder}: these frames were imported; import them again instead")
    settings: dict[str, object] = {
        "encoder": encoder,
        "layers": ",".join(_layer_request(name) for name in spec.layers),
        "time_pool": spec.time_pool,
        "dtype": spec.dtype,
        "precision": spec.options.get("precision", "auto"),
        "text_column": spec.options.get("text_column"),
        "trust_remote_code": trust_remote_code,
        "fingerprint": spec.fingerprint,
    }
    if spec.window_seconds is not None and spec.overlap_seconds is not None:
        settings |= {"window_seconds": spec.window_seconds, "overlap_seconds": spec.overlap_seconds}
    return FeatureRecipe.model_validate(settings)


def _layer_request(layer: str) -> str:
    """Return the request, as recipes write it, for the layer of this name.

    >>> _layer_request("last"), _layer_request("layer-6"), _layer_request("sum-21-24")
    ('last', '6', '21-24')
    """
    return layer.removeprefix("layer-").removeprefix("sum-")


def _drop_damaged(path: Path, feature_set: FeatureSet) -> set[str]:
    """Rewrite a shard without its damaged utterances; returns their ids.

    Raises:
        CacheError: its metadata is damaged too, or it cannot be written.
    """
    index, content = read_whole(path, feature_set.spec)
    checked = list(index.utterances(content, feature_set.spec))
    publish_shard(feature_set, task_of(path), [utterance for utterance, is_intact in checked if is_intact])
    return {utterance.id for utterance, is_intact in checked if not is_intact}


def _set_aside(path: Path) -> Path:
    aside = path.with_name(path.name + _SET_ASIDE)
    try:
        path.replace(aside)
    except OSError as error:
        raise cannot_write(path, error) from error
    return aside
