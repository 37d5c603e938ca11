"""The interface of engines, which decide where tasks run, and the tasks that they run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sercache.errors import ProcessDied, SercacheError
from sercache.events import Context

MAX_CRASHES = 3
"""A task whose worker crashed so often is taken for the cause, and not tried again."""


@dataclass(frozen=True, slots=True)
class Needs:
    """The resources that a task needs.

    Attributes:
        cores: torch uses as many threads, so that the result is the same bits wherever the task runs; 0
            keeps the threads that the process has.
        gpus: fractions are possible.
        memory_bytes: 0 for no particular amount.
    """

    cores: int = 0
    gpus: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True)
class Task:
    """One piece of long work: idempotent, and it publishes its result atomically.

    What ``function(*arguments, context=...)`` returns is dropped: its results are on disk, so a task that is
    run again after a crash finds what is finished. Function and arguments can be pickled.

    Attributes:
        name: unique among the tasks of one run.
        function: called with the arguments and a ``context``.
        arguments: of the function.
        needs: the resources that it needs.
        folders: folders that must have the same path wherever it runs.
    """

    name: str
    function: Callable[..., object]
    arguments: tuple[Any, ...]
    needs: Needs = Needs()
    folders: tuple[Path, ...] = ()


class Engine(Protocol):
    """Runs tasks somewhere.

    Attributes:
        workers: how many tasks run side by side, at most.
    """

    workers: int

    def run(self, tasks: Sequence[Task], context: Context) -> Mapping[str, SercacheError]:
        """Run all tasks; return the errors of those that failed, by task name.

        A task that raises a :class:`SercacheError` has failed; it is not tried again and ends no others.
        A task whose worker crashes is tried again elsewhere, up to ``MAX_CRASHES`` times in all; then it has
        failed with a :class:`ProcessDied`. No more tasks are on their way than there are workers. The events
        of a task arrive in its own order.

        Raises:
            Interrupted: ``should_stop`` became true; finished tasks stay finished, no worker is left.
            Exception: what a task raised that is no :class:`SercacheError`; the other workers are stopped.
        """
        ...


class CrashCounts:
    """Counts how often the worker of every task crashed."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, task: str, cause: str) -> ProcessDied | None:
        """Count a crash; return the error that the task has failed with, None if it may be tried again."""
        self._counts[task] = self._counts.get(task, 0) + 1
        if self._counts[task] < MAX_CRASHES:
            return None
        return ProcessDied(
            f"{task}: its process died {self._counts[task]} times ({cause}; out of memory?); "
            "the same command tries it again"
        )


def use_cores(cores: int) -> None:
    """Let torch use as many threads as a task has cores; 0 leaves everything as it is."""
    if cores:
        import torch

        torch.set_num_threads(cores)
