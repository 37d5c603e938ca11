"""How many members it takes: macro-F1 of the soft vote of one member to all, and what they cost."""

from collections.abc import Mapping
from typing import Any

from sercache.evaluation.primary import PrimaryScore
from sercache.reporting.blocks import (
    Block,
    Cell,
    Figure,
    Figures,
    Prose,
    Section,
    Table,
    count,
    number,
    shown,
)
from sercache.reporting.drawing import ACCENT, INK, MUTED, SERIES, Canvas
from sercache.reporting.facts import Facts, difference_of, estimate_of
from sercache.reporting.wording import interval, p_value

_ORDERS = {
    "best": (ACCENT, "-", "best first"),
    "greedy": (SERIES[1], (0, (5, 2)), "greedy"),
    "thrifty": (SERIES[2], (0, (1, 1.5)), "thrifty"),
    "random": (MUTED, (0, (2, 3)), "random"),
}


def sizes_section(facts: Facts) -> Section | None:
    """Show the ensemble-size curve; None where there is one member, or it was not measured."""
    curves = facts.metrics.get("curves")
    if not curves or len(facts.metrics["members"]) < 2:
        return None
    points: dict[str, list[Mapping[str, Any]]] = {}
    for point in curves["points"]:
        points.setdefault(point["order"], []).append(point)
    blocks: list[Block] = [Figures((_curve(points, facts.primary),))]
    if curves["without"]:
        blocks.append(_without(curves["without"], facts.primary))
    verdict = curves["verdict"]
    blocks += [Prose(sentence) for sentence in verdict[1:]]
    return Section("sizes", "Ensemble size", verdict[0] if verdict else "", blocks)


def _curve(points: Mapping[str, list[Mapping[str, Any]]], primary: PrimaryScore) -> Figure:
    drawn = {order: points[order] for order in _ORDERS if order in points}
    title, key = f"{primary.title} of the soft vote, by the number of members", primary.key
    parts = []
    for order, of_order in drawn.items():
        first, last = estimate_of(of_order[0][key]), estimate_of(of_order[-1][key])
        best = max(of_order, key=lambda point: estimate_of(point[key]).value)
        parts.append(
            f"{order} from {first.value:.3f} with one to {last.value:.3f} with all, "
            f"highest with {best['size']}"
        )
    description = f"A line per order in which members join: {'; '.join(parts)}."
    with Canvas(520, 260) as canvas:
        axes = canvas.axes
        for order, of_order in drawn.items():
            colour, dashes, name = _ORDERS[order]
            sizes = [point["size"] for point in of_order]
            scores = [estimate_of(point[key]) for point in of_order]
            if order in ("best", "random"):
                axes.fill_between(
                    sizes,
                    [estimate.low for estimate in scores],
                    [estimate.high for estimate in scores],
                    color=colour,
                    alpha=0.12,
                    linewidth=0,
                )
            axes.plot(
                sizes, [estimate.value for estimate in scores], color=colour, linestyle=dashes, label=name
            )
        axes.set_xlabel("members")
        axes.locator_params(axis="x", integer=True)
        axes.legend(loc="lower right", labelcolor=INK)
    numbers = Table(
        "Every order and size",
        ("order", "members", primary.name, "minus all", "encoders", "s per minute of speech", "joins"),
        tuple(_row(point, key) for of_order in drawn.values() for point in of_order),
    )
    caption = (
        "Bands: 95 % over speakers (best first), 90 % of random orders. Each order is decided on other rows "
        "than those it is scored on."
    )
    return Figure(canvas.svg(title, description), title, description, numbers, caption)


def _row(point: Mapping[str, Any], key: str) -> tuple[Cell, ...]:
    score = estimate_of(point[key])
    to_all = difference_of(point["to_all"]) if point["to_all"] else None
    cost = point["cost"] or {}
    return (
        Cell(point["order"]),
        count(point["size"]),
        Cell(interval(score), score.value, is_number=True),
        Cell("", is_number=True)
        if to_all is None
        else Cell(interval(to_all, "+"), to_all.value, is_number=True),
        count(len(cost["encoders"])) if cost else Cell("", is_number=True),
        number(cost.get("seconds_per_minute"), 2),
        Cell(shown(point["members"][-1]) if point["members"] else ""),
    )


def _without(found: Mapping[str, Any], primary: PrimaryScore) -> Table:
    differences = sorted(
        ((name, difference_of(raw)) for name, raw in found.items()), key=lambda pair: pair[1].value
    )
    return Table(
        f"Leaving one out: {primary.name} of the soft vote without a member, minus that with all. Negative: "
        "it is missed.",
        ("without", "difference", "p (Holm)"),
        tuple(
            (
                Cell(shown(name, 60)),
                Cell(interval(difference, "+"), difference.value, is_number=True),
                p_value(difference.p_value),
            )
            for name, difference in differences
        ),
    )
