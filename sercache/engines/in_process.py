"""The engine that runs one task after the other, here."""

from collections.abc import Mapping, Sequence

from sercache.engines.protocol import Task
from sercache.errors import Interrupted, SercacheError
from sercache.events import Event, Listener
from sercache.interrupts import ShouldStop


class InProcess:
    """One task at a time, in this process, with the threads that it has."""

    def __init__(self, workers: int = 1, threads: int = 1) -> None:
        self.workers = workers
        self.threads = threads

    def run(
        self, tasks: Sequence[Task], listener: Listener, should_stop: ShouldStop
    ) -> Mapping[str, SercacheError]:
        """Run all tasks in order; see :class:`~sercache.engines.protocol.Engine`."""
        errors: dict[str, SercacheError] = {}
        for task in tasks:
            if should_stop():
                raise Interrupted("stopped between two tasks")
            try:
                task.function(*task.arguments, listener=listener, should_stop=should_stop)
            except Interrupted:
                raise
            except SercacheError as error:
                errors[task.name] = error
                if not error.is_reported:
                    listener(Event("warning", task.name, message=str(error)))
        return errors
