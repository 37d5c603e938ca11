"""How the members learned: the primary score on stop rows, epoch by epoch, for every fold."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from sercache.evaluation.primary import MACRO_F1, PrimaryScore, primary_in
from sercache.reporting.blocks import Cell, Figure, Figures, Folded, Section, Table, count, number, shown
from sercache.reporting.drawing import ACCENT, MUTED, Canvas
from sercache.reporting.facts import Facts
from sercache.reporting.wording import duration
from sercache.run import Run

_SHOWN = 12
_WIDTH, _HEIGHT = 200, 150
HISTORY_NAME = "history.csv"


@dataclass(frozen=True, slots=True)
class FoldHistory:
    """What one fold of a member logged: a row per epoch; ``scores`` are the primary ones on stop rows."""

    fold: int
    epochs: tuple[int, ...]
    stages: tuple[int, ...]
    train_loss: tuple[float, ...]
    scores: tuple[float, ...]
    seconds: float
    primary: PrimaryScore = MACRO_F1


def read_histories(run: Run, member: str) -> tuple[FoldHistory, ...]:
    """Return the histories of a member's folds; none where it has no ``history.csv``."""
    paths = (run.root / "members" / member).glob(f"fold-*/{HISTORY_NAME}")
    found = (_read(path) for path in paths)
    return tuple(
        sorted((history for history in found if history is not None), key=lambda history: history.fold)
    )


def _read(path: Path) -> FoldHistory | None:
    try:
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        if not rows:
            return None

        def column(name: str) -> tuple[float, ...]:
            return tuple(float(row[name]) for row in rows)

        primary = primary_in(rows[0])
        return FoldHistory(
            int(path.parent.name.removeprefix("fold-")),
            tuple(map(int, column("epoch"))),
            tuple(map(int, column("stage"))),
            column("train_loss"),
            column(primary.key),
            sum(column("seconds")),
            primary,
        )
    except (OSError, KeyError, ValueError, TypeError):
        return None


def training_section(facts: Facts) -> Section | None:
    """Show a learning curve for each member that has one."""
    histories = {
        member: found for member in facts.metrics["members"] if (found := read_histories(facts.run, member))
    }
    if not histories:
        return None
    figures = [_curve(member, found) for member, found in histories.items()]
    blocks: list[Figures | Folded] = [Figures(tuple(figures[:_SHOWN]), "small")]
    if len(figures) > _SHOWN:
        rest = Figures(tuple(figures[_SHOWN:]), "small")
        blocks.append(Folded(f"{len(figures) - _SHOWN} more members", (rest,)))
    last = [
        f"{shown(member)}/{fold.fold}"
        for member, found in histories.items()
        for fold in found
        if _best(fold) == len(fold.epochs) - 1
    ]
    total = sum(fold.seconds for found in histories.values() for fold in found)
    lead = (
        f"{sum(map(len, histories.values()))} trainings of {len(histories)} members, {duration(total)} of "
        "training. "
        f"A line per fold: {facts.primary.name} on the rows that stop the training; the point is the epoch "
        "that was kept."
    )
    if last:
        lead += f" {len(last)} of them were best in their last epoch: more epochs may help."
    return Section("training", "Training", lead, blocks)


def _best(fold: FoldHistory) -> int:
    return max(range(len(fold.scores)), key=lambda place: _or_low(fold.scores[place]))


def _or_low(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _curve(member: str, found: tuple[FoldHistory, ...]) -> Figure:
    best = [fold.scores[_best(fold)] for fold in found]
    score = found[0].primary.name
    mean = sum(best) / len(best)
    title = shown(member)
    epochs = [len(fold.epochs) for fold in found]
    description = (
        f"Learning curves of {title} on {len(found)} folds: {min(epochs)} to {max(epochs)} epochs; best "
        f"{score} on stop rows from {min(best):.3f} to {max(best):.3f}."
    )
    with Canvas(_WIDTH, _HEIGHT) as canvas:
        axes = canvas.axes
        for fold in found:
            axes.plot(fold.epochs, fold.scores, color=ACCENT, linewidth=1, alpha=0.6)
            place = _best(fold)
            axes.plot([fold.epochs[place]], [fold.scores[place]], "o", color=ACCENT, markersize=3.5)
        changes = [
            fold.epochs[fold.stages.index(2)] for fold in found if 2 in fold.stages and 1 in fold.stages
        ]
        if changes and len(set(changes)) == 1:
            axes.axvline(changes[0] - 0.5, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.set_xlabel("epoch")
        axes.locator_params(nbins=4)
    numbers = Table(
        f"{title}: every fold",
        ("fold", "epochs", "kept epoch", f"best {score}", "last training loss", "seconds"),
        tuple(
            (
                Cell(str(fold.fold), float(fold.fold)),
                count(len(fold.epochs)),
                count(fold.epochs[_best(fold)]),
                number(fold.scores[_best(fold)]),
                number(fold.train_loss[-1]),
                number(fold.seconds, 1),
            )
            for fold in found
        ),
    )
    return Figure(canvas.svg(title, description), title, description, numbers, f"mean of the best {mean:.3f}")
