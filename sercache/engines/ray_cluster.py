"""The engine that runs tasks on a Ray cluster.

Every node has the same sercache installed, and sees corpus, cache and run under the same paths. An actor
lives as long as there are tasks; it is asked for the events of its task now and then, and asked to stop.
"""

import logging
import os
import re
import secrets
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sercache.devices import usable_cores
from sercache.engines.actor import Actor, WorkerSetup
from sercache.engines.protocol import MAX_CRASHES, CrashCounts, Needs, Task
from sercache.errors import Interrupted, SercacheError
from sercache.events import Context, Event, Listener, ShouldStop

_LOOK_SECONDS = 0.1
_EVENT_SECONDS = 0.25
"""How often an actor is asked for events."""

_PATIENCE_SECONDS = 30.0
"""How long no actor may start before a warning."""

_FITTING_SECONDS = 5.0
"""How often the cluster is asked how many actors fit on it: nodes come and go."""

_CONNECT_SECONDS = 10.0
_OBJECT_STORE_BYTES = 512 << 20
_THREADS = 4
"""Of an actor: one for its task, the others for calls meanwhile."""


class RayCluster:
    """Tasks on the nodes of a Ray cluster; one is started here where no address is given.

    Args:
        workers: actors at most; None is as many as fit on the cluster.
        address: as ``ray.init`` takes it: ``auto``, ``HOST:PORT``, ``ray://HOST:PORT``.
    """

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        self.workers = workers or usable_cores()
        self._most = workers
        self._address = address

    def run(self, tasks: Sequence[Task], context: Context) -> Mapping[str, SercacheError]:
        """Run all tasks; see :class:`~sercache.engines.protocol.Engine`.

        Raises:
            SercacheError: there is no such cluster, no node of it has what a task needs, or a node does not
                see the folders or has another version of sercache.
        """
        ray = connect(self._address) if tasks else None
        errors: dict[str, SercacheError] = {}
        for needs in dict.fromkeys(task.needs for task in tasks):
            alike = [task for task in tasks if task.needs == needs]
            with ExitStack() as stack:
                setup = _make_setup(alike, stack)
                pool = stack.enter_context(_Pool(ray, needs, setup, self._most, context.listener))
                errors |= pool.run(alike, context.should_stop)
        return errors


def connect(address: str | None) -> Any:
    """Return the module ``ray``, connected to a cluster.

    Raises:
        SercacheError: Ray is not installed, or no cluster answers.
    """
    # No usage statistics are sent, and no notice comes about GPUs that a task without GPU does not see.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with _signal_handlers_kept():
        try:
            import ray
        except ImportError:
            raise SercacheError("--engine ray needs Ray: pip install 'sercache[ray]'") from None
        if ray.is_initialized():
            return ray
        options: dict[str, Any] = {}
        _refuse_closed_port(address)
        if address is None:
            options = {
                "num_cpus": usable_cores(),
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
            }
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, ValueError, OSError, ImportError) as error:
            message = (str(error).splitlines() or [type(error).__name__])[0]
            where = "Ray does not start here" if address is None else f"--address {address}: no Ray cluster"
            raise SercacheError(f"{where} ({message})") from error
    return ray


def _refuse_closed_port(address: str | None) -> None:
    """Raise a SercacheError if the port of an address is closed: Ray itself would try for minutes."""
    match = re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", address or "")
    if match is None:
        return
    try:
        socket.create_connection((match[1], int(match[2])), _CONNECT_SECONDS).close()
    except OSError as error:
        raise SercacheError(
            f"--address {address}: no Ray cluster answers ({error.strerror or error})"
        ) from None


def has_gpus(address: str | None) -> bool:
    """Connect to a cluster, and return whether any node of it has a GPU."""
    return bool(connect(address).cluster_resources().get("GPU", 0) > 0)


@dataclass
class _Running:
    """A task that an actor runs.

    Attributes:
        actor: runs the task.
        task: the task.
        request: the request for its events that is not answered yet.
        requested_at: when it was made.
    """

    actor: Any
    task: Task
    request: Any = None
    requested_at: float = 0.0


class _Pool:
    """Actors for tasks with the same needs."""

    def __init__(
        self, ray: Any, needs: Needs, setup: WorkerSetup, most: int | None, listener: Listener
    ) -> None:
        self._ray, self._needs, self._most, self._listener = ray, needs, most, listener
        self._setup = ray.put(setup)
        self._remote = ray.remote(
            num_cpus=max(1, needs.cores),
            num_gpus=needs.gpus,
            memory=needs.memory_bytes or None,
            max_concurrency=_THREADS,
        )(Actor)
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, _Running] = {}
        self._nodes: dict[Any, str] = {}
        self._crashed_at_start = 0
        self._idle_since = time.monotonic()
        self._fitting, self._fitting_at = self._count_fitting(), time.monotonic()
        if not self._fitting:
            raise SercacheError(
                f"no node of the cluster has {_described(needs)}; ray status tells what it has"
            )

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        actors = [*self._starting.values(), *self._idle, *(running.actor for running in self._busy.values())]
        for actor in actors:
            self._kill(actor)

    def run(self, tasks: Sequence[Task], should_stop: ShouldStop) -> dict[str, SercacheError]:
        """Run tasks; see :class:`~sercache.engines.protocol.Engine`."""
        waiting, crashes, errors = deque(tasks), CrashCounts(), dict[str, SercacheError]()
        is_stopped = False
        while self._busy or (waiting and not is_stopped):
            if not is_stopped and should_stop():
                is_stopped = True
                for running in self._busy.values():
                    running.actor.stop.remote()
            if not is_stopped:
                self._start_actors(len(waiting))
                while waiting and self._idle:
                    self._start_task(self._idle.pop(), waiting.popleft())
            for running in self._busy.values():
                self._request_events(running)
            requests = {
                running.request: running for running in self._busy.values() if running.request is not None
            }
            refs = [*self._busy, *requests, *([] if is_stopped else self._starting)]
            done, _ = self._ray.wait(refs, timeout=_LOOK_SECONDS) if refs else ([], [])
            for ref in done:
                if ref in requests:
                    self._forward_events(requests[ref])
                elif ref in self._starting:
                    self._take_started(ref)
                else:
                    running, error = self._take_finished(ref)
                    if isinstance(error, _ActorCrashed):
                        if is_stopped:
                            continue
                        if (failure := crashes.add(running.task.name, str(error))) is None:
                            waiting.append(running.task)
                            continue
                        error = failure
                    if isinstance(error, SercacheError):
                        errors[running.task.name] = error
                        if not error.is_reported:
                            self._listener(Event("warning", running.task.name, message=str(error)))
        if is_stopped:
            raise Interrupted("stopped between two tasks")
        return errors

    def _start_actors(self, waiting: int) -> None:
        """Start as many actors as there are tasks, as far as they fit on the nodes."""
        now = time.monotonic()
        if now - self._fitting_at > _FITTING_SECONDS:
            self._fitting, self._fitting_at = self._count_fitting(), now
        actors = len(self._starting) + len(self._idle) + len(self._busy)
        for _ in range(min(self._fitting, waiting + len(self._busy)) - actors):
            actor = self._remote.remote()
            self._starting[actor.set_up.remote(self._setup)] = actor
        if self._idle or self._busy:
            self._idle_since = now
        elif now - self._idle_since > _PATIENCE_SECONDS:
            self._idle_since = now
            message = f"waiting for a node of the cluster that has {_described(self._needs)} to spare"
            self._listener(Event("warning", "ray", message=message))

    def _take_started(self, ref: Any) -> None:
        """Add an actor that has started to the idle ones.

        Raises:
            SercacheError: its node cannot run tasks, or actors crash at their start, one after the other.
        """
        actor = self._starting.pop(ref)
        try:
            problem, self._nodes[actor] = self._ray.get(ref)
        except self._ray.exceptions.RayActorError as error:
            self._crashed_at_start += 1
            self._kill(actor)
            if self._crashed_at_start > MAX_CRASHES:
                raise SercacheError(f"workers crash at their start: {_first_line(error)}") from None
            return
        except self._ray.exceptions.RayError as error:
            self._kill(actor)
            raise SercacheError(f"a node cannot run sercache: {_last_line(error)}") from None
        if problem:
            self._kill(actor)
            raise SercacheError(problem)
        self._crashed_at_start = 0
        self._idle.append(actor)

    def _start_task(self, actor: Any, task: Task) -> None:
        self._busy[actor.run.remote(task)] = _Running(actor, task, requested_at=time.monotonic())

    def _request_events(self, running: _Running) -> None:
        if running.request is None and time.monotonic() - running.requested_at > _EVENT_SECONDS:
            running.request, running.requested_at = running.actor.events.remote(), time.monotonic()

    def _forward_events(self, running: _Running) -> None:
        """Send the events of a request to the listener; those of a crashed actor are lost."""
        request, running.request = running.request, None
        with suppress(self._ray.exceptions.RayActorError):
            for event in self._ray.get(request):
                self._listener(event)

    def _take_finished(self, ref: Any) -> tuple[_Running, BaseException | None]:
        """Add an actor whose task has ended to the idle ones; return the task, and what it raised.

        Raises:
            Exception: what a task raised that is no :class:`SercacheError`.
        """
        running = self._busy.pop(ref)
        if running.request is not None:
            self._forward_events(running)
        try:
            error, events = self._ray.get(ref)
        except self._ray.exceptions.RayActorError:
            self._kill(running.actor)  # one that is only out of reach must not go on beside the next attempt
            alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
            where = self._nodes.pop(running.actor, "")
            return running, _ActorCrashed("its node died" if where not in alive else "its worker was killed")
        self._idle.append(running.actor)
        for event in events:
            self._listener(event)
        if isinstance(error, Interrupted):
            return running, None
        if error is not None and not isinstance(error, SercacheError):
            raise error
        return running, error

    def _kill(self, actor: Any) -> None:
        with suppress(Exception):  # it may be dead, or the cluster gone
            self._ray.kill(actor)

    def _count_fitting(self) -> int:
        """Return how many actors fit on the nodes, if they ran nothing else."""
        wanted = {
            "CPU": float(max(1, self._needs.cores)),
            "GPU": self._needs.gpus,
            "memory": float(self._needs.memory_bytes),
        }
        fitting = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                fitting += int(min(has.get(kind, 0.0) // amount for kind, amount in wanted.items() if amount))
        return fitting if self._most is None else min(fitting, self._most)


class _ActorCrashed(Exception):
    """An actor crashed while it ran a task."""


def _make_setup(tasks: Sequence[Task], stack: ExitStack) -> WorkerSetup:
    """Return the actors' setup, and put a file that they must see into the folder that is written to."""
    from sercache import __version__

    folders = list(dict.fromkeys(folder for task in tasks for folder in task.folders))
    token = stack.enter_context(_token(folders[0])) if folders else None
    return WorkerSetup(__version__, os.getcwd(), tuple(folders), token)  # noqa: PTH109 - a string for another machine


@contextmanager
def _token(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".seen-{secrets.token_hex(8)}"
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Restore our signal handlers: Ray sets others when it is imported and when it connects."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _described(needs: Needs) -> str:
    parts = [f"{max(1, needs.cores)} cores"]
    parts += [f"{needs.gpus:g} GPU"] if needs.gpus else []
    parts += [f"{needs.memory_bytes / 1e9:.1f} GB of memory"] if needs.memory_bytes else []
    return " and ".join(parts)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _last_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[-1].strip()
