"""How long closed-form heads take to fit, against scikit-learn's grid search on the same rows."""

import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sercache.corpus import Corpus, Utterance
from sercache.events import QUIET, Context, Event
from sercache.heads.registry import build_head
from sercache.recipe import TargetsRecipe
from sercache.training.closed_form import fit_head
from sercache.training.pooled_features import PooledTable
from sercache.training.rows import LabelledRows

_CLASSES = ("a", "b", "c", "d", "e", "f", "g")
_CLIPS_PER_SPEAKER = 50
_IN_MEMORY_BYTES = 512 << 20
_CHUNK = 2048


@dataclass(frozen=True)
class FitTiming:
    """What one fit took, its choice of penalty and of block weights included.

    Attributes:
        name: of the head, or of the rival.
        seconds: of one fit.
        macro_f1: of left-out speakers; NaN for a rival.
        peak_bytes: the most memory that the process had until then, the table's file not counted.
    """

    name: str
    seconds: float
    macro_f1: float
    peak_bytes: int


def measure_fits(
    rows: int,
    features: int,
    *,
    blocks: int = 14,
    heads: tuple[str, ...] = ("ridge", "logistic"),
    rival: bool = True,
    seed: int = 0,
    context: Context = QUIET,
) -> list[FitTiming]:
    """Fit heads on made-up pooled statistics, as a fold of a run is fitted.

    Args:
        rows: N training rows, of N / 50 speakers and 7 classes.
        features: P pooled numbers of each.
        blocks: how many statistics of layers they are.
        heads: names of closed-form heads.
        rival: whether scikit-learn's logistic regression is fitted too, with as many penalties and folds; a
            plain user's way, on standardised rows in memory.
        seed: of the rows.
        context: receives events, and can stop the work.

    Raises:
        Interrupted: ``context.should_stop`` returned True.
    """
    dim = max(1, features // blocks)
    generator = np.random.default_rng(seed)
    labels = generator.integers(len(_CLASSES), size=rows)
    corpus = Corpus(
        _CLASSES,
        (),
        tuple(
            Utterance(
                id=f"{row:07}",
                text="words",
                speaker=f"s{row // _CLIPS_PER_SPEAKER}",
                votes=tuple(np.eye(len(_CLASSES))[label].tolist()),
            )
            for row, label in enumerate(labels.tolist())
        ),
        Path(),
    )
    targets = LabelledRows.of(corpus, TargetsRecipe())
    timings = []
    with tempfile.TemporaryDirectory(prefix="sercache-bench-") as folder:
        table = _table(Path(folder), labels, blocks, dim, generator)
        for name in heads:
            context.listener(Event("start", f"fit/{name}"))
            head = build_head(name, [dim], len(_CLASSES), [], {"statistics": "mean"}, 0, [blocks])
            started = time.perf_counter()
            solution = fit_head(
                head, [table], np.arange(rows), corpus, targets, seed=seed, should_stop=context.should_stop
            )
            seconds = time.perf_counter() - started
            timings.append(FitTiming(name, seconds, solution.score, _peak_bytes()))
            context.listener(Event("finish", f"fit/{name}"))
        if rival:
            timings.append(_rival(table, labels, np.arange(rows) // _CLIPS_PER_SPEAKER))
    return timings


def _table(
    folder: Path, labels: np.ndarray, blocks: int, dim: int, generator: np.random.Generator
) -> PooledTable:
    """Return noise with a class's centre in one block of four, in a file where it is large."""
    shape = (len(labels), 1, blocks, dim)
    if int(np.prod(shape)) * 4 > _IN_MEMORY_BYTES:
        values: np.ndarray = np.memmap(folder / "table", np.float32, "w+", shape=shape)
    else:
        values = np.empty(shape, np.float32)
    centres = 0.15 * generator.standard_normal((len(_CLASSES), 1, blocks, dim), np.float32)
    centres[:, :, np.arange(blocks) % 4 != 0] = 0.0
    for first in range(0, len(labels), _CHUNK):
        part = labels[first : first + _CHUNK]
        noise = generator.standard_normal((len(part), *shape[1:]), np.float32)
        values[first : first + _CHUNK] = noise + centres[part]
    if isinstance(values, np.memmap):
        values.flush()
        values = np.memmap(folder / "table", np.float32, "r", shape=shape)
    return PooledTable(values, np.ones(len(labels), np.bool_))


def _rival(table: PooledTable, labels: np.ndarray, speakers: np.ndarray) -> FitTiming:
    """Return what a grid search over 13 penalties and 4 speaker-disjoint folds takes in scikit-learn."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values = np.asarray(table.values, np.float32).reshape(len(labels), -1)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    grid = {"logisticregression__C": np.logspace(-5, 1, 13).tolist()}
    search = GridSearchCV(model, grid, cv=GroupKFold(4), scoring="neg_log_loss")
    started = time.perf_counter()
    search.fit(values, labels, groups=speakers)
    seconds = time.perf_counter() - started
    return FitTiming("scikit-learn's grid search", seconds, float("nan"), _peak_bytes())


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
