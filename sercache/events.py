"""Progress events for a listener, and stopping at a safe point."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Literal


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to one task.

    ``kind``: ``start`` and ``finish`` come once per task; ``advance`` carries ``done`` of ``total``; ``note``
    and ``warning`` carry a ``message`` for people; ``score`` carries the scores of a member whose folds are
    all finished, and for the baseline a ``message``. ``values`` are what a live table may show
    (``{"epoch": 3, "macro_f1": 0.41}``).
    """

    kind: Literal["start", "advance", "finish", "note", "warning", "score"]
    task: str
    done: float = 0.0
    total: float | None = None
    message: str = ""
    values: Mapping[str, float | int | str] = field(default_factory=dict)


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Ignore an event: the default listener."""


ShouldStop = Callable[[], bool]


def never() -> bool:
    """Return False: the default flag, which never interrupts."""
    return False


@dataclass(frozen=True, slots=True)
class Context:
    """The listener and the stop flag of long work, passed down unchanged.

    Attributes:
        listener: receives every event.
        should_stop: called between steps; once it returns True the work raises
            :class:`~sercache.errors.Interrupted`, with everything that is finished kept.
    """

    listener: Listener = ignore
    should_stop: ShouldStop = never


QUIET = Context()
"""A context without listener that never stops."""


@contextmanager
def stop_flag() -> Iterator[ShouldStop]:
    """Yield a function that is True once SIGINT or SIGTERM came; a second signal ends the process at once.

    Outside the main thread, where Python allows no handlers, the function is never True.
    """
    if threading.current_thread() is not threading.main_thread():
        yield never
        return
    stopped = threading.Event()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        stopped.set()
        signal.signal(number, signal.SIG_DFL)

    for number in previous:
        signal.signal(number, handle)
    try:
        yield stopped.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
