"""The soft vote of 1 to M members, in an order chosen on other rows, each left out, and their cost."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sercache.evaluation.bootstrap import Difference, Estimate, SpeakerBootstrap, SumMetric, holm_corrected
from sercache.evaluation.primary import MACRO_F1, PrimaryScore, Truth
from sercache.files import without_nan
from sercache.stacking.costs import Cost, MemberCosts
from sercache.stacking.rows import Floats, StackingRows

Order = tuple[int, ...]
"""Indices of members, the first to join first."""

_LEAST_SECONDS = 1e-3


def by_score(rows: StackingRows) -> Order:
    """Return the members by their primary scores, the highest first."""
    values = rows.inputs.decisive_values
    scores = [vote_score(rows.truth, values[:, member], 1) for member in range(values.shape[1])]
    return tuple(np.argsort(-np.asarray(scores), kind="stable").tolist())


def greedy(rows: StackingRows, costs: MemberCosts | None = None) -> Order:
    """Return the members in the order of forward selection, each once.

    Each step adds the member with which the vote has the highest primary score. With ``costs`` it adds the
    one that gains most for each second of encoding that it adds; a member whose encoders are there already
    adds none.
    """
    values, truth = rows.inputs.decisive_values, rows.truth
    members = rows.inputs.members
    total = np.zeros_like(values[:, 0])
    order: list[int] = []
    before = 0.0
    while len(order) < len(members):
        left = [member for member in range(len(members)) if member not in order]
        size = len(order) + 1
        scores = {member: vote_score(truth, total + values[:, member], size) for member in left}
        if costs is None:
            chosen = max(left, key=lambda member: scores[member])
        else:
            chosen = max(
                left, key=lambda member: _gain_per_second(costs, members, order, member, scores, before)
            )
        order.append(chosen)
        total += values[:, chosen]
        before = scores[chosen]
    return tuple(order)


def _gain_per_second(
    costs: MemberCosts,
    members: tuple[str, ...],
    order: list[int],
    member: int,
    scores: dict[int, float],
    before: float,
) -> tuple[float, float]:
    names = [members[index] for index in order]
    paid = costs.of(names).seconds_per_minute or 0.0
    seconds = max((costs.of([*names, members[member]]).seconds_per_minute or 0.0) - paid, _LEAST_SECONDS)
    gain = scores[member] - before
    # Without a gain, a higher cost does not make it better.
    return (gain / seconds if gain > 0 else gain), scores[member]


def vote_score(truth: Truth, total: Floats, size: int) -> float:
    """Return the primary score of the mean of ``size`` members, given their sum ``(N, K)``; 0 for no row."""
    return float(np.nan_to_num(truth.score(total, total / size)))


RANDOM = "random"
_COLUMNS = (
    *("order", "size", "{score}", "{score}_low", "{score}_high"),
    *("minus_all", "minus_all_low", "minus_all_high", "kept_gain"),
    *("encoders", "seconds_per_minute", "last_member"),
)
_ENOUGH = 0.95
"""Share of the gain that a small ensemble must keep to be mentioned."""


@dataclass(frozen=True)
class CurvePoint:
    """A soft vote of the first members of an order.

    Attributes:
        order: ``best``, ``greedy``, ``thrifty`` or ``random``.
        size: how many members.
        members: which, in the order that all fitting rows decide; empty for random orders.
        score: the primary score on scored rows; of random orders the mean, and the range of 90 %.
        to_all: minus the vote of all members; None for random orders.
        kept_gain: share of what all members gain over the best single one; NaN where they gain nothing.
        cost: of these members; None where it is not known, and for random orders.
    """

    order: str
    size: int
    members: tuple[str, ...]
    score: Estimate
    to_all: Difference | None
    kept_gain: float
    cost: Cost | None


@dataclass(frozen=True)
class Curves:
    """The scores of soft votes of 1 to M members, and of those without each member.

    Attributes:
        points: order by order, from one member to all.
        without: the vote without a member minus that with all, p-values Holm-corrected.
        rows: how many of the scored rows count in the primary score.
        primary: that score.
    """

    points: tuple[CurvePoint, ...]
    without: Mapping[str, Difference]
    rows: int
    primary: PrimaryScore = MACRO_F1

    def of(self, order: str) -> tuple[CurvePoint, ...]:
        """Return the points of one order."""
        return tuple(point for point in self.points if point.order == order)

    @property
    def verdict(self) -> tuple[str, ...]:
        """The sentences: how many members are enough, and which are missed."""
        if len(self.without) < 2:
            return ()
        return (self._of_sizes(), self._of_leaving_out())

    def _of_sizes(self) -> str:
        full = self.of("best")[-1]
        gain = full.score.value - self.of("best")[0].score.value
        if not gain > 0:
            highest = max(
                (point for point in self.points if point.members), key=lambda point: point.score.value
            )
            return (
                f"The soft vote of all {full.size} members gains nothing over the best single one "
                f"({gain:+.3f} {self.primary.name}); of all sizes {highest.size} in {highest.order} order "
                f"scores highest ({highest.score.value:.3f})."
            )
        enough = [
            point
            for point in self.points
            if point.members and point.kept_gain >= _ENOUGH and point.size < full.size
        ]
        if not enough:
            return f"No fewer than all {full.size} members give {_ENOUGH:.0%} of the soft vote's gain."
        point = min(enough, key=lambda point: (_seconds(point), point.size, -point.kept_gain))
        names = ", ".join(point.members) if point.size <= 5 else f"{point.order} order"
        share = "all" if point.kept_gain >= 1 else f"{point.kept_gain:.0%}"
        return (
            f"{point.size} of {full.size} members ({names}) give {share} of what the soft "
            f"vote of all gains over the best single one{_cost_beside(point, full)}; "
            f"{_compared(point.to_all)}."
        )

    def _of_leaving_out(self) -> str:
        useful = [
            name for name, difference in self.without.items() if difference.is_clear and difference.value < 0
        ]
        harmful = [
            name for name, difference in self.without.items() if difference.is_clear and difference.value > 0
        ]
        sentences = []
        if harmful:
            sentences.append(f"The soft vote is better without {_some(harmful)}")
        if useful:
            sentences.append(f"{'it' if sentences else 'The soft vote'} is worse without {_some(useful)}")
        if not sentences:
            return "No single member is missed by the soft vote, or harms it, beyond chance."
        return f"{'; '.join(sentences)}; of the others none is missed, or harms, beyond chance."


def ensemble_curves(
    rounds: Sequence[tuple[StackingRows, StackingRows]],
    *,
    fitting: StackingRows,
    costs: MemberCosts | None = None,
    samples: int = 2000,
    permutations: int = 100,
    seed: int = 0,
) -> Curves:
    """Score soft votes of some of the members.

    An order is decided on a round's fitting rows and scored on its other rows, so that the choice of members
    has not seen the rows that a curve's scores are of.

    Args:
        rounds: rows to decide on and rows of other speakers to score; no row is scored twice.
        fitting: all rows to decide on, which the printed orders are decided on.
        costs: of the members, if they are known: adds the order ``thrifty``.
        samples: bootstrap draws of speakers.
        permutations: random orders.
        seed: of both.
    """
    members = fitting.inputs.members
    scored = [rows for _, rows in rounds]
    truth = Truth(
        np.concatenate([rows.labels for rows in scored]),
        np.concatenate([rows.attribute_targets for rows in scored]),
        len(fitting.inputs.classes),
    )
    bootstrap = SpeakerBootstrap([speaker for rows in scored for speaker in rows.speakers], samples, seed)
    ways: dict[str, Callable[[StackingRows], Order]] = {"best": by_score, "greedy": greedy}
    if costs is not None and costs.of(members).seconds_per_minute is not None:
        ways["thrifty"] = lambda rows: greedy(rows, costs)

    def metric(total: Floats, size: int) -> SumMetric:
        return truth.metric(total, total / size)

    by_round = [rows.inputs.decisive_values for rows in scored]
    values = np.concatenate(by_round)  # (N, M, K)
    full_total = values.sum(axis=1)  # (N, K)
    of_all = metric(full_total, len(members))
    points: list[CurvePoint] = []
    for name, way in ways.items():
        orders, final = [way(fit) for fit, _ in rounds], way(fitting)
        total = np.zeros_like(full_total)
        for size in range(1, len(members) + 1):
            joining = [part[:, order[size - 1]] for part, order in zip(by_round, orders, strict=True)]
            total += np.concatenate(joining)  # (N, K)
            # All members are the same vote in any order; the sum's last bits are not.
            vote = metric(total, size) if size < len(members) else of_all
            names = tuple(members[index] for index in final[:size])
            score, to_all = bootstrap.estimate(vote), bootstrap.difference(vote, of_all)
            cost = costs.of(names) if costs is not None else None
            points.append(CurvePoint(name, size, names, score, to_all, np.nan, cost))
    points += _random_points(values, truth, permutations, seed)
    best_single = next(point for point in points if point.order == "best").score.value
    gain = of_all.value - best_single
    shares = [(point.score.value - best_single) / gain if gain > 0 else np.nan for point in points]
    without = {
        member: bootstrap.difference(
            metric(full_total - values[:, index], len(members) - 1),
            of_all,
        )
        for index, member in enumerate(members)
        if len(members) > 1
    }
    return Curves(
        points=tuple(
            replace(point, kept_gain=float(share)) for point, share in zip(points, shares, strict=True)
        ),
        without=holm_corrected(without),
        rows=int(truth.is_scored.sum()),
        primary=truth.primary,
    )


def as_csv(curves: Curves) -> str:
    """Return one line per order and size."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([column.format(score=curves.primary.key) for column in _COLUMNS])
    for point in curves.points:
        to_all, cost = point.to_all, point.cost
        figures = [point.score.value, point.score.low, point.score.high]
        figures += [np.nan] * 3 if to_all is None else [to_all.value, to_all.low, to_all.high]
        seconds = cost.seconds_per_minute if cost is not None else None
        writer.writerow(
            [point.order, point.size]
            + ["" if np.isnan(figure) else f"{figure:.6g}" for figure in [*figures, point.kept_gain]]
            + [len(cost.encoders) if cost is not None else "", "" if seconds is None else f"{seconds:.4g}"]
            + [point.members[-1] if point.members else ""]
        )
    return stream.getvalue()


def as_json(curves: Curves) -> dict[str, Any]:
    """Return everything that was measured, as JSON."""
    content: dict[str, Any] = without_nan(asdict(curves))
    named = {"score": content.pop("primary")["key"]}
    content["points"] = [
        {named.get(key, key): value for key, value in point.items()} for point in content["points"]
    ]
    return content | {"verdict": list(curves.verdict)}


def _random_points(values: Floats, truth: Truth, count: int, seed: int) -> list[CurvePoint]:
    """Return mean and range of the votes of random members, by size; ``values`` is ``(N, M, K)``."""
    values, truth = values[truth.is_scored], truth.take(truth.is_scored)
    num_members = values.shape[1]
    generator = np.random.default_rng(seed)
    scores = np.empty((count, num_members))
    for row in range(count):
        total = np.zeros_like(values[:, 0])
        for index, member in enumerate(generator.permutation(num_members)):
            total += values[:, member]
            scores[row, index] = truth.score(total, total / (index + 1))
    low, high = np.quantile(scores, [0.05, 0.95], axis=0)
    means = scores.mean(axis=0)
    estimates = [Estimate(*map(float, estimate)) for estimate in zip(means, low, high, strict=True)]
    return [
        CurvePoint(RANDOM, size, (), estimate, None, np.nan, None)
        for size, estimate in enumerate(estimates, start=1)
    ]


def _seconds(point: CurvePoint) -> float:
    return (point.cost.seconds_per_minute if point.cost is not None else None) or 0.0


def _cost_beside(point: CurvePoint, full: CurvePoint) -> str:
    if point.cost is None or full.cost is None:
        return ""
    encoders = f"{len(point.cost.encoders)} of {len(full.cost.encoders)} encoders"
    seconds, full_seconds = point.cost.seconds_per_minute, full.cost.seconds_per_minute
    if seconds is None or not full_seconds:
        return f", with {encoders}"
    share = f"{seconds / full_seconds:.0%} of the cost"
    return f", with {encoders} and {share} ({seconds:.2g} s for a minute of speech)"


def _compared(to_all: Difference | None) -> str:
    if to_all is None or np.isnan(to_all.low):
        return "there is no interval from one speaker"
    return f"minus all {to_all.value:+.3f} [{to_all.low:+.3f}, {to_all.high:+.3f}]"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
