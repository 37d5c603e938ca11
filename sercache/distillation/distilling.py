"""Distillation: the student trained on its teacher's word, beside its control, and what came of it."""

from sercache.devices import resolve_device
from sercache.distillation.judging import judge_distillation
from sercache.distillation.plan import Distillation
from sercache.distillation.report import DistillationReport, as_json
from sercache.errors import TrainingError
from sercache.events import Listener, ignore
from sercache.files import write_json
from sercache.interrupts import ShouldStop, never
from sercache.training.members import train_members


def run_distillation(
    plan: Distillation,
    *,
    device: str = "auto",
    workers: int | None = None,
    listener: Listener = ignore,
    should_stop: ShouldStop = never,
) -> DistillationReport:
    """Train a student and its control as members are trained, and write how the student did.

    The student of a fold learns from the other folds' rows, each with the votes mixed with its teacher's
    cross-fitted word; rows that nobody rated are learned from as well. It never learns from a row of the
    development or test split, nor of a speaker that it is judged on; what stops its training is the truth.

    With a test split everybody is judged there. Without one each row is judged by the student that never
    heard its speaker. There remains a dependence of second order: the teacher's word on the rows that this
    student learned from comes of members and stackers that were fitted on other folds, the judged one among
    them. The report says which case it is.

    Args:
        plan: made by :func:`~sercache.distillation.plan.plan_distillation`.
        device: ``auto``, or a device as torch names it.
        workers: processes; None is one per core, and 1 on a GPU.
        listener: told of every epoch.
        should_stop: looked at after every batch.

    Raises:
        TrainingError: student or control could not be trained.
        CacheError, ProcessDied: features are damaged, or processes were killed.
        StackingError: there is nothing that all of them predicted.
        Interrupted: ``should_stop`` said so; the same call goes on after the last finished epoch.
    """
    trained = train_members(
        plan.context,
        plan.trained,
        device=resolve_device(device),
        workers=workers,
        listener=listener,
        should_stop=should_stop,
    )
    for member in trained.members:
        if member.error:
            raise TrainingError(f"'{member.name}' could not be trained: {member.error}")
    report = judge_distillation(plan)
    write_json(report.path, as_json(report))
    return report
