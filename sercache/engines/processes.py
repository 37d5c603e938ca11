"""The engine that runs tasks in several processes of this machine."""

import ctypes
import multiprocessing
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from sercache.devices import usable_cores
from sercache.engines.protocol import CrashCounts, Task, use_cores
from sercache.errors import Interrupted, SercacheError
from sercache.events import Context, Event, Listener, ShouldStop

_LOOK_SECONDS = 0.1
"""How often the main process looks at ``should_stop``."""

_CONTEXT = multiprocessing.get_context("spawn")


class Processes:
    """Many small heads train faster side by side, one core each, than one by one on all cores.

    A process lives as long as there are tasks, and has a pipe of its own: one that is killed damages nothing
    that others use, and only its task can be the cause.

    Args:
        workers: processes; None is one per core.
    """

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        self.workers = workers or usable_cores()

    def run(self, tasks: Sequence[Task], context: Context) -> Mapping[str, SercacheError]:
        """Run all tasks; see :class:`~sercache.engines.protocol.Engine`."""
        # Bare memory and no multiprocessing.Event: a process that is killed may take an event's lock with it.
        stop = _CONTEXT.RawValue(ctypes.c_bool, False)
        waiting, crashes, errors = deque(tasks), CrashCounts(), dict[str, SercacheError]()
        idle: list[_Worker] = []
        busy: dict[Any, _Worker] = {}

        def fail(task: Task, error: SercacheError) -> None:
            errors[task.name] = error
            if not error.is_reported:
                context.listener(Event("warning", task.name, message=str(error)))

        try:
            while busy or (waiting and not stop.value):
                while waiting and len(busy) < self.workers and not stop.value:
                    worker = idle.pop() if idle else _Worker(stop)
                    busy[worker.pipe] = worker
                    worker.start(waiting.popleft())
                for pipe in wait(list(busy), _LOOK_SECONDS):
                    worker = busy[pipe]
                    try:
                        kind, content = worker.pipe.recv()
                    except (EOFError, OSError):
                        del busy[pipe]
                        cause = worker.exit_cause()
                        if stop.value:  # the signal that asked all processes to stop ended it
                            continue
                        if (error := crashes.add(worker.task.name, cause)) is not None:
                            fail(worker.task, error)
                        else:
                            waiting.append(worker.task)
                        continue
                    if kind == "event":
                        context.listener(content)
                        continue
                    idle.append(busy.pop(pipe))
                    if isinstance(content, SercacheError):
                        if not isinstance(content, Interrupted):
                            fail(worker.task, content)
                    elif content is not None:
                        raise content
                if context.should_stop():
                    stop.value = True
            is_stopped = stop.value
        finally:
            stop.value = True  # a full disk, say, must not wait for hours until the others are done
            for worker in [*idle, *busy.values()]:
                worker.close()
        if is_stopped:
            raise Interrupted("stopped between two tasks")
        return errors


class _Worker:
    """A process, and this side of its pipe."""

    task: Task

    def __init__(self, stop: Any) -> None:
        self.pipe, other = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(other, stop), daemon=False)
        with _interrupts_blocked():
            self._process.start()
        other.close()  # the process has the only other end: when it dies, reading here ends

    def start(self, task: Task) -> None:
        """Let the process run a task; a crash in the meantime shows when its answer is read."""
        self.task = task
        try:
            self.pipe.send(task)
        except ConnectionError:
            return

    def exit_cause(self) -> str:
        """Wait for the end of a crashed process, close its pipe, and return the signal or exit code."""
        self._process.join()
        self.pipe.close()
        code = self._process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """Let the process end after its current task, and wait for it; further messages are dropped."""
        self.pipe.close()
        self._process.join()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C in processes that are started here: it reaches all of them, and the main one decides."""
    resource_tracker.ensure_running()  # Python starts it with the first process and unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, stop: Any) -> None:
    """Run tasks until the main process closes the pipe."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()

    def send_event(event: Event) -> None:
        with suppress(ConnectionError):  # the main process reads no more; the stop flag is shared memory
            pipe.send(("event", event))

    while True:
        try:
            task: Task = pipe.recv()
        except (EOFError, ConnectionError):
            return
        with suppress(ConnectionError):
            pipe.send(("end", outcome(task, send_event, lambda: bool(stop.value))))


def outcome(task: Task, listener: Listener, should_stop: ShouldStop) -> BaseException | None:
    """Run a task; return what it raised, in a form that can be sent."""
    try:
        use_cores(task.needs.cores)
        task.function(*task.arguments, context=Context(listener=listener, should_stop=should_stop))
        return None
    except SercacheError as error:
        return error
    except Exception as error:
        return _sendable(error)


def _sendable(error: Exception) -> Exception:
    """Return an error that another process can read, with the traceback that it would lose on the way."""
    trace = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever an exception of another library makes of being copied
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(trace)
    return error


def _exit_after(parent: Any) -> None:
    """End this worker when its main process is killed: it would go on writing into the run."""
    parent.join()
    signal.raise_signal(signal.SIGKILL)
