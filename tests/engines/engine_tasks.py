"""Tasks for the engine tests; in a module of their own, so that worker processes can import them."""

import errno
import os
import signal
import time
from pathlib import Path

from sercache.errors import Interrupted, TrainingError
from sercache.events import Event


def write(folder, name, *, listener, should_stop):
    listener(Event("start", name))
    Path(folder, name).write_text(str(os.getpid()))
    listener(Event("finish", name))


def fail(*, listener, should_stop):
    raise TrainingError("cannot be trained")


def die(*, listener, should_stop):
    os.kill(os.getpid(), signal.SIGKILL)


def work_until_stopped(folder, name, *, listener, should_stop):
    listener(Event("start", name))
    for _ in range(3000):
        if should_stop():
            Path(folder, name).touch()
            raise Interrupted(name)
        time.sleep(0.01)


def count(name, number, *, listener, should_stop):
    for step in range(number):
        listener(Event("advance", name, done=step))


def fill_the_disk(*, listener, should_stop):
    raise OSError(errno.ENOSPC, "No space left on device")


def hear_ctrl_c(name, *, listener, should_stop):
    """In a terminal, Ctrl-C reaches every process of the group."""
    os.kill(os.getpid(), signal.SIGINT)
    listener(Event("finish", name))
