"""What an engine is: it decides where tasks run, and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sercache.errors import SercacheError
from sercache.events import Listener
from sercache.interrupts import ShouldStop


@dataclass(frozen=True)
class Task:
    """One piece of long work: idempotent, and it publishes its result atomically.

    ``function(*arguments, listener=..., should_stop=...)`` returns nothing: what it made lies on disk, so a
    task that is run again after a crash finds what is finished. Function and arguments can be pickled.
    """

    name: str
    function: Callable[..., None]
    arguments: tuple[Any, ...]


class Engine(Protocol):
    """Runs tasks somewhere."""

    def run(
        self, tasks: Sequence[Task], listener: Listener, should_stop: ShouldStop
    ) -> Mapping[str, SercacheError]:
        """Run all tasks; return the errors of those that failed, by task name.

        A task that raises a :class:`SercacheError` does not end the others.

        Raises:
            Interrupted: ``should_stop`` became true; finished tasks stay finished.
        """
        ...
