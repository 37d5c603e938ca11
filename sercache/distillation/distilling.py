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

    With a test split everybody is judged there, and nothing leaks. Without one the student of a fold predicts
    that fold, whose speakers it never heard; but the teacher's word on its training rows comes of members
    that were trained on the other folds, the judged one among them. Copying what they say copies what they
    learned there: on EmoDB a linear student "beat" both its teacher (by 0.10 macro-F1) and the same head on
    votes (by 0.13); with a test split it was below both (by 0.10 and 0.04). So without a test split the
    report draws no conclusion, and out-of-fold posteriors of a student must never be stacked.

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
