"""The baseline of a run: a linear model on all that its members read, fitted before anything else."""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sercache.engines.registry import LOCAL, EngineChoice
from sercache.errors import Interrupted, RecipeError, SercacheError
from sercache.evaluation.bootstrap import (
    Difference,
    Estimate,
    SpeakerBootstrap,
    SumMetric,
    confusion_metric,
    holm_corrected,
)
from sercache.evaluation.metrics import CONFUSION_METRICS
from sercache.evaluation.primary import MACRO_F1, PrimaryScore
from sercache.events import QUIET, Context, Event, Listener
from sercache.heads.registry import HEADS
from sercache.posteriors import Posteriors
from sercache.recipe import MemberRecipe, Recipe
from sercache.run import DerivedMember, Run, derived_members, fold_name, save_derived
from sercache.seeds import derive_seed
from sercache.training.data import TrainingData
from sercache.training.member import FoldJob, is_finished
from sercache.training.members import MemberReport, train_members

BASELINE_NAME = "linear-baseline"
_MANY_ROWS = 20_000
"""Training rows above which the seven statistics of every layer take more memory than they are worth."""


@dataclass(frozen=True, slots=True)
class BaselineReport:
    """How the baseline did on the out-of-fold rows that count in the primary score.

    Attributes:
        member: its scores, as those of any member.
        description: what it is, in words.
        is_in_recipe: whether it is a member of the recipe, and so one of those that are stacked.
        primary: the score that decides.
        score: the primary score, with a 95 % interval over speakers.
        uar: the same; None with attributes alone.
        seconds: that fitting took; NaN where it had been fitted before.
        differences: primary score of each member minus the baseline's on the rows that both predicted;
            p-values are Holm-corrected over the members.
    """

    member: MemberReport
    description: str
    is_in_recipe: bool
    primary: PrimaryScore
    score: Estimate
    uar: Estimate | None
    seconds: float
    differences: Mapping[str, Difference] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What to know before anything else is trained."""
        took = "" if math.isnan(self.seconds) else f", in {_duration(self.seconds)}"
        if math.isnan(self.score.value):
            needs = self.primary.needs
            return f"Baseline ({self.description}): fitted{took}, but no row has {needs} to score it."
        return (
            f"Baseline ({self.description}): {self.primary.name} {_estimate(self.score)}{took}. "
            "What follows has to beat it."
        )

    @property
    def verdict(self) -> str:
        """Which members are not above the baseline."""
        return members_above(self.differences, self.score, self.primary)


def members_above(
    differences: Mapping[str, Difference], baseline: Estimate, primary: PrimaryScore = MACRO_F1
) -> str:
    """Return a sentence that names the members that are not above the baseline.

    Args:
        differences: primary score of each member minus the baseline's; p-values corrected for their number.
        baseline: its primary score.
        primary: what the scores are.
    """
    if math.isnan(baseline.value):
        return f"No row has {primary.needs}: members cannot be compared with the baseline."
    score, count = f"{primary.name} {_estimate(baseline)}", len(differences)
    below = [name for name, difference in differences.items() if not difference.is_gain]
    if not count:
        return f"The baseline has {score}; no other member was compared with it."
    if not below:
        every = "The only member is" if count == 1 else f"All {count} members are"
        return f"{every} above the baseline ({score})."
    some = "The only member is" if count == 1 else f"{len(below)} of {count} members are"
    if len(below) == 1 < count:
        some = f"1 of {count} members is"
    listed = ", ".join(f"{name} ({_difference(differences[name])})" for name in below)
    return f"{some} not above the baseline ({score}): {listed}."


def find_baseline(recipe: Recipe, derived: Collection[DerivedMember] = ()) -> MemberRecipe | None:
    """Return the baseline of a run; None where it has none, as runs of earlier versions.

    It is the recipe's first member that is fitted in closed form on all that the recipe's members read, as
    it was extracted, or else the run's derived member of the kind ``baseline``. A member that is normalised
    per speaker is none: what normalisation is worth is seen only beside a baseline without it.

    Args:
        recipe: of the run.
        derived: the run's derived members.
    """
    every = _all_features(recipe)
    for member in recipe.members:
        reads_all = set(member.features) == set(every)
        if reads_all and _is_closed_form(member) and not recipe.normalizes_speakers(member):
            return member
    return next((found.member for found in derived if found.kind == "baseline"), None)


def baseline_posteriors(run: Run, recipe: Recipe) -> Posteriors | None:
    """Return what the baseline of a run predicts; None where it has none, or has not been fitted.

    Raises:
        StackingError: its posteriors are damaged.
        RecipeError: what describes a derived member is damaged.
    """
    member = find_baseline(recipe, derived_members(run))
    if member is None or not run.posteriors_path(member.name).is_file():
        return None
    return Posteriors.load(run.posteriors_path(member.name))


def enter_baseline(run: Run, recipe: Recipe, training_rows: int) -> MemberRecipe:
    """Return the baseline of a run, entered as a derived member where the recipe has none.

    Args:
        run: already started.
        recipe: of the run.
        training_rows: how many rows the training split has.

    Raises:
        RecipeError: what describes a derived member is damaged.
    """
    derived = derived_members(run)
    found = find_baseline(recipe, derived)
    if found is not None:
        return found
    taken = {member.name for member in recipe.members} | {member.name for member in derived}
    name, number = BASELINE_NAME, 1
    while name in taken:
        number += 1
        name = f"{BASELINE_NAME}-{number}"
    options: dict[str, int | float | str | bool] = {}
    if training_rows > _MANY_ROWS:
        options["statistics"] = "mean+deviation"
    training = {} if recipe.training.normalize == "none" else {"normalize": "none"}
    member = MemberRecipe(
        name=name, head="ridge", features=_all_features(recipe), options=options, training=training
    )
    save_derived(run, DerivedMember("baseline", "the recipe", member))
    return member


def fit_baseline(
    data: TrainingData,
    *,
    device: str,
    engine: EngineChoice = LOCAL,
    context: Context = QUIET,
) -> BaselineReport | None:
    """Fit the baseline of a run on every fold, write its posteriors and score them.

    The listener receives the score in one event, or why the baseline cannot be fitted in one warning.

    Args:
        data: a run that :func:`enter_baseline` has seen.
        device: as torch names it.
        engine: where to fit; here, unless it is a cluster.
        context: receives events, and says when to stop.

    Returns:
        None where the baseline cannot be fitted.

    Raises:
        Interrupted: ``context.should_stop`` returned True.
    """
    started = time.monotonic()
    try:
        member = find_baseline(data.recipe, data.derived.values())
        if member is None:
            raise RecipeError("the run has none")
        folds = range(data.recipe.folds.count)
        was_there = all(
            is_finished(data.run, FoldJob(data.run.root, member.name, fold, device)) for fold in folds
        )
        trained = train_members(
            data,
            [member],
            device=device,
            workers=None if engine.is_cluster else 1,
            engine=engine,
            context=replace(context, listener=_without_folds(data, member, context.listener)),
        )
        report = _report(data, member, trained.members[0])
    except Interrupted:
        raise
    except SercacheError as error:
        message = f"there is no baseline to compare with, it cannot be fitted: {error}"
        context.listener(Event("warning", BASELINE_NAME, message=message))
        return None
    if not was_there:
        report = replace(report, seconds=time.monotonic() - started)
    values = {report.primary.key: report.score.value}
    if report.uar is not None:
        values["uar"] = report.uar.value
    context.listener(Event("score", member.name, message=report.sentence, values=values))
    return report


def compare_members(
    data: TrainingData, baseline: BaselineReport, members: Sequence[MemberReport]
) -> BaselineReport:
    """Return the baseline's report with each member's difference to it.

    Raises:
        StackingError: posteriors are missing or damaged.
    """
    reference = Posteriors.load(data.run.posteriors_path(baseline.member.name))
    differences: dict[str, Difference] = {}
    for member in members:
        if member.name == baseline.member.name or member.error:
            continue
        posteriors = Posteriors.load(data.run.posteriors_path(member.name))
        ids = _scored_ids(data, [reference, posteriors])
        bootstrap = _bootstrap(data, ids)
        first, second = (_metric(data, table, ids) for table in (posteriors, reference))
        differences[member.name] = bootstrap.difference(first, second)
    return replace(baseline, differences=holm_corrected(differences))


def describe_baseline(member: MemberRecipe, *, has_layers: bool = False) -> str:
    """Return what a baseline is, in words.

    >>> describe_baseline(MemberRecipe(name="base", head="ridge", features=["whisper", "text"]))
    'ridge on pooled statistics of whisper + text'
    """
    layers = "all layers of " if has_layers else ""
    return f"{member.head} on pooled statistics of {layers}{' + '.join(member.features)}"


def _all_features(recipe: Recipe) -> list[str]:
    """Return the feature sets that the recipe's members read, each once."""
    return list(dict.fromkeys(name for member in recipe.members for name in member.features))


def _is_closed_form(member: MemberRecipe) -> bool:
    try:
        return HEADS[member.head].is_closed_form
    except SercacheError:  # a head of a package that is not installed here
        return False


def _report(data: TrainingData, member: MemberRecipe, scored: MemberReport) -> BaselineReport:
    posteriors = Posteriors.load(data.run.posteriors_path(member.name))
    ids = _scored_ids(data, [posteriors])
    bootstrap = _bootstrap(data, ids)
    has_layers = any(len(feature_set.layers) > 1 for feature_set in data.sets_of(member))
    return BaselineReport(
        member=scored,
        description=describe_baseline(member, has_layers=has_layers),
        is_in_recipe=any(member.name == other.name for other in data.recipe.members),
        primary=data.rows.truth.primary,
        score=bootstrap.estimate(_metric(data, posteriors, ids)),
        uar=bootstrap.estimate(_uar(data, posteriors, ids)) if data.corpus.classes else None,
        seconds=math.nan,
    )


def _scored_ids(data: TrainingData, tables: Sequence[Posteriors]) -> tuple[str, ...]:
    """Return the out-of-fold rows of all tables that count in the primary score, in the corpus's order."""
    shared = set.intersection(*(set(_out_of_fold(table)) for table in tables))
    ids = [utterance_id for utterance_id in data.corpus.ids if utterance_id in shared]
    is_scored = data.rows.select(ids).truth.is_scored
    return tuple(utterance_id for utterance_id, counts in zip(ids, is_scored, strict=True) if counts)


def _out_of_fold(table: Posteriors) -> list[str]:
    return [
        utterance_id
        for utterance_id, origin in zip(table.ids, table.origins, strict=True)
        if origin == "out-of-fold"
    ]


def _bootstrap(data: TrainingData, ids: Sequence[str]) -> SpeakerBootstrap:
    speakers = [data.corpus.by_id[utterance_id].speaker for utterance_id in ids]
    samples = data.recipe.stacking.bootstrap_samples
    return SpeakerBootstrap(speakers, samples, derive_seed(data.recipe.seed, "bootstrap"))


def _metric(data: TrainingData, table: Posteriors, ids: tuple[str, ...]) -> SumMetric:
    """Return the primary score of the rows ``ids``."""
    taken = table.take(ids)
    return data.rows.select(ids).truth.metric(taken.class_probabilities, taken.attribute_values)


def _uar(data: TrainingData, table: Posteriors, ids: tuple[str, ...]) -> SumMetric:
    decisions = table.take(ids).class_probabilities.argmax(axis=1)
    truth = data.rows.select(ids).truth
    return confusion_metric(truth.labels, decisions, truth.num_classes, CONFUSION_METRICS["uar"])


def _without_folds(data: TrainingData, member: MemberRecipe, listener: Listener) -> Listener:
    """Return a listener to how far reading is; one event stands for all folds when they are fitted.

    Folds of a member of the recipe are reported as those of every member.
    """
    folds = {f"{member.name}/{fold_name(fold)}" for fold in range(data.recipe.folds.count)}
    is_derived = member.name in data.derived

    def report(event: Event) -> None:
        if event.kind in ("note", "score"):
            return
        if folds.intersection(event.task.split(" + ")) and (is_derived or event.kind == "warning"):
            return
        listener(event)

    return report


def _estimate(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _difference(difference: Difference) -> str:
    if math.isnan(difference.low):
        return f"{difference.value:+.3f}"
    figures = f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    if difference.low > 0 and not difference.is_gain:  # the interval alone would suggest otherwise
        figures += f", p = {difference.p_value:.3f}"
    return figures


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 10
        else f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
    )
