"""Teacher, student, control and best single member on the same rows, with intervals over speakers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sercache.distillation.plan import Distillation
from sercache.distillation.report import Contestant, DistillationReport, Role
from sercache.errors import StackingError
from sercache.evaluation.bootstrap import Difference, Estimate, SpeakerBootstrap, SumMetric, holm
from sercache.heads.registry import parameter_count
from sercache.posteriors import Posteriors
from sercache.seeds import derive_seed
from sercache.stacking.costs import MemberCosts, member_costs
from sercache.stacking.protocol import Prediction
from sercache.stacking.rows import StackingRows, columns_in_order
from sercache.stacking.scores import score_names, scores_of


def judge_distillation(plan: Distillation) -> DistillationReport:
    """Score everyone on the judged rows that all of them predicted.

    Raises:
        StackingError: there are none that count in the primary score.
    """
    context, teacher = plan.context, plan.teacher
    said: list[tuple[Role, str, Posteriors, tuple[str, ...]]] = [
        ("teacher", teacher.name, teacher.said.posteriors, teacher.said.members)
    ]
    roles: list[tuple[Role, str]] = [("student", plan.student.name)]
    if plan.control is not None:
        roles.append(("control", plan.control.name))
    said += [
        (role, name, Posteriors.load(context.run.posteriors_path(name)), (name,)) for role, name in roles
    ]
    best = teacher.best_single
    said.append(("best-single", best.members[0], best.posteriors, best.members))
    judged = _shared(teacher.judged, [table for _, _, table, _ in said])
    bootstrap = SpeakerBootstrap(
        judged.speakers,
        context.recipe.stacking.bootstrap_samples,
        derive_seed(context.recipe.seed, "bootstrap"),
    )
    scores = {role: scores_of(judged, _prediction(table, judged)) for role, _, table, _ in said}
    attributes = tuple(attribute.name for attribute in judged.inputs.attributes)
    names, primary = score_names(attributes, has_classes=bool(judged.inputs.classes)), judged.truth.primary
    costs = member_costs(context.recipe, list(context.derived.values()))

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
        path=context.run.distillation_path(plan.student.name),
        primary=primary,
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
    context = plan.context
    return context.recipe.folds.count * parameter_count(context.build_head(context.member(member), 0))


def _device(costs: MemberCosts | None) -> str:
    return "" if costs is None else costs.device
