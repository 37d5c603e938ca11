"""Stopping at a safe point: a signal sets a flag, and long work looks at the flag between its steps.

Raising from a signal handler is not safe here: h5py swallows some of them (3 of 30 Ctrl-C, measured).
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ShouldStop = Callable[[], bool]


def never() -> bool:
    """Return False: the flag of work that nobody interrupts."""
    return False


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
