"""The page of a comparison of runs."""

import math

from sercache._version import __version__
from sercache.evaluation.primary import MACRO_F1
from sercache.reporting.blocks import (
    Block,
    Cell,
    Figure,
    Figures,
    Headline,
    Page,
    Prose,
    Section,
    Table,
    number,
    shown,
)
from sercache.reporting.drawing import forest
from sercache.reporting.run_comparison import RECOMMENDED, RunComparison
from sercache.reporting.wording import interval, listed, p_value, score_words


def comparison_page(comparison: RunComparison) -> Page:
    """Return the page: what differs, and what it did."""
    first, *others = comparison.runs
    key = comparison.primary.key
    best = max(comparison.of(RECOMMENDED), key=lambda entry: entry.scores[key].value)
    answers = [
        Headline(
            shown(entry.run, 60),
            interval(entry.scores[key]),
            f"{entry.stacker}"
            + (
                f"; {interval(entry.differences[key], '+')} against {shown(first, 60)}"
                if entry.differences
                else ""
            ),
            is_accented=entry is best,
        )
        for entry in comparison.of(RECOMMENDED)
    ]
    return Page(
        title=f"{shown(first, 40)} and {listed([shown(name, 40) for name in others])}",
        subtitle=f"{comparison.rows:,} shared rows of {comparison.speakers:,} speakers; "
        f"highest: {shown(best.run, 40)}",
        headlines=tuple(answers),
        verdict=comparison.verdict,
        cautions=comparison.notes,
        sections=(_scores(comparison), _settings(comparison)),
        footer=f"Made by sercache {__version__}. One file, no network.",
    )


def _scores(comparison: RunComparison) -> Section:
    blocks: list[Block] = []
    primary, key = comparison.primary, comparison.primary.key
    scores, differences = {}, {}
    rows = []
    for entry in comparison.entries:
        row = f"{entry.run}: {entry.kind}"
        rows.append(row)
        scores[row] = entry.scores[key]
        if entry.differences:
            differences[row] = entry.differences[key]
    title = primary.title
    description = "; ".join(f"{row} {interval(estimate)}" for row, estimate in scores.items()) + "."
    table = Table(
        f"{primary.title} on the shared rows",
        ("run", primary.name, "low", "high"),
        tuple(
            (Cell(row), number(estimate.value), number(estimate.low), number(estimate.high))
            for row, estimate in scores.items()
        ),
    )
    figures = [Figure(forest(rows, scores, title, description), title, description, table)]
    title = f"Minus {shown(comparison.runs[0], 40)}'s of the same kind"
    description = "; ".join(f"{row} {interval(estimate, '+')}" for row, estimate in differences.items()) + "."
    table = Table(
        f"{title}; p is Holm-corrected",
        ("run", "difference", "low", "high", "p"),
        tuple(
            (
                Cell(f"{entry.run}: {entry.kind}"),
                *(number(getattr(estimate, part), sign="+") for part in ("value", "low", "high")),
                p_value(entry.p_value),
            )
            for entry in comparison.entries
            if entry.differences and (estimate := entry.differences[key])
        ),
    )
    kept = [row for row in rows if row in differences]
    figures.append(
        Figure(forest(kept, differences, title, description, has_zero=True), title, description, table)
    )
    blocks.append(Figures(tuple(figures)))
    names = [name for name in comparison.entries[0].scores if name != key]
    blocks.append(
        Table(
            "All scores; in brackets the difference to the first run. "
            + ("Of log-loss, JSD, ECE and Brier score less is better. " if primary == MACRO_F1 else "")
            + "* recommended.",
            ("run", "meta-level", primary.name, "minus its baseline", *map(score_words, names)),
            tuple(
                (
                    Cell(shown(entry.run, 60)),
                    Cell(f"{entry.stacker} *" if entry.kind == RECOMMENDED else entry.stacker),
                    Cell(interval(entry.scores[key]), entry.scores[key].value, is_number=True),
                    Cell("", is_number=True)
                    if entry.to_baseline is None
                    else Cell(interval(entry.to_baseline, "+"), entry.to_baseline.value, is_number=True),
                    *(
                        _with_difference(entry.scores[name].value, entry.differences.get(name))
                        for name in names
                    ),
                )
                for entry in comparison.entries
            ),
        )
    )
    return Section("scores", "Scores", "95 % intervals over speakers; the same draws for all runs.", blocks)


def _with_difference(value: float, difference: object) -> Cell:
    if math.isnan(value):
        return Cell("", is_number=True)
    change = getattr(difference, "value", math.nan)
    text = f"{value:.3f}" if math.isnan(change) else f"{value:.3f} ({change:+.3f})"
    return Cell(text, value, is_number=True)


def _settings(comparison: RunComparison) -> Section:
    blocks: list[Block] = []
    header = ("key", *(shown(name, 40) for name in comparison.runs))
    for caption, found in (
        ("Recipes", comparison.recipe_differences),
        ("What the runs found and used", comparison.setting_differences),
    ):
        if found:
            rows = tuple(
                (Cell(difference.key), *(Cell(shown(value, 120)) for value in difference.values))
                for difference in found
            )
            blocks.append(Table(caption, header, rows, is_sortable=False))
    if not comparison.recipe_differences:
        blocks.append(Prose("The recipes do not differ, or are not at hand.", is_note=True))
    return Section(
        "differences",
        "What differs",
        f"{len(comparison.recipe_differences)} keys of the resolved recipes; where they lie does not count.",
        blocks,
    )
