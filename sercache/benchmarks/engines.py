"""What an engine adds to the work that it runs: tasks of so many seconds on each engine, same workers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sercache.engines.protocol import Needs, Task
from sercache.engines.registry import EngineChoice
from sercache.errors import Interrupted
from sercache.events import QUIET, Context, Event, ignore

_STEPS = 20
"""Events of a task: a training tells of as many epochs."""


@dataclass(frozen=True, slots=True)
class EngineTiming:
    """How long an engine took.

    Attributes:
        name: of the engine.
        seconds: from the first task given to the last one ended, start of its workers included.
        start_seconds: of these, until a first empty task was done.
        ratio: to the work alone, divided among the workers.
    """

    name: str
    seconds: float
    start_seconds: float
    ratio: float


def measure_engines(
    names: Sequence[str],
    *,
    tasks: int,
    task_seconds: float,
    workers: int,
    address: str | None = None,
    context: Context = QUIET,
) -> list[EngineTiming]:
    """Run tasks that take a known time on every engine; they sleep, so that no other load tells.

    Args:
        names: of the engines.
        tasks: how many.
        task_seconds: how long each takes.
        workers: side by side.
        address: of the Ray cluster; None starts one here.
        context: receives events, and can stop the work.

    Raises:
        SercacheError: there is no such engine, or no such cluster.
        Interrupted: ``context.should_stop`` returned True.
    """
    timings = []
    for name in names:
        engine = EngineChoice(name, address if name == "ray" else None).open(workers, local=name)
        started = time.perf_counter()
        engine.run([Task("start", _sleep, ("start", 0.0), Needs(cores=1))], replace(context, listener=ignore))
        start_seconds = time.perf_counter() - started
        side_by_side = min(engine.workers, workers)
        work = [Task(f"{n}", _sleep, (f"{n}", task_seconds), Needs(cores=1)) for n in range(tasks)]
        done: set[str] = set()

        def tell(event: Event, name: str = name, done: set[str] = done) -> None:
            if event.kind == "finish":
                done.add(event.task)
                context.listener(Event("advance", name, len(done), tasks))

        context.listener(Event("start", name, total=tasks))
        started = time.perf_counter()
        engine.run(work, replace(context, listener=tell))
        seconds = time.perf_counter() - started
        context.listener(Event("finish", name, tasks, tasks))
        alone = -(-tasks // side_by_side) * task_seconds
        timings.append(EngineTiming(name, seconds, start_seconds, seconds / alone))
    return timings


def _sleep(name: str, seconds: float, *, context: Context) -> None:
    for step in range(_STEPS):
        if context.should_stop():
            raise Interrupted("stopped")
        time.sleep(seconds / _STEPS)
        context.listener(Event("advance", name, step, _STEPS))
    context.listener(Event("finish", name))
