"""The engine that runs tasks in several processes of this machine."""

import multiprocessing
import queue
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from sercache.engines.protocol import Task
from sercache.errors import Interrupted, ProcessDied, SercacheError
from sercache.events import Event, Listener
from sercache.interrupts import ShouldStop

_LOOK_SECONDS = 0.1
"""How often the main process looks for events and for the wish to stop."""


class Processes:
    """Many small heads train faster side by side, one core each, than one by one on all cores.

    Args:
        workers: processes.
        threads: of torch, in each of them.
    """

    def __init__(self, workers: int, threads: int = 1) -> None:
        self.workers = workers
        self.threads = threads

    def run(
        self, tasks: Sequence[Task], listener: Listener, should_stop: ShouldStop
    ) -> Mapping[str, SercacheError]:
        """Run all tasks; see :class:`~sercache.engines.protocol.Engine`.

        A process that dies takes the tasks in flight with it; the tasks after them go on in new processes.
        """
        context = multiprocessing.get_context("spawn")
        events, stop = context.Queue(), context.Event()
        waiting, errors = deque(tasks), dict[str, SercacheError]()
        while waiting and not stop.is_set():
            with ProcessPoolExecutor(
                self.workers, context, _prepare_worker, (events, stop, self.threads)
            ) as pool:
                running: dict[Future[None], str] = {}
                is_broken = False
                try:
                    while running or (waiting and not is_broken and not stop.is_set()):
                        while waiting and len(running) < self.workers and not is_broken and not stop.is_set():
                            task = waiting.popleft()
                            with _interrupts_blocked():
                                running[pool.submit(_run_task, task)] = task.name
                        done, _ = wait(running, _LOOK_SECONDS, FIRST_COMPLETED)
                        _forward(events, listener)
                        if should_stop():
                            stop.set()
                        for future in done:
                            name = running.pop(future)
                            has_died = isinstance(future.exception(), BrokenProcessPool)
                            is_broken |= has_died
                            if has_died and stop.is_set():  # of the signal that asked all of them to stop
                                continue
                            if (error := _error_of(future, name)) is not None:
                                errors[name] = error
                                if not error.is_reported:
                                    listener(Event("warning", name, message=str(error)))
                except BaseException:
                    stop.set()  # a full disk, say, must not wait for hours until the others are done
                    raise
            _forward(events, listener)
        if stop.is_set():
            raise Interrupted("stopped between two tasks")
        return errors


def _error_of(future: "Future[None]", name: str) -> SercacheError | None:
    """Return what a finished task failed of; raises what is not the user's to mend."""
    try:
        future.result()
    except Interrupted:
        return None
    except SercacheError as error:
        return error
    except BrokenProcessPool:
        return ProcessDied(f"{name}: its process died (out of memory?); the same command tries it again")
    return None


def _forward(events: Any, listener: Listener) -> None:
    while True:
        try:
            listener(events.get_nowait())
        except queue.Empty:
            return


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process that starts here never hears of Ctrl-C, which reaches all of them; the main one decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_worker: dict[str, Any] = {}


def _prepare_worker(events: Any, stop: Any, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    _worker.update(events=events, stop=stop)
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """A worker must not outlive a main process that was killed: it would go on writing into the run."""
    parent.join()
    signal.raise_signal(signal.SIGKILL)


def _run_task(task: Task) -> None:
    task.function(*task.arguments, listener=_worker["events"].put, should_stop=_worker["stop"].is_set)
