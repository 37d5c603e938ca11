"""What an engine is: it decides where tasks run, and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sercache.errors import ProcessDied, SercacheError
from sercache.events import Context

MOST_DEATHS = 3
"""A task whose worker died so often is taken for what kills it, and not tried again."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a task takes of the machine that runs it.

    Attributes:
        cores: torch uses as many threads, so that the result is the same bits wherever the task runs; 0
            leaves the process the threads that it has.
        gpus: a share of one is possible.
        memory_bytes: 0 asks for none in particular.
    """

    cores: int = 0
    gpus: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True)
class Task:
    """One piece of long work: idempotent, and it publishes its result atomically.

    What ``function(*arguments, listener=..., should_stop=...)`` returns is dropped: what it made is on disk,
    so a task that is run again after a crash finds what is finished. Function and arguments can be pickled.

    Attributes:
        name: unique among the tasks of one run.
        function: what to do.
        arguments: what to do it with.
        needs: what it takes.
        folders: what must lie under the same path wherever it runs.
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
        A task whose worker dies is tried again elsewhere, up to ``MOST_DEATHS`` times in all; then it has
        failed with a :class:`ProcessDied`. No more tasks are on their way than there are workers. The events
        of a task arrive in its own order.

        Raises:
            Interrupted: ``should_stop`` became true; finished tasks stay finished, no worker is left.
            Exception: what a task raised that is no :class:`SercacheError`; the other workers are stopped.
        """
        ...


class Deaths:
    """Counts how often each task's worker died."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, task: str, why: str) -> ProcessDied | None:
        """Count one more; return the error that the task has failed with, None if it may be tried again."""
        self._counts[task] = self._counts.get(task, 0) + 1
        if self._counts[task] < MOST_DEATHS:
            return None
        return ProcessDied(
            f"{task}: its process died {self._counts[task]} times ({why}; out of memory?); "
            "the same command tries it again"
        )


def use_cores(cores: int) -> None:
    """Let torch use as many threads as a task has cores; 0 leaves everything as it is."""
    if cores:
        import torch

        torch.set_num_threads(cores)
