"""A worker of a Ray cluster: it runs one task at a time, and hands out its events meanwhile."""

import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sercache.engines.processes import outcome
from sercache.engines.protocol import Task
from sercache.events import Event

_SEEN_SECONDS = 10.0
"""How long a network file system may take to show a new file."""


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """The settings that a worker receives before its first task.

    Attributes:
        version: of sercache; the worker must have the same.
        working_folder: the folder of relative paths.
        folders: folders that must exist.
        token: a file that must exist; None where nothing is written.
    """

    version: str
    working_folder: str
    folders: tuple[Path, ...]
    token: Path | None


class Actor:
    """A Ray actor, in a process of its own on any node; several threads call its methods."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._events: list[Event] = []

    def set_up(self, setup: WorkerSetup) -> tuple[str, str]:
        """Change to the working folder; return why this node is unfit, or nothing, and its id."""
        import ray

        with suppress(OSError):  # without the folder, relative paths fail with their own error
            os.chdir(setup.working_folder)
        return _problem(setup), ray.get_runtime_context().get_node_id()

    def run(self, task: Task) -> tuple[BaseException | None, list[Event]]:
        """Run a task; return what it raised, and the events that were not asked for yet."""
        error = outcome(task, self._add_event, self._stop.is_set)
        return error, self.events()

    def events(self) -> list[Event]:
        """Return the events since the last call."""
        with self._lock:
            events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Ask the task to stop."""
        self._stop.set()

    def _add_event(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)


def _problem(setup: WorkerSetup) -> str:
    from sercache import __version__

    node = socket.gethostname()
    if __version__ != setup.version:
        return f"node {node} has sercache {__version__}, not {setup.version}: install the same on all nodes"
    wanted = [*setup.folders, *([setup.token] if setup.token else [])]
    ends = time.monotonic() + _SEEN_SECONDS
    while unseen := [path for path in wanted if not path.exists()]:
        if time.monotonic() > ends:
            folder = unseen[0].parent if unseen[0] == setup.token else unseen[0]
            return (
                f"node {node} does not see {folder} as this machine does; corpus, cache and run must lie "
                "on a file system that all nodes share, under the same path"
            )
        time.sleep(_SEEN_SECONDS / 20)
    return ""
