"""Confusion matrices, the F1 of every class, and the CCC of attributes."""

import math

import numpy as np

from sercache.corpus import Attribute
from sercache.evaluation.metrics import confusion, macro_f1_of_confusion
from sercache.reporting.blocks import (
    Block,
    Cell,
    Figure,
    Figures,
    Folded,
    Heat,
    Heats,
    Prose,
    Section,
    Table,
    number,
    shown,
)
from sercache.reporting.drawing import ACCENT, INK, MUTED, SERIES, Canvas
from sercache.reporting.facts import Facts, ScoredRows
from sercache.reporting.wording import interval, listed

_MARKS = ("o", "s", "D", "^")
_COLOURS = (ACCENT, INK, SERIES[1], SERIES[2])


def classes_section(facts: Facts) -> Section:
    """Show confusion matrices side by side, and F1 by class with intervals."""
    blocks: list[Block] = [Figures((_f1_figure(facts),))]
    lead = _lead(facts)
    if facts.scored is not None:
        scored = facts.scored
        if facts.metrics["repeats"] > 1:
            blocks.append(
                Prose("The matrices are those of the members' own folds, the first assignment of speakers.")
            )
        blocks.append(Heats(tuple(confusion_heat(facts, scored, name) for name in facts.main_stackers)))
        others = [name for name in facts.stackers if name not in facts.main_stackers]
        if others:
            heats = Heats(tuple(confusion_heat(facts, scored, name) for name in others))
            blocks.append(Folded(f"The other {len(others)} meta-levels", (heats,)))
    return Section("classes", "Classes", lead, blocks)


def _lead(facts: Facts) -> str:
    scores = {name: facts.score(facts.choice, f"f1:{name}") for name in facts.classes}
    known = {name: estimate for name, estimate in scores.items() if not math.isnan(estimate.value)}
    if not known:
        return "No class can be scored."
    best, worst = (pick(known, key=lambda name: known[name].value) for pick in (max, min))
    absent = [name for name in facts.classes if name not in known]
    lead = (
        f"{facts.choice} knows {shown(best)} best (F1 {interval(known[best])}) and {shown(worst)} least "
        f"({interval(known[worst])})."
    )
    return lead + (f" Not in the scored rows: {listed([shown(name) for name in absent])}." if absent else "")


def _f1_figure(facts: Facts) -> Figure:
    names = facts.main_stackers
    scores = {
        (stacker, name): facts.score(stacker, f"f1:{name}") for stacker in names for name in facts.classes
    }
    title = "F1 of every class"
    estimates = {name: scores[names[0], name] for name in facts.classes}
    description = (
        f"One point and 95 % interval over speakers per class, for {listed(names)}. {names[0]}: "
        + "; ".join(f"{shown(name)} {interval(estimate)}" for name, estimate in estimates.items())
        + "."
    )
    step = 0.7 / len(names)
    with Canvas(520, 60 + (14 * len(names) + 14) * len(facts.classes)) as canvas:
        axes = canvas.axes
        for index, stacker in enumerate(names):
            colour = _COLOURS[index]
            for position, name in enumerate(facts.classes):
                estimate, y = scores[stacker, name], position + (index - (len(names) - 1) / 2) * step
                if not math.isnan(estimate.low):
                    axes.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=1.4)
                axes.plot(
                    [estimate.value],
                    [y],
                    _MARKS[index],
                    color=colour,
                    markersize=4.5,
                    label=stacker if position == 0 else None,
                )
        axes.set_yticks(range(len(facts.classes)), [shown(name, 16) for name in facts.classes])
        for text in axes.get_yticklabels():
            text.set_color(INK)
        axes.set_ylim(len(facts.classes) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        canvas.figure.legend(loc="outside upper left", ncols=len(names), handletextpad=0.2, columnspacing=1.2)
    table = Table(
        "F1 by class and meta-level, with 95 % intervals",
        ("class", *names),
        tuple(
            (
                Cell(shown(name, 60)),
                *(
                    Cell(interval(scores[stacker, name]), scores[stacker, name].value, is_number=True)
                    for stacker in names
                ),
            )
            for name in facts.classes
        ),
    )
    return Figure(canvas.svg(title, description), title, description, table)


def confusion_heat(facts: Facts, scored: ScoredRows, stacker: str) -> Heat:
    """Return a stacker's confusion matrix: shares of the true class, and counts."""
    counts = confusion_of(scored, stacker)
    sizes = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, sizes, out=np.zeros(counts.shape), where=sizes > 0)
    names = tuple(shown(name, 14) for name in facts.classes)
    cells = tuple(
        tuple(
            (float(share), f"{share:.0%}" if size else "", f"{number:,}")
            for share, number in zip(of_shares, of_counts, strict=True)
        )
        for of_shares, of_counts, size in zip(
            shares.tolist(), counts.tolist(), sizes[:, 0].tolist(), strict=True
        )
    )
    score = float(macro_f1_of_confusion(counts))
    return Heat(
        stacker,
        "true \\ predicted",
        names,
        names,
        cells,
        f"macro-F1 {score:.3f} on {int(counts.sum()):,} rows",
    )


def confusion_of(scored: ScoredRows, stacker: str) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return the confusion matrix ``(C, C)`` on the rows that have a consensus class."""
    known = scored.known
    return confusion(
        scored.rows.labels[known], scored.decisions(stacker)[known], len(scored.rows.inputs.classes)
    )


MOST_POINTS = 600
_SIDE = 250
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def attributes_section(facts: Facts) -> Section | None:
    """Show a scatter for each attribute; None where there are none or rows are not at hand."""
    scored = facts.scored
    if scored is None or not facts.attributes:
        return None
    figures = [
        _scatter(facts, scored, index, attribute)
        for index, attribute in enumerate(scored.rows.inputs.attributes)
        if not np.isnan(scored.rows.attribute_targets[:, index]).all()
    ]
    if not figures:
        return None
    scores = "; ".join(
        f"{shown(name)} {interval(facts.score(facts.choice, f'ccc:{name}'))}" for name in facts.attributes
    )
    return Section(
        "attributes", "Attributes", f"CCC of {facts.choice}: {scores}.", [Figures(tuple(figures), "medium")]
    )


def _scatter(facts: Facts, scored: ScoredRows, index: int, attribute: Attribute) -> Figure:
    rated = np.flatnonzero(~np.isnan(scored.rows.attribute_targets[:, index]))
    truth = scored.rows.attribute_targets[rated, index]
    predicted = scored.predictions[facts.choice].attribute_values[rated, index]
    score = facts.score(facts.choice, f"ccc:{attribute.name}")
    chosen = np.arange(len(rated))
    if len(rated) > MOST_POINTS:
        chosen = np.random.default_rng(scored.seed).permutation(len(rated))[:MOST_POINTS]
    title = shown(attribute.name)
    spread_ratio = float(predicted.std() / truth.std()) if truth.std() > 0 else float("nan")
    description = (
        f"{title} as predicted by {facts.choice} against the ratings, on {len(rated):,} rows: CCC "
        f"{interval(score)}; predictions spread {spread_ratio:.0%} as wide as ratings, and lie "
        f"{float(predicted.mean() - truth.mean()):+.2f} off on average."
    )
    with Canvas(_SIDE, _SIDE) as canvas:
        axes = canvas.axes
        ends = [attribute.low, attribute.high]
        axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.plot(
            truth[chosen], predicted[chosen], "o", color=ACCENT, alpha=0.35, markersize=3.5, markeredgewidth=0
        )
        margin = 0.02 * (attribute.high - attribute.low)
        axes.set(xlim=(ends[0] - margin, ends[1] + margin), ylim=(ends[0] - margin, ends[1] + margin))
        axes.set_xlabel("raters")
        axes.set_ylabel("predicted")
    quantiles = zip(
        _QUANTILES,
        np.quantile(truth, _QUANTILES).tolist(),
        np.quantile(predicted, _QUANTILES).tolist(),
        strict=True,
    )
    numbers = Table(
        f"{title}: how ratings and predictions are distributed",
        ("quantile", "raters", "predicted"),
        tuple(
            (Cell(f"{quantile:.0%}", quantile), number(of_truth, 2), number(of_predicted, 2))
            for quantile, of_truth, of_predicted in quantiles
        ),
    )
    sampled = f", {len(chosen):,} of {len(rated):,} rows drawn" if len(chosen) < len(rated) else ""
    caption = f"CCC {score.value:.3f}{sampled}"
    return Figure(canvas.svg(title, description), title, description, numbers, caption)
