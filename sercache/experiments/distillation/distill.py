"""Distillation: train a student on its teacher's posteriors beside a control without them, and compare."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sercache.devices import resolve_device
from sercache.errors import StackingError, TrainingError
from sercache.evaluation.bootstrap import Difference, Estimate, SpeakerBootstrap, SumMetric, holm
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


def judge_distillation(plan: Distillation) -> DistillationReport:
    """Score everyone on the judged rows that all of them predicted.

    Raises:
        StackingError: there are none that count in the primary score.
    """
    data, teacher = plan.data, plan.teacher
    said: list[tuple[Role, str, Posteriors, tuple[str, ...]]] = [
        ("teacher", teacher.name, teacher.said.posteriors, teacher.said.members)
    ]
    roles: list[tuple[Role, str]] = [("student", plan.student.name)]
    if plan.control is not None:
        roles.append(("control", plan.control.name))
    said += [(role, name, Posteriors.load(data.run.posteriors_path(name)), (name,)) for role, name in roles]
    best = teacher.best_single
    said.append(("best-single", best.members[0], best.posteriors, best.members))
    baseline = baseline_posteriors(data.run, data.recipe)
    if baseline is not None and set(teacher.judged.inputs.ids) <= set(baseline.ids):
        said.append(("baseline", baseline.member, baseline, (baseline.member,)))
    judged = _shared(teacher.judged, [table for _, _, table, _ in said])
    bootstrap = SpeakerBootstrap(
        judged.speakers,
        data.recipe.stacking.bootstrap_samples,
        derive_seed(data.recipe.seed, "bootstrap"),
    )
    scores = {role: scores_of(judged, _prediction(table, judged)) for role, _, table, _ in said}
    attributes = tuple(attribute.name for attribute in judged.inputs.attributes)
    names, primary = score_names(attributes, has_classes=bool(judged.inputs.classes)), judged.truth.primary
    costs = member_costs(data.recipe, list(data.derived.values()))

    def contestant(role: Role, name: str, members: tuple[str, ...]) -> Contestant:
        cost = None if costs is None else costs.of(members)
        return Contestant(
            role=role,
            name=name,
            scores={score: bootstrap.estimate(scores[role][score]) for score in names},
            members=len(members),
            parameters=sum(_parameters(plan, member) for member in members),
            encoders=() if cost is None else cost.encoders,
            seconds_per_minute=None if cost is None else cost.seconds_per_minute,
        )

    decisive = {role: own[primary.key] for role, own in scores.items()}
    to_teacher, to_control, of_teacher, kept = _differences(bootstrap, decisive)
    return DistillationReport(
        contestants=tuple(contestant(role, name, members) for role, name, _, members in said),
        to_teacher=to_teacher,
        to_control=to_control,
        teacher_to_control=of_teacher,
        kept=kept if teacher.judged_on == "held-out" else None,
        judged_on=teacher.judged_on,
        judged_rows=len(judged),
        speakers=bootstrap.cluster_count,
        lessons=len(teacher.lessons.ids),
        votes_share=plan.votes_share,
        device=_device(costs),
        path=data.run.distillation_path(plan.student.name),
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
    if not np.isnan([to_teacher.p_value, to_control.p_value]).any():
        first, second = holm([to_teacher.p_value, to_control.p_value]).tolist()
        to_teacher, to_control = replace(to_teacher, p_value=first), replace(to_control, p_value=second)
    of_teacher = bootstrap.difference(scores["teacher"], scores["control"])
    if not (of_teacher.is_clear and of_teacher.value > 0):
        return to_teacher, to_control, of_teacher, None
    student, teacher, control = (
        bootstrap.replicates(scores[role]) for role in ("student", "teacher", "control")
    )
    gained = np.where(teacher > control, teacher - control, np.nan)
    low, high = bootstrap.interval((student - control) / gained)
    return to_teacher, to_control, of_teacher, Estimate(to_control.value / of_teacher.value, low, high)


def _shared(judged: StackingRows, tables: Sequence[Posteriors]) -> StackingRows:
    ids = set.intersection(*(set(table.ids) for table in tables))
    shared = judged.where(np.asarray([utterance_id in ids for utterance_id in judged.inputs.ids], dtype=bool))
    truth = shared.truth
    if not truth.is_scored.any():
        raise StackingError(
            f"no judged row with {truth.primary.needs} was predicted by teacher and student alike"
        )
    return shared


def _prediction(table: Posteriors, judged: StackingRows) -> Prediction:
    taken, inputs = table.take(judged.inputs.ids), judged.inputs
    attributes = [attribute.name for attribute in inputs.attributes]
    return Prediction(
        taken.class_probabilities[:, columns_in_order("classes", taken.classes, inputs.classes)],
        taken.attribute_values[:, columns_in_order("attributes", taken.attributes, attributes)],
    )


def _parameters(plan: Distillation, member: str) -> int:
    data = plan.data
    return data.recipe.folds.count * parameter_count(data.build_head(data.member(member), 0))


def _device(costs: MemberCosts | None) -> str:
    return "" if costs is None else costs.device


def run_distillation(
    plan: Distillation,
    *,
    device: str = "auto",
    workers: int | None = None,
    context: Context = QUIET,
) -> DistillationReport:
    """Train a student and its control as members are trained, and write how the student did.

    The student of a fold learns from the other folds' rows, each with the votes mixed with its teacher's
    cross-fitted word; rows that nobody rated are learned from as well. It never learns from a row of the
    development or test split, nor of a speaker that it is judged on; what stops its training is the truth.

    With a test split everybody is judged there, and nothing leaks. Without one the student of a fold predicts
    that fold, whose speakers it never heard; but the teacher's word on its training rows comes of members
    that were trained on the other folds, the judged one among them. Copying what they say copies what they
    learned there: on EmoDB a linear student "beat" both its teacher (by 0.10 macro-F1) and the same head on
    votes (by 0.13); with a test split it was below both (by 0.10 and 0.04). So without a test split the
    report draws no conclusion, and out-of-fold posteriors of a student must never be stacked.

    Args:
        plan: made by :func:`~sercache.experiments.distillation.distill.plan_distillation`.
        device: ``auto``, or a device as torch names it.
        workers: processes; None is one per core, and 1 on a GPU.
        context: receives events, and says when to stop.

    Raises:
        TrainingError: student or control could not be trained.
        CacheError, ProcessDied: features are damaged, or processes were killed.
        StackingError: there is nothing that all of them predicted.
        Interrupted: it was asked to stop; the same call goes on after the last finished epoch.
    """
    trained = train_members(
        plan.data,
        plan.trained,
        device=resolve_device(device),
        workers=workers,
        context=context,
    )
    for member in trained.members:
        if member.error:
            raise TrainingError(f"'{member.name}' could not be trained: {member.error}")
    report = judge_distillation(plan)
    write_json(report.path, as_json(report))
    return report
