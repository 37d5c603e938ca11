"""How close the attributes come: said against rated, with the CCC."""

import numpy as np

from sercache.corpus import Attribute
from sercache.reporting.blocks import Cell, Figure, Figures, Section, Table, number, shown
from sercache.reporting.drawing import ACCENT, MUTED, Canvas
from sercache.reporting.facts import Facts, Judged
from sercache.reporting.wording import interval

MOST_POINTS = 600
_SIDE = 250
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def attributes_section(facts: Facts) -> Section | None:
    """Show a scatter for each attribute; None where there are none or rows are not at hand."""
    judged = facts.judged
    if judged is None or not facts.attributes:
        return None
    figures = [
        _scatter(facts, judged, index, attribute)
        for index, attribute in enumerate(judged.rows.inputs.attributes)
        if not np.isnan(judged.rows.attribute_targets[:, index]).all()
    ]
    if not figures:
        return None
    scores = "; ".join(
        f"{shown(name)} {interval(facts.score(facts.choice, f'ccc:{name}'))}" for name in facts.attributes
    )
    return Section(
        "attributes", "Attributes", f"CCC of {facts.choice}: {scores}.", [Figures(tuple(figures), "medium")]
    )


def _scatter(facts: Facts, judged: Judged, index: int, attribute: Attribute) -> Figure:
    rated = np.flatnonzero(~np.isnan(judged.rows.attribute_targets[:, index]))
    truth = judged.rows.attribute_targets[rated, index]
    said = judged.predictions[facts.choice].attribute_values[rated, index]
    score = facts.score(facts.choice, f"ccc:{attribute.name}")
    chosen = np.arange(len(rated))
    if len(rated) > MOST_POINTS:
        chosen = np.random.default_rng(judged.seed).permutation(len(rated))[:MOST_POINTS]
    title = shown(attribute.name)
    spread = float(said.std() / truth.std()) if truth.std() > 0 else float("nan")
    description = (
        f"{title} as {facts.choice} says it against what raters said, on {len(rated):,} rows: CCC "
        f"{interval(score)}; predictions spread {spread:.0%} as wide as ratings, and lie "
        f"{float(said.mean() - truth.mean()):+.2f} off on average."
    )
    with Canvas(_SIDE, _SIDE) as canvas:
        axes = canvas.axes
        ends = [attribute.low, attribute.high]
        axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.plot(
            truth[chosen], said[chosen], "o", color=ACCENT, alpha=0.35, markersize=3.5, markeredgewidth=0
        )
        margin = 0.02 * (attribute.high - attribute.low)
        axes.set(xlim=(ends[0] - margin, ends[1] + margin), ylim=(ends[0] - margin, ends[1] + margin))
        axes.set_xlabel("raters")
        axes.set_ylabel("predicted")
    quantiles = zip(
        _QUANTILES,
        np.quantile(truth, _QUANTILES).tolist(),
        np.quantile(said, _QUANTILES).tolist(),
        strict=True,
    )
    numbers = Table(
        f"{title}: how ratings and predictions are distributed",
        ("quantile", "raters", "predicted"),
        tuple(
            (Cell(f"{quantile:.0%}", quantile), number(of_truth, 2), number(of_said, 2))
            for quantile, of_truth, of_said in quantiles
        ),
    )
    sampled = f", {len(chosen):,} of {len(rated):,} rows drawn" if len(chosen) < len(rated) else ""
    caption = f"CCC {score.value:.3f}{sampled}"
    return Figure(canvas.svg(title, description), title, description, numbers, caption)
