"""Feature sets for a first recipe: what the cache holds, and encoders that are still to be extracted."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sercache.cache.fingerprint import (
    FeatureSpec,
    Modality,
    differences_from,
    encoder_and_layers,
    encoder_name,
)
from sercache.cache.layers import parse_layers
from sercache.cache.ledger import Ledger
from sercache.cache.store import Cache, FeatureSet
from sercache.corpus.utterance import Corpus
from sercache.errors import CorpusError
from sercache.extract.encoder_costs import EncoderCost, encoder_cost
from sercache.extract.schedule import expected_lengths
from sercache.recipe import FeatureRecipe

SPEECH_POOL = 4
"""Frames of speech that are averaged: emotion changes more slowly than 50 times a second."""

_DISK_SHARE = 0.8
"""Share of the free disk that features may take; weights, runs and other users need some, too."""

_LARGEST_SUM = 4
_MEASURED_ROWS = 500
_SCRIPTED_TEXTS = 20
_LONGEST_NAME = 28
_RESERVED_NAMES = {"all"}
"""Members on all feature sets are called ``ridge-all``."""


@dataclass(frozen=True)
class ProposedFeature:
    """A feature set under the name that the recipe gives it.

    Attributes:
        name: in the recipe.
        recipe: finds it in the cache, and nothing else; or says what to extract.
        modality: what its encoder reads.
        held: utterances of the corpus that the cache holds of it; None where it is still to be extracted.
        untried: utterances of the corpus that were never extracted.
        dim: features per frame and layer.
        num_layers: layers that are stored side by side.
        is_foreign: another tool made it, so extraction cannot go on with it.
        size_bytes: what extraction will add to the disk; None where that is not known, or it is there.
        with_all_layers_bytes: what all layers would add, where there is no room for them; else None.
    """

    name: str
    recipe: FeatureRecipe
    modality: Modality
    held: int | None = None
    untried: int = 0
    dim: int = 0
    num_layers: int = 1
    is_foreign: bool = False
    size_bytes: float | None = None
    with_all_layers_bytes: float | None = None

    @property
    def is_extracted(self) -> bool:
        """Whether members can read it as it is."""
        return self.held is not None and not self.untried


def best_first(features: Sequence[ProposedFeature], modality: Modality) -> list[ProposedFeature]:
    """Return the feature sets of a modality, the widest first: large encoders have wide frames.

    Of two that are alike the one that reads what is said now comes before what was said earlier.
    """
    return sorted(
        (feature for feature in features if feature.modality == modality),
        key=lambda feature: (-feature.dim * feature.num_layers, feature.recipe.text_column or ""),
    )


def is_scripted(corpus: Corpus) -> bool:
    """Return whether speakers repeat the same few sentences, as actors do: texts then carry no emotion."""
    texts = {row.text for row in corpus.utterances} - {None}
    return 0 < len(texts) <= min(_SCRIPTED_TEXTS, len(corpus) // _SCRIPTED_TEXTS)


def cached_features(cache: Path, corpus: Corpus) -> list[ProposedFeature]:
    """Return every feature set of the cache that holds something of the corpus.

    Raises:
        CacheError: the cache is damaged.
    """
    holding: list[tuple[FeatureSet, list[str]]] = []
    for feature_set in Cache(cache).feature_sets():
        missing = feature_set.missing(corpus.ids)
        if len(missing) < len(corpus):
            holding.append((feature_set, missing))
    features: list[ProposedFeature] = []
    for feature_set, missing in holding:
        spec = feature_set.spec
        recipe = _recipe_of(spec)
        if _fits_others(recipe, feature_set, [other for other, _ in holding]):
            recipe = recipe.model_copy(update={"fingerprint": spec.fingerprint[:12]})
        failed = {failure.utterance for failure in Ledger(feature_set.folder).failures.values()}
        features.append(
            ProposedFeature(
                name=_unused_name(recipe, spec.encoder, features),
                recipe=recipe,
                modality=spec.modality,
                held=len(corpus) - len(missing),
                untried=sum(utterance_id not in failed for utterance_id in missing),
                dim=spec.dim,
                num_layers=len(spec.layers),
                is_foreign=spec.library == "imported",
            )
        )
    return features


def embedded_features(corpus: Corpus, free_bytes: float) -> list[ProposedFeature]:
    """Return the embedded encoders, for a cache that holds nothing of the corpus.

    Raises:
        CorpusError: there is nothing to encode.
    """
    has_audio = any(row.audio is not None for row in corpus.utterances)
    has_texts = any(row.text is not None for row in corpus.utterances)
    if not has_audio and not has_texts:
        raise CorpusError("the corpus has neither audio nor texts: there is nothing to encode")
    requests = ["logmel"] if has_audio else []
    if has_texts and not (has_audio and is_scripted(corpus)):
        requests.append("char-ngrams")
    names = {"logmel": "speech", "char-ngrams": "words"}
    return [
        replace(feature, name=names[feature.recipe.encoder])
        for feature in requested_features(corpus, requests, free_bytes)
    ]


def requested_features(
    corpus: Corpus, requests: Sequence[str], free_bytes: float, found: Sequence[ProposedFeature] = ()
) -> list[ProposedFeature]:
    """Return encoders by name, with all layers where the disk has room for them, else the sum of the last.

    What the cache holds of the corpus already is not returned again.

    Args:
        corpus: what they are to encode.
        requests: ``NAME``, or ``NAME:LAYERS`` for layers that are not to be chosen here.
        free_bytes: on the disk of the cache.
        found: what the cache holds.

    Raises:
        EncoderError: there is no such encoder or layer.
        CorpusError: the corpus has nothing that it reads.
    """
    features: list[ProposedFeature] = []
    costs: dict[str, tuple[EncoderCost, float]] = {}
    for request in dict.fromkeys(requests):
        name, layers = encoder_and_layers(request)
        cost = encoder_cost(name)
        modality: Modality = "audio" if cost.modality == "audio" else "text"
        read, column = _read_by(corpus, modality, name)
        # Relative folders are looked for from where a command runs: a recipe may be run from elsewhere.
        recipe = FeatureRecipe(
            encoder=str(Path(name).expanduser().resolve()) if cost.name != name else name,
            layers=layers or ("all" if cost.num_layers else "last"),
            time_pool=SPEECH_POOL if modality == "audio" else 1,
            text_column=column,
        )
        if any(feature.is_extracted and asks_for_same(feature.recipe, recipe) for feature in found):
            continue
        feature = ProposedFeature(
            _unused_name(recipe, cost.name, [*found, *features]), recipe, modality, dim=cost.dim
        )
        costs[feature.name] = cost, _seconds_of(read, modality)
        features.append(_with_layers(feature, recipe.layers, *costs[feature.name]))
    # The largest first: fewer feature sets have to do without their layers.
    for feature in sorted(features, key=lambda feature: -(feature.size_bytes or 0.0)):
        if sum(other.size_bytes or 0.0 for other in features) <= _DISK_SHARE * free_bytes:
            break
        cost, seconds = costs[feature.name]
        if feature.recipe.layers == "all" and cost.num_layers > _LARGEST_SUM:
            shrunk = _with_layers(feature, f"last{_LARGEST_SUM}", cost, seconds)
            shrunk = replace(shrunk, with_all_layers_bytes=feature.size_bytes)
            features[features.index(feature)] = shrunk
    return features


def layers_request(names: Sequence[str], num_layers: int) -> str:
    """Return the shortest request that means these layers (see :func:`sercache.cache.layers.parse_layers`).

    >>> layers_request(["sum-21-24"], 24), layers_request(["layer-6", "last"], 12)
    ('last4', '6,12')
    >>> layers_request(["layer-0", "layer-1", "last"], 2)
    'all'
    """
    if len(names) == num_layers + 1 > 1:
        return "all"
    return ",".join(_one_request(name, num_layers, is_alone=len(names) == 1) for name in names)


def _one_request(name: str, num_layers: int, *, is_alone: bool) -> str:
    if name == "last":
        return name if is_alone or not num_layers else str(num_layers)
    if match := re.fullmatch(r"sum-(\d+)-(\d+)", name):
        first, last = int(match[1]), int(match[2])
        return f"last{last - first + 1}" if last == num_layers and first else f"{first}-{last}"
    return name.removeprefix("layer-")


def _read_by(corpus: Corpus, modality: Modality, encoder: str) -> tuple[Corpus, str | None]:
    """Return the corpus as an encoder reads it, and the column of its texts if that is not ``text``."""
    if modality == "audio":
        if all(row.audio is None for row in corpus.utterances):
            raise CorpusError(f"{encoder} reads speech, and the corpus has no audio")
        return corpus, None
    if any(row.text is not None for row in corpus.utterances):
        return corpus, None
    transcribed = {name: None for row in corpus.utterances for name in row.extras if name.startswith("text:")}
    if not transcribed:
        raise CorpusError(
            f"{encoder} reads text, and the corpus has none: sercache transcribe writes what is said into it"
        )
    column = next(iter(transcribed))
    return corpus.with_text_of(column), column


def _seconds_of(corpus: Corpus, modality: Modality) -> float:
    """Return how long the corpus is, from some of its headers or texts; 0 where none can be read."""
    rows = [row for row in corpus.utterances if (row.audio if modality == "audio" else row.text) is not None]
    some = rows[:: max(1, len(rows) // _MEASURED_ROWS)]
    return sum(row.seconds for row in expected_lengths(corpus, some, modality)) * len(rows) / len(some)


def _with_layers(feature: ProposedFeature, layers: str, cost: EncoderCost, seconds: float) -> ProposedFeature:
    recipe = feature.recipe.model_copy(update={"layers": layers})
    num_layers = len(parse_layers(layers, cost.num_layers).names)
    size = seconds * cost.bytes_per_second * num_layers / recipe.time_pool
    return replace(feature, recipe=recipe, num_layers=num_layers, size_bytes=size or None)


def asks_for_same(cached: FeatureRecipe, wanted: FeatureRecipe) -> bool:
    """Return whether two recipes ask for the same frames; a cached one names a local encoder without path."""
    keys = ("layers", "time_pool", "text_column", "window_seconds", "overlap_seconds")
    return encoder_name(cached.encoder) == encoder_name(wanted.encoder) and all(
        getattr(cached, key) == getattr(wanted, key) for key in keys
    )


def _recipe_of(spec: FeatureSpec) -> FeatureRecipe:
    """Return the recipe of a feature set, without what it leaves as it is by default."""
    wanted: dict[str, object] = {
        "encoder": spec.encoder,
        "layers": layers_request(spec.layers, spec.num_layers),
        "time_pool": spec.time_pool,
    }
    if spec.window_seconds is not None:
        wanted["window_seconds"] = spec.window_seconds
    if spec.overlap_seconds is not None:
        wanted["overlap_seconds"] = spec.overlap_seconds
    if spec.options.get("text_column"):
        wanted["text_column"] = spec.options["text_column"]
    recipe = FeatureRecipe.model_validate(wanted)
    if differences_from(recipe, spec):
        # Frames that another tool made may have layers that no request means.
        recipe = recipe.model_copy(update={"layers": ",".join(spec.layers)})
    return recipe


def _fits_others(recipe: FeatureRecipe, feature_set: FeatureSet, others: Sequence[FeatureSet]) -> bool:
    return any(
        other is not feature_set
        and other.spec.encoder == feature_set.spec.encoder
        and not differences_from(recipe, other.spec)
        for other in others
    )


def _unused_name(recipe: FeatureRecipe, encoder: str, features: Sequence[ProposedFeature]) -> str:
    """Return a name made of what differs: the encoder, or else its layers and pooling, or else a number."""
    taken = _RESERVED_NAMES | {feature.name for feature in features}
    short = _letters(encoder.rpartition("/")[2])[:_LONGEST_NAME] or "features"
    if recipe.text_column is not None:
        column = _letters(re.split("[:/]", recipe.text_column)[-1])
        short = f"{short[:20]}-{column[:12]}"
    detailed = f"{short}-{_letters(recipe.layers.replace(',', '-'))[:8]}"
    pooled = f"{short}-pool{recipe.time_pool}"
    candidates = [short, pooled if recipe.time_pool > 1 else detailed, f"{detailed}-pool{recipe.time_pool}"]
    candidates += [f"{short}-{number}" for number in range(2, len(taken) + 3)]
    return next(name for name in candidates if name not in taken)


def _letters(text: str) -> str:
    """Return the characters of a text that may be in a name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")
