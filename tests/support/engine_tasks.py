"""Tasks for the engine tests; in a module of their own, so that worker processes can import them."""

import errno
import os
import signal
import time
from pathlib import Path

from sercache.errors import Interrupted, TrainingError
from sercache.events import Event


def write(folder, name, *, context):
    context.listener(Event("start", name))
    Path(folder, name).write_text(str(os.getpid()))
    context.listener(Event("finish", name))


def fail(*, context):
    raise TrainingError("cannot be trained")


def die(folder, name, *, context):
    note(folder, name)
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_first(folder, name, *, context):
    """Die as one that is killed from outside, but for the last time it is tried."""
    tried = note(folder, name)
    if tried == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    context.listener(Event("finish", name))


def die_in_mid_sentence(name, *, context):
    """Be killed while events are on their way."""
    for step in range(1000):
        context.listener(Event("advance", name, done=step, message="x" * 50_000))
        if step == 20:
            os.kill(os.getpid(), signal.SIGKILL)


def note(folder, name):
    """Add a line to the task's own file; return how many it has: how often the task was begun."""
    path = Path(folder, name)
    with path.open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    return len(path.read_text().splitlines())


def counted(folder, name, outcome, seconds, *, context):
    """Note the attempt, then do well, fail, or kill the worker."""
    note(folder, name)
    time.sleep(seconds)
    if outcome == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    if outcome == "fail":
        raise TrainingError(f"{name} is not fit for use")


def say_threads(folder, name, *, context):
    import torch

    Path(folder, name).write_text(str(torch.get_num_threads()))


def work_until_stopped(folder, name, *, context):
    context.listener(Event("start", name))
    for _ in range(3000):
        if context.should_stop():
            Path(folder, name).touch()
            raise Interrupted(name)
        time.sleep(0.01)


def count(name, number, *, context):
    for step in range(number):
        context.listener(Event("advance", name, done=step))


def fill_the_disk(*, context):
    raise OSError(errno.ENOSPC, "No space left on device")


def hear_ctrl_c(folder, name, *, context):
    """In a terminal, Ctrl-C reaches every process of the group."""
    note(folder, name)
    os.kill(os.getpid(), signal.SIGINT)
    context.listener(Event("finish", name))
