"""Split a corpus into the rows that a search trains on and the reserved rows; they share no speaker."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sercache.corpus import Corpus
from sercache.corpus.folds import inner_slice
from sercache.errors import CorpusError, RecipeError, did_you_mean
from sercache.evaluation.primary import PrimaryScore, Truth, primary_score
from sercache.experiments.search_space import Space, check_space, default_space
from sercache.recipe import MemberRecipe, Recipe
from sercache.run import Run
from sercache.seeds import derive_seed
from sercache.training.data import open_feature_sets, read_run_corpus, split_ids


@dataclass(frozen=True)
class TuningDesign:
    """A search over the settings of one member.

    Attributes:
        recipe: the user's.
        member: whose settings are searched.
        space: the values that they may take.
        output: the folder of the search.
        folds: how many inner folds score a trial.
        seed: of the reserved rows and of all suggestions.
        search: the utterances that trials learn from, stop on and are scored on.
        reserved: the utterances that the result is evaluated on; no trial has any of them.
        judged_on: a description of the reserved rows.
    """

    recipe: Recipe
    member: MemberRecipe
    space: Space
    output: Path
    folds: int
    seed: int
    search: Corpus
    reserved: Corpus
    judged_on: str

    @property
    def primary(self) -> PrimaryScore:
        """The score that trials are ranked by."""
        return primary_score(len(self.search.classes))

    @property
    def study_path(self) -> Path:
        """The trials that have ended, a JSON line each."""
        return self.output / "study.log"

    @property
    def search_path(self) -> Path:
        """The manifest that every trial reads."""
        return self.output / "search.csv"

    @property
    def reserved_path(self) -> Path:
        """The manifest of what no trial sees."""
        return self.output / "reserved.csv"

    @property
    def finals_corpus_path(self) -> Path:
        """The manifest that the final trainings read: both parts, the reserved one as test split."""
        return self.output / "judged.csv"

    @property
    def trials_folder(self) -> Path:
        """The folder of the runs of the trials, by number."""
        return self.output / "trials"

    @property
    def finals_folder(self) -> Path:
        """The folder of the runs that are evaluated on the reserved rows."""
        return self.output / "judged"

    def trial_run(self, number: int) -> Run:
        """Return the run of a trial."""
        return Run(self.trials_folder / str(number))

    def recipe_of(self, member: MemberRecipe, corpus: Path, output: Path) -> Recipe:
        """Return the recipe of one training: this member alone, on the inner folds."""
        return self.recipe.model_copy(
            update={
                "corpus": corpus,
                "output": output,
                "members": [member],
                "features": {name: self.recipe.features[name] for name in member.features},
                "folds": self.recipe.folds.model_copy(update={"count": self.folds}),
            }
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal for a search to resume."""
        space = {
            key: dimension.model_dump(mode="json", exclude_defaults=True)
            for key, dimension in self.space.items()
        }
        return {"seed": self.seed, "space": space, "judged_on": self.judged_on}


def design_tuning(
    recipe: Recipe,
    *,
    member: str | None = None,
    space: Space | None = None,
    folds: int | None = None,
    seed: int | None = None,
    reserve: float = 0.2,
    output: Path | None = None,
) -> TuningDesign:
    """Reserve the rows for the evaluation, and check that the space fits the member.

    The result is evaluated on a test split with consensus classes (rated attributes, where there are no
    classes). Where the corpus has none, it is evaluated on a share of the training speakers, drawn so that
    classes are spread evenly.

    Args:
        recipe: that has the member.
        member: its name; the first where it is None.
        space: the search space; None is :func:`~sercache.experiments.search_space.default_space`.
        folds: inner folds; None is as many as the recipe has.
        seed: of the reserve and the suggestions; None is the recipe's.
        reserve: share of the training rows to set aside where there is no test split.
        output: the folder of the search; None is the recipe's with ``-tuning`` behind its name.

    Raises:
        RecipeError: no such member, or it lacks a key of the space.
        CacheError: a feature set is not there yet.
        CorpusError: the manifest is missing or wrong, or has too few speakers to reserve some.
    """
    if folds is not None and folds < 2:
        raise RecipeError(f"{folds} inner folds: a trial needs at least 2 to be scored out of fold")
    if not 0 < reserve <= 0.5:
        raise RecipeError(f"reserve is {reserve:g}; it must lie above 0 and be at most 0.5")
    chosen = _member_called(recipe, member)
    corpus = read_run_corpus(recipe)
    if space is None:
        space = default_space(
            recipe, chosen, has_attributes=bool(corpus.attributes), has_classes=bool(corpus.classes)
        )
    kept = open_feature_sets(recipe)
    check_space(recipe, chosen, space, [len(kept[name].layers) for name in chosen.features])
    seed = recipe.seed if seed is None else seed
    search, reserved, judged_on = _split(corpus, reserve, seed)
    return TuningDesign(
        recipe=recipe,
        member=chosen,
        space=space,
        output=output if output is not None else recipe.output.with_name(f"{recipe.output.name}-tuning"),
        folds=recipe.folds.count if folds is None else folds,
        seed=seed,
        search=search,
        reserved=reserved,
        judged_on=judged_on,
    )


def with_reserved_as_test(design: TuningDesign) -> Corpus:
    """Return all rows of a search, with the reserved ones as test split."""
    return replace(design.search, utterances=design.search.utterances + design.reserved.utterances)


def _member_called(recipe: Recipe, name: str | None) -> MemberRecipe:
    members = {member.name: member for member in recipe.members}
    if name is None:
        return recipe.members[0]
    if name not in members:
        raise RecipeError(
            f"the recipe has no member '{name}' (members: {', '.join(members)}).{did_you_mean(name, members)}"
        )
    return members[name]


def _split(corpus: Corpus, reserve: float, seed: int) -> tuple[Corpus, Corpus, str]:
    """Return the rows of the search, the reserved rows, and a description of these."""
    train, test = split_ids(corpus, "train"), corpus.select(split_ids(corpus, "test"))
    if Truth.of(test).is_scored.any():
        reserved, judged_on = test, "the test split"
    else:
        train, stop = inner_slice(corpus.select(train), reserve, derive_seed(seed, "tuning-reserve"))
        rows = corpus.select(stop).utterances
        reserved = replace(corpus, utterances=tuple(replace(row, split="test") for row in rows))
        judged_on = f"speakers set aside, {len(stop) / (len(train) + len(stop)):.0%} of the training rows"
    truth = Truth.of(reserved)
    if not truth.is_scored.any():
        raise CorpusError(
            f"no row that would be reserved has {truth.primary.needs}, so that nothing could be scored"
        )
    return corpus.select((*train, *split_ids(corpus, "development"))), reserved, judged_on
