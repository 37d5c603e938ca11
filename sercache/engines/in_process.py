"""The engine that runs one task after the other in this process."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sercache.engines.protocol import Task, use_cores
from sercache.errors import Interrupted, SercacheError
from sercache.events import Context, Event


class InProcess:
    """One task at a time, in this process; a crash of a task ends this process too."""

    def __init__(self, workers: int | None = 1, address: str | None = None) -> None:
        self.workers = 1

    def run(self, tasks: Sequence[Task], context: Context) -> Mapping[str, SercacheError]:
        """Run all tasks in order; see :class:`~sercache.engines.protocol.Engine`."""
        errors: dict[str, SercacheError] = {}
        for task in tasks:
            if context.should_stop():
                raise Interrupted("stopped between two tasks")
            try:
                with _using_cores(task.needs.cores):
                    task.function(*task.arguments, context=context)
            except Interrupted:
                raise
            except SercacheError as error:
                errors[task.name] = error
                if not error.is_reported:
                    context.listener(Event("warning", task.name, message=str(error)))
        return errors


@contextmanager
def _using_cores(cores: int) -> Iterator[None]:
    """Let torch use as many threads inside the context, and restore its threads afterwards."""
    if not cores:
        yield
        return
    import torch

    before = torch.get_num_threads()
    use_cores(cores)
    try:
        yield
    finally:
        torch.set_num_threads(before)
