"""Parse the cells of a row to an utterance, for reading and for checking alike."""

import math
from collections.abc import Sequence

from sercache.corpus.columns import Columns, ReportProblem
from sercache.corpus.utterance import SPLITS, Split, Utterance
from sercache.errors import did_you_mean

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "development": "development",
    "dev": "development",
    "validation": "development",
    "val": "development",
    "valid": "development",
    "test": "test",
    "testing": "test",
}
"""How corpora spell their splits; case does not matter."""


def parse_row(cells: Sequence[str], columns: Columns, report_problem: ReportProblem) -> Utterance:
    """Return the utterance that ``cells`` describe; a cell with a problem counts as missing."""
    if len(cells) != columns.width:
        report_problem(f"{len(cells)} cells where the header has {columns.width}")
        cells = [*cells, *[""] * columns.width][: columns.width]
    fields = {name: cells[position] for name, position in columns.fields.items()}
    utterance_id = fields.get("id", "")
    if not utterance_id.strip():
        report_problem("the id is empty")
    elif "\0" in utterance_id:
        report_problem("the id holds a NUL character, at which other programs would cut it off")
    start = _seconds(fields.get("start", ""), "start", report_problem)
    end = _seconds(fields.get("end", ""), "end", report_problem)
    if start is not None and end is not None and start >= end:
        report_problem(f"start {start:g} s is not before end {end:g} s")
    votes = _votes([cells[position] for position in columns.votes], columns.classes, report_problem)
    other = _votes([cells[columns.other]], ("O",), report_problem)[0] if columns.other is not None else 0.0
    return Utterance(
        id=utterance_id,
        audio=fields.get("audio") or None,
        text=fields.get("text") or None,
        speaker=fields.get("speaker") or None,
        split=parse_split(fields.get("split", ""), report_problem),
        start_seconds=start,
        end_seconds=end,
        votes=votes,
        secondary_votes=_secondary_votes(cells, columns, report_problem),
        other_votes=other,
        attributes=tuple(
            _number(cells[position], f"{attribute.name} value", report_problem)
            for attribute, position in zip(columns.attributes, columns.attribute_cells, strict=True)
        ),
        extras={name: cells[position] for name, position in columns.extras if cells[position]},
    )


def has_votes(cells: Sequence[str], columns: Columns) -> bool:
    """Return whether any cell for votes is filled in; a row of empty ones was never shown to raters."""
    positions = [*columns.votes, *(position for _, position in columns.secondary)]
    if columns.other is not None:
        positions.append(columns.other)
    return any(position < len(cells) and cells[position].strip() for position in positions)


def parse_split(text: str, report_problem: ReportProblem) -> Split | None:
    """Return the split that ``text`` names in any of the usual spellings, None where it is empty."""
    name = text.strip().lower()
    if name and name not in SPLIT_NAMES:
        hint = did_you_mean(name, SPLIT_NAMES)
        report_problem(f"unknown split '{text}' (splits: {', '.join(SPLITS)}).{hint}")
    return SPLIT_NAMES.get(name)


def _seconds(cell: str, name: str, report_problem: ReportProblem) -> float | None:
    value = _number(cell, name, report_problem)
    if value < 0:
        report_problem(f"{name} {value:g} s lies before the recording")
    return None if math.isnan(value) else value


def _secondary_votes(
    cells: Sequence[str], columns: Columns, report_problem: ReportProblem
) -> tuple[float, ...]:
    if not any(cells[position] for _, position in columns.secondary):
        return ()
    by_class = [""] * len(columns.classes)
    for index, position in columns.secondary:
        by_class[index] = cells[position]
    return _votes(by_class, columns.classes, report_problem)


def _votes(cells: Sequence[str], names: Sequence[str], report_problem: ReportProblem) -> tuple[float, ...]:
    """Return numbers of votes; an empty cell is none."""
    try:
        votes = tuple([float(cell) if cell else 0.0 for cell in cells])
        if not votes or (min(votes) >= 0 and math.isfinite(sum(votes))):
            return votes
    except ValueError:
        pass
    return tuple(_vote(cell, name, report_problem) for cell, name in zip(cells, names, strict=True))


def _vote(cell: str, name: str, report_problem: ReportProblem) -> float:
    value = _number(cell, f"number of votes for '{name}'", report_problem)
    if value < 0:
        report_problem(f"{value:g} votes for '{name}': votes cannot be negative")
    return value if value >= 0 else 0.0


def _number(cell: str, name: str, report_problem: ReportProblem) -> float:
    """Return the number in a cell, NaN where it is empty."""
    if not cell.strip():
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        report_problem(f"{name} '{cell}' is not a number")
        return math.nan
    return value
