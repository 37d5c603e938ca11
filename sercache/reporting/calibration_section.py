"""The section on calibration: reliability diagrams, and what calibrating changes."""

from typing import Any

import numpy as np

from sercache.evaluation.metrics import Floats
from sercache.reporting.blocks import Block, Cell, Figure, Figures, Prose, Section, Table, count, number
from sercache.reporting.drawing import ACCENT, INK, MUTED, Canvas
from sercache.reporting.facts import Facts, ScoredRows, estimate_of
from sercache.reporting.wording import interval

BINS = 10
_FEW = 5
_SIDE = 200


def calibration_section(facts: Facts) -> Section | None:
    """Show a reliability diagram for each stacker, and the scored ways of calibrating the recommended one.

    None where there are no classes.
    """
    if not facts.classes:
        return None
    blocks: list[Block] = []
    if facts.scored is not None and len(facts.scored.known):
        order = [facts.choice, *(name for name in facts.stackers if name != facts.choice)]
        blocks.append(Figures(tuple(_reliability(facts, facts.scored, name) for name in order), "small"))
    found = facts.metrics.get("calibration")
    if found:
        blocks += [_table(found), *(Prose(sentence) for sentence in found["verdict"])]
    if not blocks:
        return None
    ece = facts.score(facts.choice, "ece")
    return Section(
        "calibration",
        "Calibration",
        f"ECE of {facts.choice}: {interval(ece)}. On the diagonal the top class is right as often as its "
        "probability states; "
        "below, it is too sure of itself. Pale points stand for fewer than "
        f"{_FEW} rows; the bars show how many rows there are.",
        blocks,
    )


def reliability_bins(scored: ScoredRows, stacker: str, bins: int = BINS) -> tuple[Floats, Floats, Floats]:
    """Return mean confidence, share that is right, and rows of each bin of confidence, ``(bins,)`` each."""
    known = scored.known
    probabilities = scored.probabilities(stacker)[known]
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == scored.rows.labels[known]
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    rows = np.bincount(which, minlength=bins).astype(np.float64)
    sums = (np.bincount(which, weights=values, minlength=bins) for values in (confidence, is_right))
    mean, right = (np.divide(total, rows, out=np.full(bins, np.nan), where=rows > 0) for total in sums)
    return mean, right, rows


def _reliability(facts: Facts, scored: ScoredRows, stacker: str) -> Figure:
    mean, right, rows = reliability_bins(scored, stacker)
    ece = facts.score(stacker, "ece")
    there = np.flatnonzero(rows > 0)
    sure, correct = (float((values * rows)[there].sum() / rows.sum()) for values in (mean, right))
    gap = sure - correct
    tendency = (
        "too sure of itself" if gap > 0.02 else "not sure enough" if gap < -0.02 else "about as sure as right"
    )
    title = stacker
    description = (
        f"Reliability of {stacker}: ECE {interval(ece)}; on the whole it is {tendency}: mean confidence "
        f"{sure:.2f}, right {correct:.2f}."
    )
    colour = ACCENT if stacker == facts.choice else INK
    with Canvas(_SIDE, _SIDE) as canvas:
        axes = canvas.axes
        axes.bar(
            (np.arange(BINS) + 0.5) / BINS,
            0.25 * rows / rows.max(),
            0.8 / BINS,
            color=MUTED,
            alpha=0.25,
            linewidth=0,
        )
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.plot(mean[there], right[there], color=colour, linewidth=1.4)
        many = there[rows[there] >= _FEW]
        few = there[rows[there] < _FEW]
        axes.plot(mean[many], right[many], "o", color=colour, markersize=4.5, clip_on=False)
        axes.plot(mean[few], right[few], "o", color=colour, markersize=4.5, alpha=0.3, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.set_xlabel("confidence")
        axes.set_ylabel("right")
    numbers = Table(
        f"Reliability of {stacker}",
        ("confidence", "rows", "mean confidence", "right"),
        tuple(
            (
                Cell(f"{bin_index / BINS:.1f} to {(bin_index + 1) / BINS:.1f}", float(bin_index)),
                count(int(rows[bin_index])),
                number(float(mean[bin_index])),
                number(float(right[bin_index])),
            )
            for bin_index in there.tolist()
        ),
    )
    return Figure(canvas.svg(title, description), title, description, numbers, f"ECE {ece.value:.3f}")


def _table(found: dict[str, Any]) -> Table:
    def row(scored_by: dict[str, Any]) -> tuple[Cell, ...]:
        scores = {name: estimate_of(score) for name, score in scored_by["scores"].items()}
        coverage = estimate_of(scored_by["coverage"])
        tone = "strong" if scored_by["name"] == found["chosen"] else ""
        return (
            Cell(scored_by["name"], tone=tone),
            *(
                Cell(interval(scores[name]), scores[name].value, is_number=True)
                for name in ("ece", "consensus_log_loss", "macro_f1")
            ),
            Cell(interval(coverage), coverage.value, is_number=True),
            number(scored_by["set_size"], 2),
        )

    return Table(
        f"Ways of calibrating {found['stacker']}, each fitted on other speakers than those it is scored on. "
        f"Coverage: how often the conformal set, asked for {found['coverage']:.0%}, holds the class.",
        ("calibration", "ECE", "log-loss (consensus)", "macro-F1", "coverage", "classes in a set"),
        tuple(row(scored_by) for scored_by in found["rows"]),
    )
