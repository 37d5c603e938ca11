"""Several folds and members in one process, batch by batch in turn: the task that an engine runs."""

from collections.abc import Mapping, Sequence

import torch

from sercache.errors import Interrupted, SercacheError, TrainingError
from sercache.events import QUIET, Context, Event
from sercache.training.member import FoldJob, train_fold


class FoldsFailed(TrainingError):
    """Some of the jobs of one task failed; each was reported as it happened.

    Attributes:
        errors: by the job's name.
    """

    is_reported = True

    def __init__(self, errors: Mapping[str, SercacheError]) -> None:
        super().__init__(errors)
        self.errors = dict(errors)

    def __str__(self) -> str:
        return "; ".join(str(error) for error in self.errors.values())


def train_folds(jobs: Sequence[FoldJob], *, context: Context = QUIET) -> None:
    """Train several members and folds from one stream of batches.

    They take turns, batch by batch. Each has its own rows, weights, optimiser and early stopping, and ends as
    it would alone, bit for bit. They share the frames that lie on the device, and those that learn from the
    same rows share every batch: it is gathered once for all of them. Heads whose rows overlap want the same
    frames at about the same time, so each is read from disk once.

    Args:
        jobs: of one run; those that may share batches next to each other.
        context: receives events, and says when to stop.

    Raises:
        FoldsFailed: some cannot be trained; the others were.
        Interrupted: it was asked to stop; the next call goes on after each job's last finished epoch.
    """
    errors: dict[str, SercacheError] = {}
    active = {job: train_fold(job, context=context) for job in jobs}

    def fail(job: FoldJob, error: SercacheError) -> None:
        del active[job]
        errors[job.name] = error
        context.listener(Event("warning", job.name, message=str(error)))

    while active:
        for job, steps in list(active.items()):
            try:
                next(steps)
            except StopIteration:
                del active[job]
            except Interrupted:
                raise
            except torch.OutOfMemoryError:
                advice = "lower batch_size, and raise accumulate instead"
                fail(job, TrainingError(f"{job.name}: {job.device} is out of memory; {advice}"))
            except SercacheError as error:
                fail(job, error)
    if errors:
        raise FoldsFailed(errors)
