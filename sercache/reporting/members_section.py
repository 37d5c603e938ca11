"""How different the members are: an ensemble gains from members that err on other rows."""

import warnings
from collections.abc import Mapping

import numpy as np

from sercache.evaluation.bootstrap import Difference, SpeakerBootstrap, holm_corrected
from sercache.evaluation.metrics import Floats, ccc, macro_f1, mean_ccc
from sercache.reporting.blocks import Block, Cell, Heat, Heats, Section, Table, number, shown
from sercache.reporting.facts import Facts, ScoredRows
from sercache.reporting.wording import interval, p_value
from sercache.stacking.baselines import BASELINE
from sercache.stacking.rows import scaled_to_ranges
from sercache.training.baseline import members_above

_NAMED_COLUMNS = 8
_LONGEST_HEADING = 12


def members_section(facts: Facts) -> Section | None:
    """Show disagreement and correlation of members, neighbours beside each other; None for one member."""
    scored = facts.scored
    if scored is None or len(scored.rows.inputs.members) < 2 or not len(scored.known):
        return None
    members = [shown(name, 22) for name in scored.rows.inputs.members]
    apart, alike = disagreement(scored), correlation(scored)
    order = _neighbours(apart)
    pairs = [(first, second) for first in range(len(members)) for second in range(first)]
    nearest = min(pairs, key=lambda pair: apart[pair])
    furthest = max(pairs, key=lambda pair: apart[pair])
    lead = (
        f"{members[nearest[0]]} and {members[nearest[1]]} decide most alike (differently on "
        f"{apart[nearest]:.0%} of rows), {members[furthest[0]]} and {members[furthest[1]]} least "
        f"({apart[furthest]:.0%}). Members that err on other rows are what an ensemble gains from."
    )
    notes = (
        "Rows that two members decide differently, in per cent.",
        "Of the probability that two members give the true class, times 100.",
    )
    if not facts.classes:
        lead = (
            f"{members[nearest[0]]} and {members[nearest[1]]} are nearest to each other "
            f"({apart[nearest]:.1%} of the scale apart on average), {members[furthest[0]]} and "
            f"{members[furthest[1]]} furthest ({apart[furthest]:.1%}). Members that err on other rows are "
            "what an ensemble gains from."
        )
        notes = (
            "Mean distance between the values of two members, in per cent of the scale.",
            "Of the values of two members, averaged over attributes, times 100.",
        )
    top = max(float(apart.max()), 0.01)
    heats = Heats(
        (
            _heat(
                "Disagreement",
                notes[0],
                members,
                apart,
                order,
                top,
            ),
            _heat(
                "Correlation",
                notes[1],
                members,
                alike,
                order,
                1.0,
            ),
        )
    )
    to_baseline = differences_to_baseline(scored)
    if to_baseline and not facts.metrics["is_leaky"]:
        lead += f" {members_above(to_baseline, facts.score(BASELINE), facts.primary)}"
    table = _table if facts.classes else _attributes_table
    blocks: list[Block] = [heats, table(scored, apart, to_baseline)]
    return Section("members", "Members", lead, blocks)


def disagreement(scored: ScoredRows) -> Floats:
    """Return the share of rows that each pair of members decides differently, ``(M, M)``.

    With attributes alone, their mean distance as a share of the scale.
    """
    inputs = scored.rows.inputs
    if not inputs.classes:
        scaled = scaled_to_ranges(inputs.attribute_values, inputs)  # (N, M, A)
        return np.asarray(
            [np.abs(scaled - scaled[:, [member]]).mean(axis=(0, 2)) for member in range(scaled.shape[1])]
        )
    decisions = scored.rows.inputs.class_probabilities.argmax(axis=2)
    return np.asarray(
        [(decisions != decisions[:, [member]]).mean(axis=0) for member in range(decisions.shape[1])]
    )


def correlation(scored: ScoredRows) -> Floats:
    """Return the correlation of the probabilities given to the true class, ``(M, M)``; NaN for a constant.

    With attributes alone, the mean correlation of their values over attributes.
    """
    known, inputs = scored.known, scored.rows.inputs
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        if not inputs.classes:
            by_attribute = [
                np.atleast_2d(np.corrcoef(values.T)) for values in np.moveaxis(inputs.attribute_values, 2, 0)
            ]
            return np.asarray(np.mean(by_attribute, axis=0))
        of_truth = inputs.class_probabilities[known, :, scored.rows.labels[known]]
        return np.atleast_2d(np.corrcoef(of_truth.T))


def differences_to_baseline(scored: ScoredRows) -> dict[str, Difference]:
    """Return each member's primary score minus the linear baseline's; p-values are Holm-corrected.

    Empty where there is no baseline. A member that is the baseline itself is left out.
    """
    if BASELINE not in scored.predictions:
        return {}
    inputs, truth = scored.rows.inputs, scored.rows.truth
    bootstrap = SpeakerBootstrap(scored.rows.speakers, scored.samples, scored.seed)
    prediction = scored.prediction(BASELINE)
    baseline = (prediction.class_probabilities, prediction.attribute_values)  # (N, C), (N, A)
    members = {
        name: (inputs.class_probabilities[:, index], inputs.attribute_values[:, index])
        for index, name in enumerate(inputs.members)
    }
    return holm_corrected(
        {
            name: bootstrap.difference(truth.metric(*predicted), truth.metric(*baseline))
            for name, predicted in members.items()
            if not all(map(np.array_equal, predicted, baseline))
        }
    )


def _neighbours(apart: Floats) -> list[int]:
    """Return the members in an order that puts those beside each other that decide alike."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(apart) < 3:
        return list(range(len(apart)))
    tree = linkage(squareform((apart + apart.T) / 2, checks=False), "average", optimal_ordering=True)
    return [int(index) for index in leaves_list(tree)]


def _heat(title: str, note: str, members: list[str], values: Floats, order: list[int], top: float) -> Heat:
    names = [members[index] for index in order]
    if len(names) > _NAMED_COLUMNS or max(map(len, names)) > _LONGEST_HEADING:
        columns = [str(index) for index in range(1, len(names) + 1)]
        names = [f"{index} {name}" for index, name in enumerate(names, start=1)]
    else:
        columns = names

    def cell(row: int, column: int) -> tuple[float, str, str]:
        value = float(values[row, column])
        if row == column or np.isnan(value):
            return 0.0, "", ""
        return min(max(value / top, 0.0), 1.0), f"{100 * value:.0f}", ""

    cells = tuple(tuple(cell(row, column) for column in order) for row in order)
    return Heat(title, "", tuple(columns), tuple(names), cells, note)


def _attributes_table(scored: ScoredRows, apart: Floats, to_baseline: Mapping[str, Difference]) -> Table:
    inputs, truth = scored.rows.inputs, scored.rows.attribute_targets

    def scores(values: Floats) -> tuple[Cell, ...]:
        """Return the cells of predictions ``(N, A)``."""
        by_attribute = [ccc(*pair) for pair in zip(truth.T, values.T, strict=True)]
        return number(mean_ccc(truth, values)), *(number(value) for value in by_attribute)

    def row(index: int) -> tuple[Cell, ...]:
        name = inputs.members[index]
        return (
            Cell(shown(name, 60)),
            *scores(inputs.attribute_values[:, index]),
            *_compared(name, to_baseline),
            number(100 * float(apart[index].sum()) / (len(inputs.members) - 1), 1),
        )

    header: tuple[str, ...] = ()
    baseline: tuple[tuple[Cell, ...], ...] = ()
    if to_baseline:
        header = ("minus baseline", "p (Holm)")
        values = scored.prediction(BASELINE).attribute_values
        baseline = ((Cell(BASELINE, tone="dim"), *scores(values), *(Cell("", is_number=True),) * 3),)
    names = [f"CCC {shown(attribute.name, 20)}" for attribute in inputs.attributes]
    return Table(
        "Members by themselves, on the scored rows. Apart: from the others, on average, in per cent of the "
        "scale.",
        ("member", "mean CCC", *names, *header, "apart %"),
        (*(row(index) for index in range(len(inputs.members))), *baseline),
    )


def _compared(name: str, to_baseline: Mapping[str, Difference]) -> tuple[Cell, ...]:
    """Return the cells of a member's difference to the baseline: none without one, empty for itself."""
    if not to_baseline:
        return ()
    if name not in to_baseline:
        return Cell("", is_number=True), Cell("", is_number=True)
    difference = to_baseline[name]
    cell = Cell(interval(difference, "+"), difference.value, is_number=True)
    return cell, p_value(difference.p_value)


def _table(scored: ScoredRows, apart: Floats, to_baseline: Mapping[str, Difference]) -> Table:
    known, rows = scored.known, scored.rows
    decisions = rows.inputs.class_probabilities.argmax(axis=2)[known]
    labels = rows.labels[known]
    is_wrong = decisions != labels[:, None]
    others = len(rows.inputs.members) - 1

    def row(index: int) -> tuple[Cell, ...]:
        alone = ~is_wrong[:, index] & (is_wrong.sum(axis=1) == others)
        name = rows.inputs.members[index]
        return (
            Cell(shown(name, 60)),
            number(macro_f1(labels, decisions[:, index], len(rows.inputs.classes))),
            *_compared(name, to_baseline),
            number(100 * float(apart[index].sum()) / others, 1),
            number(100 * float(alone.mean()), 1),
        )

    header: tuple[str, ...] = ()
    baseline: tuple[tuple[Cell, ...], ...] = ()
    if to_baseline:
        header = ("minus baseline", "p (Holm)")
        score = macro_f1(labels, scored.decisions(BASELINE)[known], len(rows.inputs.classes))
        empty = Cell("", is_number=True)
        baseline = ((Cell(BASELINE, tone="dim"), number(score), empty, empty, empty, empty),)
    return Table(
        "Members by themselves, on the scored rows. Disagrees: with the others, on average. Alone right: "
        "rows that only this member decides rightly.",
        ("member", "macro-F1", *header, "disagrees %", "alone right %"),
        (*(row(index) for index in range(len(rows.inputs.members))), *baseline),
    )
