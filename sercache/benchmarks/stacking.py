"""Every stacker once on many rows, or a whole comparison: time, memory, and whether it is of use."""

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sercache.benchmarks.simulated_members import ROWS_PER_SPEAKER, SimulatedMembers
from sercache.errors import Interrupted
from sercache.evaluation.metrics import macro_f1
from sercache.events import QUIET, Context, Event
from sercache.posteriors import ALL_FOLDS
from sercache.recipe import StackingRecipe
from sercache.run import Run
from sercache.seeds import derive_seed
from sercache.stacking.comparison import compare_rows
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


@dataclass(frozen=True)
class ComparisonTiming:
    """What a whole comparison with a test split took: fits, intervals, calibration, curves, and writing.

    Attributes:
        seconds: from joined rows to the last file.
        parts: seconds of each stacker, fitted, applied and written; of ``intervals`` and what follows.
        judged_rows: of the test split.
        peak_bytes: of this process, the rows included.
        rows_bytes: what the process took before the comparison began, with the rows.
    """

    seconds: float
    parts: Mapping[str, float]
    judged_rows: int
    peak_bytes: int
    rows_bytes: int


def benchmark_comparison(
    rows: int,
    members: int,
    classes: int,
    attributes: int,
    settings: StackingRecipe,
    *,
    context: Context = QUIET,
) -> ComparisonTiming:
    """Compare all stackers on simulated rows, as ``sercache stack`` does, in this process.

    Args:
        rows: to fit on; a tenth as many of other speakers are predicted, 10,000 at most.
        members: M.
        classes: C.
        attributes: A.
        settings: of the comparison.
        context: receives events, and can stop the work.

    Raises:
        Interrupted: ``context.should_stop`` returned True.
    """
    new_rows = min(_NEW_ROWS, max(ROWS_PER_SPEAKER * 2, rows // 10))
    drawn, _ = SimulatedMembers.faulty(members, classes, attributes=attributes).draw(rows + new_rows, 0)
    is_held_out = np.arange(len(drawn)) // ROWS_PER_SPEAKER >= rows // ROWS_PER_SPEAKER
    split = replace(
        drawn,
        folds=np.where(is_held_out, ALL_FOLDS, drawn.folds),
        origins=np.where(is_held_out, "held-out", "out-of-fold"),
    )
    before, parts = _peak_bytes(), {}
    began: dict[str, float] = {}

    def timing(event: Event) -> None:
        if event.kind == "start":
            began[event.task] = time.perf_counter()
        elif event.kind == "finish":
            parts[event.task.removeprefix("stack/")] = time.perf_counter() - began[event.task]
        context.listener(event)

    with TemporaryDirectory(prefix="sercache-bench-") as folder:
        started = time.perf_counter()
        compare_rows(
            split,
            settings,
            0,
            Run(Path(folder)),
            context=Context(listener=timing, should_stop=context.should_stop),
        )
        seconds = time.perf_counter() - started
    return ComparisonTiming(seconds, parts, int(is_held_out.sum()), _peak_bytes(), before)


def benchmark_stacking(
    rows: int,
    members: int,
    classes: int,
    attributes: int,
    stackers: Sequence[str],
    *,
    context: Context = QUIET,
) -> list[StackerTiming]:
    """Fit and apply stackers on simulated rows, one after the other, each in a fresh process.

    Raises:
        Interrupted: ``context.should_stop`` returned True.
    """
    context.listener(Event("start", "stackers", total=len(stackers)))
    timings = []
    spawn = multiprocessing.get_context("spawn")
    for done, name in enumerate(stackers, start=1):
        if context.should_stop():
            raise Interrupted("stopped; nothing was written")
        with ProcessPoolExecutor(1, spawn) as pool:
            timings.append(pool.submit(_time, name, rows, members, classes, attributes).result())
        context.listener(
            Event("advance", "stackers", done=done, total=len(stackers), values={"stacker": name})
        )
    return timings


def _time(name: str, rows: int, members: int, classes: int, attributes: int) -> StackerTiming:
    truth = SimulatedMembers.faulty(members, classes, attributes=attributes)
    fit, _ = truth.draw(rows, derive_seed(0, "fit"))
    new, _ = truth.draw(_NEW_ROWS, derive_seed(0, "new"), "n")
    before = _peak_bytes()
    stacker = STACKERS[name].from_recipe(StackingRecipe(), 0)
    started = time.perf_counter()
    stacker.fit(fit)
    fitted = time.perf_counter()
    stacker.predict(fit.inputs)
    predicted = time.perf_counter()
    known = new.labels >= 0
    predicted = stacker.predict(new.inputs).class_probabilities.argmax(axis=1)
    return StackerTiming(
        name,
        fitted - started,
        predicted - fitted,
        macro_f1(new.labels[known], predicted[known], classes),
        _peak_bytes(),
        before,
    )


def _peak_bytes() -> int:
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
