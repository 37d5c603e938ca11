"""A worker on a cluster: it runs one task at a time, and answers questions meanwhile."""

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
class Errand:
    """What a worker is told before its first task.

    Attributes:
        version: of sercache, which must be the same.
        working_folder: in which relative paths begin.
        folders: that must be there.
        token: a file that must be there; None where nothing is written.
    """

    version: str
    working_folder: str
    folders: tuple[Path, ...]
    token: Path | None


class Actor:
    """Runs in a process of its own, wherever there was room; several threads call its methods."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._events: list[Event] = []

    def begin(self, errand: Errand) -> tuple[str, str]:
        """Return why this node is not fit for the errand, in one line or none, and its id."""
        import ray

        with suppress(OSError):  # where there is no such folder, relative paths will say so
            os.chdir(errand.working_folder)
        return _complaint(errand), ray.get_runtime_context().get_node_id()

    def run(self, task: Task) -> tuple[BaseException | None, list[Event]]:
        """Run a task; return what it raised, and the events that nobody has asked for yet."""
        error = outcome(task, self._keep, self._stop.is_set)
        return error, self.events()

    def events(self) -> list[Event]:
        """Return what happened since this was asked before."""
        with self._lock:
            events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Let the task know that it should stop."""
        self._stop.set()

    def _keep(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)


def _complaint(errand: Errand) -> str:
    from sercache import __version__

    node = socket.gethostname()
    if __version__ != errand.version:
        return f"node {node} has sercache {__version__}, not {errand.version}: install the same on all nodes"
    wanted = [*errand.folders, *([errand.token] if errand.token else [])]
    ends = time.monotonic() + _SEEN_SECONDS
    while unseen := [path for path in wanted if not path.exists()]:
        if time.monotonic() > ends:
            folder = unseen[0].parent if unseen[0] == errand.token else unseen[0]
            return (
                f"node {node} does not see {folder} as this machine does; corpus, cache and run must lie "
                "on a file system that all nodes share, under the same path"
            )
        time.sleep(_SEEN_SECONDS / 20)
    return ""
