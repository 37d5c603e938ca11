"""A run folder, opened: what every member x fold of it reads."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from sercache.cache.ledger import Ledger
from sercache.cache.store import Cache, FeatureSet
from sercache.corpus import Corpus, Split
from sercache.corpus.folds import FoldMap
from sercache.corpus.manifest import read_corpus
from sercache.encoders.random_weights import has_random_weights
from sercache.errors import CacheError, CorpusError, RecipeError, TrainingError
from sercache.events import QUIET, Context, Event, Listener
from sercache.heads.protocol import Head
from sercache.heads.registry import HEADS, build_head
from sercache.posteriors import Posteriors
from sercache.recipe import MemberRecipe, Recipe, TargetsRecipe
from sercache.run import DerivedMember, Run, derived_members
from sercache.seeds import derive_seed
from sercache.training.batches import FrameSource
from sercache.training.pooled_features import PooledTable, pooled_table
from sercache.training.rows import LabelledRows, TeacherTargets
from sercache.training.standardize import (
    MIN_CLIPS,
    InputStatistics,
    SpeakerStatistics,
    input_statistics,
    speaker_statistics,
)


@dataclass(frozen=True)
class TrainingData:
    """The recipe, corpus, targets, folds and feature sets of a run.

    ``rows`` has the recipe's targets; what one member learns from is :meth:`rows_of`. ``derived`` has the
    members that are not the recipe's, by name.
    """

    run: Run
    recipe: Recipe
    corpus: Corpus
    rows: LabelledRows
    folds: FoldMap
    feature_sets: Mapping[str, FeatureSet]
    derived: Mapping[str, DerivedMember] = field(default_factory=dict)
    _rows: dict[TargetsRecipe, LabelledRows] = field(default_factory=dict, repr=False)
    _with_teacher: dict[str, LabelledRows] = field(default_factory=dict, repr=False)
    _frames: dict[tuple[str, tuple[str, ...]], FrameSource] = field(default_factory=dict, repr=False)
    _statistics: dict[tuple[str, tuple[str, ...], bool], InputStatistics] = field(
        default_factory=dict, repr=False
    )
    _pooled: dict[tuple[str, tuple[str, ...], bool], PooledTable] = field(default_factory=dict, repr=False)
    _speakers: dict[str, SpeakerStatistics] = field(default_factory=dict, repr=False)

    def member(self, name: str) -> MemberRecipe:
        """Return a member by name: one of the recipe's, or a derived one."""
        for member in self.recipe.members:
            if member.name == name:
                return member
        return self.derived[name].member

    def sets_of(self, member: MemberRecipe) -> list[FeatureSet]:
        """Return the feature sets that a member reads, in its order."""
        return [self.feature_sets[name] for name in member.features]

    def scored_rows_of(self, member: MemberRecipe) -> LabelledRows:
        """Return the corpus's truth under a member's target policy: it stops and is scored on it."""
        targets = self.recipe.targets_of(member)
        if targets not in self._rows:
            self._rows[targets] = LabelledRows.of(self.corpus, targets)
        return self._rows[targets]

    def rows_of(self, member: MemberRecipe) -> LabelledRows:
        """Return what a member learns from: the truth; a distilled member's is mixed with its teacher.

        Raises:
            StackingError: the teacher's predictions are missing or damaged.
        """
        rows, derived = self.scored_rows_of(member), self.derived.get(member.name)
        if derived is None or derived.kind != "distilled":
            return rows
        if member.name not in self._with_teacher:
            teacher = Posteriors.load(self.run.teacher_path(member.name))
            targets = TeacherTargets.of(teacher, self.corpus, float(derived.settings["votes_share"]))
            self._with_teacher[member.name] = rows.with_teacher(targets)
        return self._with_teacher[member.name]

    def frames(self, device: str, members: Sequence[MemberRecipe] = ()) -> FrameSource:
        """Return the source of frames from which every head selects its own.

        It has all that the recipe's members read, and what ``members`` read beside: batches are sorted by the
        frames in all of it, so the recipe's members train alike whether or not there are derived ones.
        """
        wanted = {name for member in (*self.recipe.members, *members) for name in member.features}
        key = (device, tuple(sorted(wanted)))
        if key not in self._frames:
            sets = [self.feature_sets[name] for name in key[1]]
            self._frames[key] = FrameSource(sets, sorted(self.corpus.ids), torch.device(device))
        return self._frames[key]

    def frames_of(self, member: MemberRecipe, ids: Sequence[str], device: str) -> FrameSource:
        """Return the frames that a member reads of some utterances, normalised as its settings say."""
        source = self.frames(device, [member]).select(ids, self.sets_of(member))
        if self.recipe.normalizes_speakers(member):
            return source.normalized([self.speakers(name) for name in member.features])
        return source

    def speakers(self, name: str, context: Context = QUIET) -> SpeakerStatistics:
        """Return mean and scale of every speaker in a feature set; measured once per run.

        Raises:
            CacheError: frames are damaged, or not finite.
            Interrupted: ``context.should_stop`` returned True.
        """
        if name not in self._speakers:
            self._speakers[name] = speaker_statistics(
                self.feature_sets[name],
                self.corpus,
                self.run.root / "speakers",
                context=context,
            )
        return self._speakers[name]

    def measure_speakers(self, members: Sequence[MemberRecipe], context: Context) -> None:
        """Measure the speakers that members are normalised by, before processes train them side by side."""
        normalized = [member for member in members if self.recipe.normalizes_speakers(member)]
        for name in sorted({name for member in normalized for name in member.features}):
            with suppress(CacheError):  # the members' own trainings say what is wrong
                averaged = self.speakers(name, context).averaged
                if averaged:
                    message = (
                        f"feature set '{name}': {averaged} utterances name no speaker, or one with fewer "
                        f"than {MIN_CLIPS} clips; they are normalised as the average speaker of the training "
                        "split"
                    )
                    context.listener(Event("warning", name, message=message))

    def statistics(self, name: str, fit: tuple[str, ...], *, per_speaker: bool = False) -> InputStatistics:
        """Return mean and deviation of a feature set over the training rows of a fold, measured once.

        Args:
            name: of the feature set.
            fit: the training rows.
            per_speaker: whether the frames are normalised per speaker first.
        """
        key = (name, fit, per_speaker)
        if key not in self._statistics:
            seed = derive_seed(self.recipe.seed, "standardisation")
            speakers = self.speakers(name) if per_speaker else None
            self._statistics[key] = input_statistics(self.feature_sets[name], fit, seed, speakers)
        return self._statistics[key]

    def pooled(
        self,
        name: str,
        statistics: tuple[str, ...],
        device: str,
        context: Context = QUIET,
        *,
        per_speaker: bool = False,
    ) -> PooledTable:
        """Return a feature set's pooled statistics of all utterances, ids sorted; read once.

        With ``per_speaker``, of frames that were normalised per speaker.

        Raises:
            CacheError: frames are damaged, or not finite.
            Interrupted: ``context.should_stop`` returned True.
        """
        key = (name, statistics, per_speaker)
        if key not in self._pooled:
            self._pooled[key] = pooled_table(
                self.feature_sets[name],
                sorted(self.corpus.ids),
                statistics,
                torch.device(device),
                self.run.root / "pooled",
                speakers=self.speakers(name, context) if per_speaker else None,
                context=context,
            )
        return self._pooled[key]

    def is_closed_form(self, member: MemberRecipe) -> bool:
        """Return whether a member's head is fitted without epochs."""
        return HEADS[member.head].is_closed_form

    def build_head(self, member: MemberRecipe, seed: int) -> Head:
        """Return a member's head, freshly initialised.

        Raises:
            RecipeError: the head or its options do not fit.
        """
        feature_sets = self.sets_of(member)
        return build_head(
            member.head,
            [feature_set.dim for feature_set in feature_sets],
            len(self.corpus.classes),
            [(attribute.low, attribute.high) for attribute in self.corpus.attributes],
            member.options,
            seed,
            [len(feature_set.layers) for feature_set in feature_sets],
        )

    def usable(self, member: MemberRecipe, ids: Sequence[str]) -> tuple[str, ...]:
        """Return those of ``ids`` of which the member has frames in at least one of its feature sets."""
        feature_sets = self.sets_of(member)
        return tuple(row for row in ids if any(row in feature_set for feature_set in feature_sets))


@lru_cache(maxsize=1)
def open_run(root: Path) -> TrainingData:
    """Open a run folder that :func:`~sercache.training.ensemble.train_ensemble` has laid out.

    Raises:
        SercacheError: the corpus, a feature set or the folds are gone or damaged.
    """
    run = Run(root)
    recipe = run.recipe()
    corpus = read_run_corpus(recipe)
    rows = LabelledRows.of(corpus, recipe.targets)
    derived = {member.name: member for member in derived_members(run)}
    feature_sets = open_feature_sets(recipe, [member.member for member in derived.values()])
    return TrainingData(run, recipe, corpus, rows, FoldMap.load(run.folds_path), feature_sets, derived)


def read_run_corpus(recipe: Recipe) -> Corpus:
    """Return the recipe's corpus over the recipe's classes.

    Raises:
        RecipeError: the recipe names a class that the corpus does not have.
        CorpusError: the manifest is missing or wrong.
    """
    corpus = read_corpus(recipe.corpus)
    for name in recipe.classes or ():
        if name not in corpus.classes:
            known = ", ".join(corpus.classes)
            raise RecipeError(
                f"classes: the corpus {recipe.corpus.name} has no class '{name}' (it has: {known})"
            )
    return corpus if recipe.classes is None else corpus.with_classes(recipe.classes)


def open_feature_sets(recipe: Recipe, derived: Sequence[MemberRecipe] = ()) -> dict[str, FeatureSet]:
    """Return the feature sets that the recipe's members and ``derived`` ones read, by the recipe's name.

    Raises:
        CacheError: one is not in the cache.
    """
    opened = {}
    for name in sorted({feature for member in (*recipe.members, *derived) for feature in member.features}):
        try:
            opened[name] = Cache(recipe.cache).find(recipe.features[name])
        except CacheError as error:
            raise CacheError(f"feature set '{name}': {error}") from None
    return opened


def refuse_unextracted(feature_sets: Mapping[str, FeatureSet], corpus: Corpus) -> dict[str, int]:
    """Return how many utterances failed in each feature set; all others must be there.

    Raises:
        TrainingError: extraction was not finished: utterances are missing that never failed.
    """
    failed = {}
    for name, feature_set in feature_sets.items():
        missing = feature_set.missing(corpus.ids)
        known = Ledger(feature_set.folder).failures
        untried = [utterance_id for utterance_id in missing if utterance_id not in known]
        if untried:
            raise TrainingError(
                f"feature set '{name}' lacks {len(untried)} of {len(corpus)} utterances, first "
                f"'{untried[0]}'; run sercache extract with this recipe to finish it"
            )
        failed[name] = len(missing)
    return failed


def refuse_crossing_speakers(corpus: Corpus, listener: Listener) -> None:
    """Make sure that no model will stop on, or be scored on, a speaker that it learned from.

    Rows without a speaker cannot be checked; if several splits have such rows, a warning says so.

    Raises:
        CorpusError: a speaker is in two splits.
    """
    splits: dict[str | None, set[str]] = {}
    for row in corpus.utterances:
        splits.setdefault(row.speaker, set()).add(row.split or "train")
    nameless = splits.pop(None, set())
    crossing = sorted(str(speaker) for speaker, names in splits.items() if len(names) > 1)
    if crossing:
        where = " and ".join(f"'{split}'" for split in sorted(splits[crossing[0]]))
        raise CorpusError(
            f"speaker '{crossing[0]}' is in the splits {where} ({len(crossing)} such speakers): models would "
            "be judged on voices that they learned. sercache corpus check lists them all; without a column "
            "'split' the folds keep speakers apart"
        )
    if len(nameless) > 1:
        message = (
            f"rows without a speaker are in the splits {', '.join(sorted(nameless))}: "
            "nobody can tell whether the models know their voices"
        )
        listener(Event("warning", "corpus", message=message))


def warn_of_untrained_encoders(feature_sets: Mapping[str, FeatureSet], listener: Listener) -> None:
    """Say which feature sets come from encoders with random weights; what learns from them means nothing."""
    for name, feature_set in feature_sets.items():
        if has_random_weights(feature_set.spec.encoder):
            message = (
                f"feature set '{name}' was made by {feature_set.spec.encoder}, whose weights are random: "
                "good for benchmarks, not for results"
            )
            listener(Event("warning", name, message=message))


def split_ids(corpus: Corpus, split: Split) -> tuple[str, ...]:
    """Return the ids of one split; a row without split is a training row."""
    return tuple(row.id for row in corpus.utterances if (row.split or "train") == split)
