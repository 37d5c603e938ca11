"""Distillation: train a student on its teacher's posteriors beside a control without them, and compare."""

from collections.abc import Mapping, Sequence

import numpy as np

from sercache.devices import resolve_device
from sercache.errors import StackingError, TrainingError
from sercache.evaluation.bootstrap import Difference, Estimate, SpeakerBootstrap, SumMetric, holm_corrected
from sercache.events import QUIET, Context
from sercache.experiments.distillation.report import Contestant, DistillationReport, Role, as_json
from sercache.experiments.distillation.student import Distillation
from sercache.files import write_json
from sercache.heads.registry import parameter_count
from sercache.posteriors import Posteriors
from sercache.seeds import derive_seed
from sercache.stacking.base import Prediction
from sercache.stacking.costs import MemberCosts, member_costs
from sercache.stacking.rows import StackingRows, columns_in_order
from sercache.stacking.table import score_names, scores_of
from sercache.training.baseline import baseline_posteriors
from sercache.training.members import train_members


def evaluate_distillation(distillation: Distillation) -> DistillationReport:
    """Score teacher, student, control and baseline on the evaluation rows that all of them predicted.

    Raises:
        StackingError: no such row counts in the primary score.
    """
    data, teacher = distillation.data, distillation.teacher
    predictions: list[tuple[Role, str, Posteriors, tuple[str, ...]]] = [
        ("teacher", teacher.name, teacher.predicted.posteriors, teacher.predicted.members)
    ]
    roles: list[tuple[Role, str]] = [("student", distillation.student.name)]
    if distillation.control is not None:
        roles.append(("control", distillation.control.name))
    predictions += [
        (role, name, Posteriors.load(data.run.posteriors_path(name)), (name,)) for role, name in roles
    ]
    best = teacher.best_single
    predictions.append(("best-single", best.members[0], best.posteriors, best.members))
    baseline = baseline_posteriors(data.run, data.recipe)
    if baseline is not None and set(teacher.evaluated.inputs.ids) <= set(baseline.ids):
        predictions.append(("baseline", baseline.member, baseline, (baseline.member,)))
    evaluated = _shared(teacher.evaluated, [table for _, _, table, _ in predictions])
    bootstrap = SpeakerBootstrap(
        evaluated.speakers,
        data.recipe.stacking.bootstrap_samples,
        derive_seed(data.recipe.seed, "bootstrap"),
    )
    scores = {role: scores_of(evaluated, _prediction(table, evaluated)) for role, _, table, _ in predictions}
    attributes = tuple(attribute.name for attribute in evaluated.inputs.attributes)
    names, primary = (
        score_names(attributes, has_classes=bool(evaluated.inputs.classes)),
        evaluated.truth.primary,
    )
    costs = member_costs(data.recipe, list(data.derived.values()))

    def contestant(role: Role, name: str, members: tuple[str, ...]) -> Contestant:
        cost = None if costs is None else costs.of(members)
        return Contestant(
            role=role,
            name=name,
            scores={score: bootstrap.estimate(scores[role][score]) for score in names},
            members=len(members),
            parameters=sum(_parameters(distillation, member) for member in members),
            encoders=() if cost is None else cost.encoders,
            seconds_per_minute=None if cost is None else cost.seconds_per_minute,
        )

    decisive = {role: role_scores[primary.key] for role, role_scores in scores.items()}
    to_teacher, to_control, of_teacher, kept = _differences(bootstrap, decisive)
    return DistillationReport(
        contestants=tuple(contestant(role, name, members) for role, name, _, members in predictions),
        to_teacher=to_teacher,
        to_control=to_control,
        teacher_to_control=of_teacher,
        kept=kept if teacher.judged_on == "held-out" else None,
        judged_on=teacher.judged_on,
        judged_rows=len(evaluated),
        speakers=bootstrap.cluster_count,
        lessons=len(teacher.targets.ids),
        votes_share=distillation.votes_share,
        device=_device(costs),
        path=data.run.distillation_path(distillation.student.name),
        primary=primary,
        to_baseline=bootstrap.difference(decisive["student"], decisive["baseline"])
        if "baseline" in decisive
        else None,
    )


def _differences(
    bootstrap: SpeakerBootstrap, scores: Mapping[Role, SumMetric]
) -> tuple[Difference, Difference | None, Difference | None, Estimate | None]:
    """Return student - teacher and - control (corrected for each other), teacher - control, share kept."""
    to_teacher = bootstrap.difference(scores["student"], scores["teacher"])
    if "control" not in scores:
        return to_teacher, None, None, None
    to_control = bootstrap.difference(scores["student"], scores["control"])
    corrected = holm_corrected({"teacher": to_teacher, "control": to_control})
    to_teacher, to_control = corrected["teacher"], corrected["control"]
    of_teacher = bootstrap.difference(scores["teacher"], scores["control"])
    if not (of_teacher.is_clear and of_teacher.value > 0):
        return to_teacher, to_control, of_teacher, None
    student, teacher, control = (
        bootstrap.replicates(scores[role]) for role in ("student", "teacher", "control")
    )
    gained = np.where(teacher > control, teacher - control, np.nan)
    low, high = bootstrap.interval((student - control) / gained)
    return to_teacher, to_control, of_teacher, Estimate(to_control.value / of_teacher.value, low, high)


def _shared(evaluated: StackingRows, tables: Sequence[Posteriors]) -> StackingRows:
    ids = set.intersection(*(set(table.ids) for table in tables))
    shared = evaluated.where(
        np.asarray([utterance_id in ids for utterance_id in evaluated.inputs.ids], dtype=bool)
    )
    truth = shared.truth
    if not truth.is_scored.any():
        raise StackingError(
            f"no evaluation row with {truth.primary.needs} was predicted by teacher and student alike"
        )
    return shared


def _prediction(table: Posteriors, evaluated: StackingRows) -> Prediction:
    taken, inputs = table.take(evaluated.inputs.ids), evaluated.inputs
    attributes = [attribute.name for attribute in inputs.attributes]
    return Prediction(
        taken.class_probabilities[:, columns_in_order("classes", taken.classes, inputs.classes)],
        taken.attribute_values[:, columns_in_order("attributes", taken.attributes, attributes)],
    )


def _parameters(distillation: Distillation, member: str) -> int:
    data = distillation.data
    return data.recipe.folds.count * parameter_count(data.build_head(data.member(member), 0))


def _device(costs: MemberCosts | None) -> str:
    return "" if costs is None else costs.device


def run_distillation(
    distillation: Distillation,
    *,
    device: str = "auto",
    workers: int | None = None,
    context: Context = QUIET,
) -> DistillationReport:
    """Train a student and its control as members are trained, and write the comparison.

    The student of a fold learns from the other folds' rows, each target a mixture of the votes
    and the teacher's cross-fitted posteriors; rows without votes are used as well. It never learns from a row
    of the development or test split, nor from a speaker that it is evaluated on. Early stopping uses the
    votes alone.

    With a test split all are evaluated there, and nothing leaks. Without one the student of a fold predicts
    that fold, whose speakers it did not learn from; but the teacher's posteriors for its training rows come
    from members that were trained on the predicted fold. A student that reproduces them reproduces the
    labels of that fold, and its scores are too high (see docs/explanation/measured.md). So without a test
    split the report draws no conclusion, and out-of-fold posteriors of a student must never be stacked.

    Args:
        distillation: made by :func:`~sercache.experiments.distillation.student.prepare_distillation`.
        device: ``auto``, or a device as torch names it.
        workers: processes; None is one per core, and 1 on a GPU.
        context: receives events, and can stop the work.

    Raises:
        TrainingError: student or control could not be trained.
        CacheError, ProcessDied: features are damaged, or processes were killed.
        StackingError: no row was predicted by all of them.
        Interrupted: it was asked to stop; the same call goes on after the last finished epoch.
    """
    trained = train_members(
        distillation.data,
        distillation.trained,
        device=resolve_device(device),
        workers=workers,
        context=context,
    )
    for member in trained.members:
        if member.error:
            raise TrainingError(f"'{member.name}' could not be trained: {member.error}")
    report = evaluate_distillation(distillation)
    write_json(report.path, as_json(report))
    return report
