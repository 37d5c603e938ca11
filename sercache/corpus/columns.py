"""The columns of a manifest: from their names to their meaning."""

import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sercache.corpus.utterance import NO_AGREEMENT, OTHER, Attribute
from sercache.errors import CorpusError, did_you_mean

FIELDS = ("id", "audio", "text", "speaker", "split", "start", "end")
VOTES, SECONDARY_VOTES, ATTRIBUTE = "votes:", "votes2:", "attribute:"

ReportProblem = Callable[[str], None]
"""Takes the description of a problem; it raises to stop there, or returns to find the others too."""

_ATTRIBUTE_PATTERN = re.compile(r"attribute:(?P<name>[^\[\]]+)\[(?P<low>[^\[\]]+?)\.\.(?P<high>[^\[\]]+)\]")
_NEAR_MISS = re.compile(r"\s*(?P<prefix>[A-Za-z]+\d?)\s*[:=](?P<rest>.*)")


@dataclass(frozen=True)
class Columns:
    """The positions of a table's columns, by meaning.

    ``fields`` maps each of :data:`FIELDS` that the table has; ``votes`` follow ``classes``,
    ``attribute_cells`` follow ``attributes``; ``secondary`` pairs the index of a class with the position of
    its column.
    """

    width: int
    fields: dict[str, int]
    classes: tuple[str, ...]
    votes: tuple[int, ...]
    secondary: tuple[tuple[int, int], ...]
    other: int | None
    attributes: tuple[Attribute, ...]
    attribute_cells: tuple[int, ...]
    extras: tuple[tuple[str, int], ...]


def parse_header(header: Sequence[str], report_problem: ReportProblem) -> Columns:
    """Return the meaning of every column; a column that manifests do not define is an extra."""
    for name, times in Counter(header).items():
        if times > 1:
            report_problem(
                f"column '{name}' comes {times} times" if name else f"{times} columns have no name"
            )
    fields: dict[str, int] = {}
    votes: dict[str, int] = {}
    secondary: dict[str, int] = {}
    attributes: dict[Attribute, int] = {}
    extras: dict[str, int] = {}
    for position, name in enumerate(header):
        if name in FIELDS:
            fields[name] = position
        elif name.startswith(VOTES):
            votes[name.removeprefix(VOTES)] = position
        elif name.startswith(SECONDARY_VOTES):
            secondary[name.removeprefix(SECONDARY_VOTES)] = position
        elif name.startswith(ATTRIBUTE):
            try:
                attributes[parse_attribute(name)] = position
            except CorpusError as error:
                report_problem(str(error))
        elif near := _near_miss(name):
            report_problem(f"column '{name}' is not known. Did you mean '{near}'?")
        elif name:
            extras[name] = position
    _require(fields, report_problem)
    other = votes.pop(OTHER, None)
    for name in votes:
        if name in ("", NO_AGREEMENT):
            report_problem(
                f"column '{VOTES}{name}' names no class; no agreement follows from the votes themselves"
            )
    classes = tuple(votes)
    for name in secondary:
        if name not in votes:
            known = ", ".join(classes)
            report_problem(
                f"column '{SECONDARY_VOTES}{name}': unknown class '{name}' (classes: {known})."
                f"{did_you_mean(name, classes)}"
            )
    for name, times in Counter(attribute.name for attribute in attributes).items():
        if times > 1:
            report_problem(f"attribute '{name}' has {times} columns")
    return Columns(
        width=len(header),
        fields=fields,
        classes=classes,
        votes=tuple(votes.values()),
        secondary=tuple((classes.index(name), cell) for name, cell in secondary.items() if name in votes),
        other=other,
        attributes=tuple(attributes),
        attribute_cells=tuple(attributes.values()),
        extras=tuple(extras.items()),
    )


def attribute_column(attribute: Attribute) -> str:
    """Return the name of an attribute's column.

    >>> attribute_column(Attribute("arousal", 1.0, 7.0))
    'attribute:arousal[1..7]'
    """
    return f"{ATTRIBUTE}{attribute.name}[{format_number(attribute.low)}..{format_number(attribute.high)}]"


def parse_attribute(column: str) -> Attribute:
    """Return the attribute that a column's name declares.

    >>> parse_attribute("attribute:arousal[1..7]")
    Attribute(name='arousal', low=1.0, high=7.0)

    Raises:
        CorpusError: the name is not of that form, or the range is not one.
    """
    match = _ATTRIBUTE_PATTERN.fullmatch(column)
    if match:
        try:
            low, high = float(match["low"]), float(match["high"])
        except ValueError:
            pass
        else:
            if math.isfinite(low) and math.isfinite(high) and low < high:
                return Attribute(match["name"], low, high)
    raise CorpusError(f"column '{column}' must give its range, lowest first, like 'attribute:arousal[1..7]'")


def format_number(value: float) -> str:
    """Return the shortest text that reads back to exactly ``value``: ``3`` rather than ``3.0``.

    >>> format_number(3.0), format_number(0.1), format_number(-0.0)
    ('3', '0.1', '-0')
    """
    value = float(value)
    if value.is_integer() and abs(value) < 1e15:
        return "-0" if value == 0 and math.copysign(1, value) < 0 else str(int(value))
    return repr(value)


def _require(fields: dict[str, int], report_problem: ReportProblem) -> None:
    if "id" not in fields:
        report_problem(
            "there is no column 'id'; a table of another make is read by: sercache corpus import csv"
        )
    if not {"audio", "text"} & set(fields):
        report_problem("there is neither a column 'audio' nor a column 'text'")


def _near_miss(name: str) -> str | None:
    """Return what a column like ``Vote: Happy`` was probably meant to be; extras are not of that form."""
    match = _NEAR_MISS.fullmatch(name)
    if not match:
        return None
    prefixes = [prefix.removesuffix(":") for prefix in (VOTES, SECONDARY_VOTES, ATTRIBUTE)]
    nearest = difflib.get_close_matches(match["prefix"].lower(), prefixes, n=1, cutoff=0.75)
    return f"{nearest[0]}:{match['rest'].strip()}" if nearest else None
