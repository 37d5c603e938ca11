"""Every stacker once on many rows: time, memory, and whether it is of use."""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from sercache.benchmarks.simulated_members import SimulatedMembers
from sercache.errors import Interrupted
from sercache.evaluation.metrics import macro_f1
from sercache.events import Event, Listener, ignore
from sercache.interrupts import ShouldStop, never
from sercache.recipe import StackingRecipe
from sercache.seeds import derive_seed
from sercache.stacking.registry import STACKERS

_NEW_ROWS = 10_000


@dataclass(frozen=True)
class StackerTiming:
    """What one stacker took, in a process of its own.

    Attributes:
        name: of the stacker.
        fit_seconds: on all rows.
        predict_seconds: of all rows.
        macro_f1: on 10,000 rows of new speakers.
        peak_bytes: of the process, the rows included.
        rows_bytes: what the process took before the stacker began, with the rows.
    """

    name: str
    fit_seconds: float
    predict_seconds: float
    macro_f1: float
    peak_bytes: int
    rows_bytes: int


def benchmark_stacking(
    rows: int,
    members: int,
    classes: int,
    attributes: int,
    stackers: Sequence[str],
    *,
    listener: Listener = ignore,
    should_stop: ShouldStop = never,
) -> list[StackerTiming]:
    """Fit and apply stackers on simulated rows, one after the other, each in a fresh process.

    Raises:
        Interrupted: ``should_stop`` said so.
    """
    listener(Event("start", "stackers", total=len(stackers)))
    timings = []
    context = multiprocessing.get_context("spawn")
    for done, name in enumerate(stackers, start=1):
        if should_stop():
            raise Interrupted("stopped; nothing was written")
        with ProcessPoolExecutor(1, context) as pool:
            timings.append(pool.submit(_time, name, rows, members, classes, attributes).result())
        listener(Event("advance", "stackers", done=done, total=len(stackers), values={"stacker": name}))
    return timings


def _time(name: str, rows: int, members: int, classes: int, attributes: int) -> StackerTiming:
    truth = SimulatedMembers.faulty(members, classes, attributes=attributes)
    fit, _ = truth.draw(rows, derive_seed(0, "fit"))
    new, _ = truth.draw(_NEW_ROWS, derive_seed(0, "new"), "n")
    before = _peak_bytes()
    stacker = STACKERS[name](StackingRecipe(), 0)
    started = time.perf_counter()
    stacker.fit(fit)
    fitted = time.perf_counter()
    stacker.predict(fit.inputs)
    predicted = time.perf_counter()
    known = new.labels >= 0
    said = stacker.predict(new.inputs).class_probabilities.argmax(axis=1)
    return StackerTiming(
        name,
        fitted - started,
        predicted - fitted,
        macro_f1(new.labels[known], said[known], classes),
        _peak_bytes(),
        before,
    )


def _peak_bytes() -> int:
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
