"""How different the members are: an ensemble gains from members that err on other rows."""

import warnings
from collections.abc import Mapping

import numpy as np

from sercache.evaluation.bootstrap import Difference, SpeakerBootstrap, SumMetric, confusion_metric
from sercache.evaluation.metrics import Floats, macro_f1, macro_f1_of_confusion
from sercache.reporting.blocks import Block, Cell, Heat, Heats, Section, Table, number, shown
from sercache.reporting.facts import Facts, Judged
from sercache.reporting.wording import interval, p_value
from sercache.stacking.linear_baseline import BASELINE
from sercache.training.baseline import members_above, with_corrected_p

_NAMED_COLUMNS = 8
_LONGEST_HEADING = 12


def members_section(facts: Facts) -> Section | None:
    """Show disagreement and correlation of members, neighbours beside each other; None for one member."""
    judged = facts.judged
    if judged is None or len(judged.rows.inputs.members) < 2 or not len(judged.known):
        return None
    members = [shown(name, 22) for name in judged.rows.inputs.members]
    apart, alike = disagreement(judged), correlation(judged)
    order = _neighbours(apart)
    pairs = [(first, second) for first in range(len(members)) for second in range(first)]
    nearest = min(pairs, key=lambda pair: apart[pair])
    furthest = max(pairs, key=lambda pair: apart[pair])
    lead = (
        f"{members[nearest[0]]} and {members[nearest[1]]} decide most alike (differently on "
        f"{apart[nearest]:.0%} of rows), {members[furthest[0]]} and {members[furthest[1]]} least "
        f"({apart[furthest]:.0%}). Members that err on other rows are what an ensemble gains from."
    )
    top = max(float(apart.max()), 0.01)
    heats = Heats(
        (
            _heat(
                "Disagreement",
                "Rows that two members decide differently, in per cent.",
                members,
                apart,
                order,
                top,
            ),
            _heat(
                "Correlation",
                "Of the probability that two members give the true class, times 100.",
                members,
                alike,
                order,
                1.0,
            ),
        )
    )
    to_baseline = differences_to_baseline(judged)
    if to_baseline and not facts.metrics["is_leaky"]:
        lead += f" {members_above(to_baseline, facts.score(BASELINE))}"
    blocks: list[Block] = [heats, _table(judged, apart, to_baseline)]
    return Section("members", "Members", lead, blocks)


def disagreement(judged: Judged) -> Floats:
    """Return the share of rows that each pair of members decides differently, ``(M, M)``."""
    decisions = judged.rows.inputs.class_probabilities.argmax(axis=2)
    return np.asarray([(decisions != decisions[:, [one]]).mean(axis=0) for one in range(decisions.shape[1])])


def correlation(judged: Judged) -> Floats:
    """Return the correlation of the probabilities given to the true class, ``(M, M)``; NaN for a constant."""
    known = judged.known
    own = judged.rows.inputs.class_probabilities[known, :, judged.rows.labels[known]]
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.atleast_2d(np.corrcoef(own.T))


def differences_to_baseline(judged: Judged) -> dict[str, Difference]:
    """Return macro-F1 of each member minus the linear baseline's; p-values Holm-corrected over the members.

    Empty where there is no baseline. A member that is the baseline itself is left out.
    """
    if BASELINE not in judged.predictions:
        return {}
    rows, num_classes = judged.rows, len(judged.rows.inputs.classes)
    bootstrap = SpeakerBootstrap(rows.speakers, judged.samples, judged.seed)

    def metric(probabilities: Floats) -> SumMetric:
        return confusion_metric(rows.labels, probabilities.argmax(axis=1), num_classes, macro_f1_of_confusion)

    baseline = judged.probabilities(BASELINE)
    members = {
        name: rows.inputs.class_probabilities[:, place] for place, name in enumerate(rows.inputs.members)
    }
    return with_corrected_p(
        {
            name: bootstrap.difference(metric(probabilities), metric(baseline))
            for name, probabilities in members.items()
            if not np.array_equal(probabilities, baseline)
        }
    )


def _neighbours(apart: Floats) -> list[int]:
    """Return the members in an order that puts those beside each other that decide alike."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(apart) < 3:
        return list(range(len(apart)))
    tree = linkage(squareform((apart + apart.T) / 2, checks=False), "average", optimal_ordering=True)
    return [int(place) for place in leaves_list(tree)]


def _heat(title: str, note: str, members: list[str], values: Floats, order: list[int], top: float) -> Heat:
    names = [members[place] for place in order]
    if len(names) > _NAMED_COLUMNS or max(map(len, names)) > _LONGEST_HEADING:
        columns = [str(place) for place in range(1, len(names) + 1)]
        names = [f"{place} {name}" for place, name in enumerate(names, start=1)]
    else:
        columns = names

    def cell(row: int, column: int) -> tuple[float, str, str]:
        value = float(values[row, column])
        if row == column or np.isnan(value):
            return 0.0, "", ""
        return min(max(value / top, 0.0), 1.0), f"{100 * value:.0f}", ""

    cells = tuple(tuple(cell(row, column) for column in order) for row in order)
    return Heat(title, "", tuple(columns), tuple(names), cells, note)


def _table(judged: Judged, apart: Floats, to_baseline: Mapping[str, Difference]) -> Table:
    known, rows = judged.known, judged.rows
    decisions = rows.inputs.class_probabilities.argmax(axis=2)[known]
    labels = rows.labels[known]
    is_wrong = decisions != labels[:, None]
    others = len(rows.inputs.members) - 1

    def compared(name: str) -> tuple[Cell, ...]:
        if not to_baseline:
            return ()
        if name not in to_baseline:
            return Cell("", is_number=True), Cell("", is_number=True)
        difference = to_baseline[name]
        cell = Cell(interval(difference, "+"), difference.value, is_number=True)
        return cell, p_value(difference.p_value)

    def row(place: int) -> tuple[Cell, ...]:
        alone = ~is_wrong[:, place] & (is_wrong.sum(axis=1) == others)
        name = rows.inputs.members[place]
        return (
            Cell(shown(name, 60)),
            number(macro_f1(labels, decisions[:, place], len(rows.inputs.classes))),
            *compared(name),
            number(100 * float(apart[place].sum()) / others, 1),
            number(100 * float(alone.mean()), 1),
        )

    header: tuple[str, ...] = ()
    baseline: tuple[tuple[Cell, ...], ...] = ()
    if to_baseline:
        header = ("minus baseline", "p (Holm)")
        score = macro_f1(labels, judged.decisions(BASELINE)[known], len(rows.inputs.classes))
        empty = Cell("", is_number=True)
        baseline = ((Cell(BASELINE, tone="dim"), number(score), empty, empty, empty, empty),)
    return Table(
        "Members by themselves, on the judged rows. Disagrees: with the others, on average. Alone right: "
        "rows that only this member decides rightly.",
        ("member", "macro-F1", *header, "disagrees %", "alone right %"),
        (*(row(place) for place in range(len(rows.inputs.members))), *baseline),
    )
