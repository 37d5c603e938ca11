"""A first recipe for a corpus and a cache: what there is decides on features, members, sizes and folds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sercache.cache.fingerprint import FeatureSpec, Modality
from sercache.cache.ledger import Ledger
from sercache.cache.matching import differences_from
from sercache.cache.store import Cache, FeatureSet
from sercache.corpus.targets import consensus
from sercache.corpus.utterance import Corpus
from sercache.errors import CorpusError
from sercache.recipe import FeatureRecipe

HeadName = Literal["deepser", "attentive-statistics", "mean-linear"]

USUAL_FOLDS = 5
_SCRIPTED_TEXTS = 20
_MOST_ALONE = 4
"""Feature sets that get a member of their own."""


@dataclass(frozen=True)
class Sizing:
    """Sizes and learning rates that suit a number of clips.

    Attributes:
        clips: the most it is for; None: any number.
        options: of a DeepSER head; empty: the paper's.
        statistics_options: of a head of attentive statistics; empty: its defaults.
        training: keys of ``training``; empty: the paper's.
        linear_rate: the learning rate of a linear member.
    """

    clips: int | None
    options: dict[str, int | float]
    statistics_options: dict[str, int | float]
    training: dict[str, int | dict[str, int | float]]
    linear_rate: float


SIZINGS = (
    Sizing(
        2_000,
        {"width": 48, "feedforward": 96, "dropout": 0.2},
        {"width": 128},
        {
            "batch_size": 16,
            "accumulate": 1,
            "stage1": {"epochs": 25, "learning_rate": 1e-3},
            "stage2": {"epochs": 8, "learning_rate": 2e-4},
        },
        1e-2,
    ),
    Sizing(
        20_000,
        {"width": 128, "feedforward": 256, "dropout": 0.2},
        {},
        {
            "batch_size": 32,
            "accumulate": 1,
            "stage1": {"epochs": 8, "learning_rate": 5e-4},
            "stage2": {"epochs": 6, "learning_rate": 1e-4},
        },
        1e-2,
    ),
    Sizing(None, {}, {}, {}, 1e-3),
)
"""By what worked on corpora of some hundred and some thousand clips; beyond, the paper's, for 84,000."""


@dataclass(frozen=True)
class ProposedFeature:
    """A feature set under the name that the recipe gives it.

    Attributes:
        name: in the recipe.
        recipe: finds it in the cache, and nothing else; or says what to extract.
        modality: what its encoder reads.
        held: utterances of the corpus that the cache holds of it; None where it is still to be extracted.
        untried: utterances of the corpus that were never extracted.
        dim: features per frame; 0 where it is not known.
        is_foreign: another tool made it, so extraction cannot go on with it.
    """

    name: str
    recipe: FeatureRecipe
    modality: Modality
    held: int | None = None
    untried: int = 0
    dim: int = 0
    is_foreign: bool = False


@dataclass(frozen=True)
class ProposedMember:
    """A member, and why it is there."""

    name: str
    head: HeadName
    features: tuple[str, ...]
    seed: int
    why: str


@dataclass(frozen=True)
class Proposal:
    """Everything that a first recipe says.

    Attributes:
        corpus: what it is for.
        features: those that members read.
        left_out: feature sets of the cache that lack utterances of the corpus, so that members cannot read
            them yet.
        members: at least one.
        folds: how many.
        speakers: who can be kept apart: known speakers of the training split, and all unknown ones as one.
        clips: utterances of the training split.
        sizing: what that number of clips suits.
        empty_classes: classes that are no utterance's consensus.
        is_cached: whether the features are in the cache already.
    """

    corpus: Corpus
    features: tuple[ProposedFeature, ...]
    left_out: tuple[ProposedFeature, ...]
    members: tuple[ProposedMember, ...]
    folds: int
    speakers: int
    clips: int
    sizing: Sizing
    empty_classes: tuple[str, ...]
    is_cached: bool


def propose(corpus: Corpus, cache: Path | None) -> Proposal:
    """Return a first recipe for ``corpus``, from what ``cache`` holds of it.

    Raises:
        CorpusError: there is nothing to learn or nothing to encode, or too few speakers to keep apart.
        CacheError: the cache is damaged.
    """
    training = _training_split(corpus)
    labels = consensus(training)
    counts = np.bincount(labels[labels >= 0], minlength=len(corpus.classes))
    if corpus.attributes and not corpus.classes:
        _refuse_equal_ratings(training)
    elif (counts > 0).sum() < 2:
        raise CorpusError(
            "a recipe needs two classes with utterances to learn from; sercache corpus show counts them"
        )
    speakers = len({row.speaker for row in training.utterances})
    folds = _fold_count(
        training, speakers, has_development=any(row.split == "development" for row in corpus.utterances)
    )
    found = [] if cache is None else _cached_features(cache, corpus)
    features = [feature for feature in found if not feature.untried] or found or _embedded_features(corpus)
    sizing = next(one for one in SIZINGS if one.clips is None or len(training) <= one.clips)
    return Proposal(
        corpus=corpus,
        features=tuple(features),
        left_out=tuple(feature for feature in found if feature not in features),
        members=tuple(_members(features)),
        folds=folds,
        speakers=speakers,
        clips=len(training),
        sizing=sizing,
        empty_classes=tuple(
            name for name, count in zip(corpus.classes, counts, strict=bool(corpus.classes)) if not count
        ),
        is_cached=bool(found) and not any(feature.untried for feature in features),
    )


def _refuse_equal_ratings(training: Corpus) -> None:
    """Raise a CorpusError unless some attribute has two different ratings."""
    for values in training.attribute_values.T:
        if len(np.unique(values[~np.isnan(values)])) > 1:
            return
    raise CorpusError(
        "a recipe needs two classes to learn from, or an attribute with different ratings; "
        "sercache corpus report shows what there is"
    )


def is_scripted(corpus: Corpus) -> bool:
    """Return whether all say the same few sentences, as actors do: then texts tell nothing of emotion."""
    texts = {row.text for row in corpus.utterances} - {None}
    return 0 < len(texts) <= min(_SCRIPTED_TEXTS, len(corpus) // _SCRIPTED_TEXTS)


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


def _training_split(corpus: Corpus) -> Corpus:
    """Return what folds are made of; a row without split is a training row."""
    splits: dict[str | None, set[str]] = {}
    for row in corpus.utterances:
        splits.setdefault(row.speaker, set()).add(row.split or "train")
    crossing = sorted(name for name, held in splits.items() if name is not None and len(held) > 1)
    if crossing:
        raise CorpusError(
            f"{len(crossing):,} speakers are in several splits, first '{crossing[0]}': models would be "
            "judged on speakers they learned from; mend the column 'split', or empty it: then folds keep "
            "speakers apart"
        )
    return corpus.select(row.id for row in corpus.utterances if (row.split or "train") == "train")


def _fold_count(training: Corpus, speakers: int, *, has_development: bool) -> int:
    """Return how many folds the speakers allow, where every fold's rest still has speakers to stop on."""
    least = 2 if has_development else 3
    if speakers < least:
        anonymous = sum(row.speaker is None for row in training.utterances)
        hint = f"; {anonymous:,} utterances name none" if anonymous else ""
        raise CorpusError(
            f"folds that keep speakers apart need {least} speakers at least, the training rows have "
            f"{speakers}{hint}: fill the manifest's column 'speaker'"
        )
    return min(USUAL_FOLDS, speakers)


def _cached_features(cache: Path, corpus: Corpus) -> list[ProposedFeature]:
    """Return every feature set of the cache that holds something of the corpus."""
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
                name=_unused_name(spec, recipe.layers, {feature.name for feature in features}),
                recipe=recipe,
                modality=spec.modality,
                held=len(corpus) - len(missing),
                untried=sum(utterance_id not in failed for utterance_id in missing),
                dim=spec.dim,
                is_foreign=spec.library == "imported",
            )
        )
    return features


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


def _fits_others(recipe: FeatureRecipe, own: FeatureSet, others: Sequence[FeatureSet]) -> bool:
    return any(
        other is not own
        and other.spec.encoder == own.spec.encoder
        and not differences_from(recipe, other.spec)
        for other in others
    )


def _unused_name(spec: FeatureSpec, layers: str, taken: set[str]) -> str:
    """Return a name that says what differs: the encoder, or else its layers and pooling, or else a number."""
    short = re.sub(r"[^A-Za-z0-9_.-]+", "-", spec.encoder.rpartition("/")[2]).strip("-.")[:40] or "features"
    detailed = f"{short}-{re.sub(r'[^A-Za-z0-9]+', '-', layers)[:12]}"
    pooled = f"{short}-pool{spec.time_pool}"
    candidates = [short, pooled if spec.time_pool > 1 else detailed, f"{detailed}-pool{spec.time_pool}"]
    candidates += [f"{short}-{number}" for number in range(2, len(taken) + 3)]
    return next(name for name in candidates if name not in taken)


def _embedded_features(corpus: Corpus) -> list[ProposedFeature]:
    """Return what needs no download, for a cache that holds nothing of the corpus."""
    features = []
    if any(row.audio is not None for row in corpus.utterances):
        recipe = FeatureRecipe(encoder="logmel", time_pool=4)
        features.append(ProposedFeature("speech", recipe, "audio"))
    has_texts = any(row.text is not None for row in corpus.utterances)
    if has_texts and not (features and is_scripted(corpus)):
        features.append(ProposedFeature("words", FeatureRecipe(encoder="char-ngrams"), "text"))
    if not features:
        raise CorpusError("the corpus has neither audio nor texts: there is nothing to encode")
    return features


def _members(features: Sequence[ProposedFeature]) -> list[ProposedMember]:
    """Return a fusion, what it fuses alone, and a linear member: what each is worth can be seen then."""
    speech = [feature.name for feature in _best_first(features, "audio")]
    words = [feature.name for feature in _best_first(features, "text")]
    members: list[ProposedMember] = []

    def add(name: str, head: HeadName, read: Sequence[str], why: str) -> None:
        members.append(ProposedMember(name, head, tuple(read), len(members) + 1, why))

    fused: list[str]
    if speech and words:
        fused = [speech[0], words[0]]
        add("fusion-1", "deepser", fused, "speech and text together")
        add("fusion-2", "deepser", fused, "the same with other luck: seeds differ more than one thinks")
        if len(speech) > 1:
            add("fusion-3", "deepser", [*speech[:2], words[0]], "two kinds of speech features, and text")
    else:
        fused = (speech or words)[:2]
        if len(fused) > 1:
            add("fusion-1", "deepser", fused, "two feature sets together")
    for name in [*speech, *words][:_MOST_ALONE]:
        add(f"{name}-only", "deepser", [name], "what it is worth alone")
    add("linear", "mean-linear", fused, "means over time and one layer: what all others have to beat")
    if len(members) < 3:
        add(
            "statistics", "attentive-statistics", fused, "another head on the same: mean and spread over time"
        )
    return members


def _best_first(features: Sequence[ProposedFeature], modality: Modality) -> list[ProposedFeature]:
    """Wide frames first: large encoders make them."""
    return sorted((one for one in features if one.modality == modality), key=lambda one: -one.dim)
