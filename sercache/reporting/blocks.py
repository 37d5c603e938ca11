"""Blocks of a page, with words and numbers for every figure, and their rendering to one HTML file."""

import base64
import hashlib
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import ClassVar

from sercache.errors import ReportError


def shown(text: str, longest: int = 24) -> str:
    """Return a name or text of a corpus as it may be shown: one line, no control characters, not too long.

    >>> shown("a very long name of a class, indeed")
    'a very long name of a c…'
    """
    clean = "".join(letter if unicodedata.category(letter)[0] != "C" else " " for letter in text)
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what is shown.
        order: what the column is sorted by; None: the text.
        is_number: whether it is set like a number.
        tone: ``strong``, ``dim``, ``bad``, or nothing.
    """

    text: str
    order: float | None = None
    is_number: bool = False
    tone: str = ""


def number(value: float | None, decimals: int = 3, sign: str = "", *, tone: str = "") -> Cell:
    """Return a cell of a number; empty where it is not known."""
    if value is None or math.isnan(value):
        return Cell("", is_number=True)
    value = round(value, decimals) + 0.0  # no minus before a zero
    return Cell(f"{value:{sign}.{decimals}f}", value, is_number=True, tone=tone)


def count(value: int) -> Cell:
    """Return a cell of a whole number."""
    return Cell(f"{value:,}", value, is_number=True)


@dataclass(frozen=True)
class Table:
    """Rows and columns; the first cell of a row is its name.

    Attributes:
        caption: what it shows, in words.
        header: of the columns.
        rows: as long as the header.
        is_sortable: whether the reader may sort it.
    """

    kind: ClassVar[str] = "table"
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    is_sortable: bool = True


@dataclass(frozen=True)
class Figure:
    """A plot, and its content as text and table for those who do not see it.

    Attributes:
        svg: the drawing, safe markup.
        title: what it shows.
        description: what can be seen in it, for those who cannot see it.
        numbers: what is drawn, as a table that folds.
        caption: what the reader should know of it.
    """

    svg: str
    title: str
    description: str
    numbers: Table
    caption: str = ""

    def __post_init__(self) -> None:
        if not (self.title and self.description and self.numbers.rows):
            raise ValueError(f"figure '{self.title}' lacks its title, description or numbers")


@dataclass(frozen=True)
class Figures:
    """Figures side by side, where there is room.

    Attributes:
        figures: in order.
        size: ``large``, ``medium`` or ``small``: how many fit beside each other.
    """

    kind: ClassVar[str] = "figures"
    figures: tuple[Figure, ...]
    size: str = "large"


@dataclass(frozen=True)
class Heat:
    """A matrix whose cells are coloured; it is a table, so that its numbers can be read and copied.

    Attributes:
        title: what it shows.
        corner: what rows and columns are.
        columns: names.
        names: of the rows.
        cells: for each row and column ``(share, text, small)``: depth of the colour from 0 to 1, what the
            cell shows, and the small print below it.
        note: below the title.
    """

    title: str
    corner: str
    columns: tuple[str, ...]
    names: tuple[str, ...]
    cells: tuple[tuple[tuple[float, str, str], ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Heats:
    """Matrices side by side."""

    kind: ClassVar[str] = "heats"
    heats: tuple[Heat, ...]


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    kind: ClassVar[str] = "prose"
    text: str
    is_note: bool = False


@dataclass(frozen=True)
class Source:
    """A file as it is written, such as a recipe."""

    kind: ClassVar[str] = "source"
    title: str
    text: str


@dataclass(frozen=True)
class Pairs:
    """Names and what they are."""

    kind: ClassVar[str] = "pairs"
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Folded:
    """Blocks that the reader opens."""

    kind: ClassVar[str] = "folded"
    title: str
    blocks: tuple["Block", ...]


@dataclass(frozen=True, slots=True)
class MapPoint:
    """One utterance on the map: its place from 0 to 1, its name, and its groups, as places in the legends."""

    x: float
    y: float
    label: str
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Colouring:
    """One way to colour the map.

    Attributes:
        name: of the way.
        groups: their names; a group's colour is its place, from 0 to 7, and 8 is grey.
        sizes: how many points each has.
    """

    name: str
    groups: tuple[str, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Map:
    """Utterances in the plane, whose colours the reader chooses."""

    kind: ClassVar[str] = "map"
    title: str
    description: str
    points: tuple[MapPoint, ...]
    colourings: tuple[Colouring, ...]
    numbers: Table
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A class with its shares of votes and of probability, None where there are none.

    Or an attribute with ratings and predictions as shares of its scale; ``words`` then tells
    both, for whom the bar is not seen.
    """

    name: str
    votes: float | None
    predicted: float
    words: str = ""


@dataclass(frozen=True)
class Clip:
    """One utterance to look at and listen to.

    Attributes:
        label: its id.
        facts: short words about it: speaker, truth, prediction.
        text: the transcript; empty where there is none.
        bars: of the classes.
        is_wrong: whether the meta-level is.
        audio: where it plays from; None where the recording is not at hand.
    """

    label: str
    facts: tuple[str, ...]
    text: str
    bars: tuple[Bar, ...]
    is_wrong: bool
    audio: str | None


@dataclass(frozen=True)
class Clips:
    """Utterances to listen to."""

    kind: ClassVar[str] = "clips"
    title: str
    clips: tuple[Clip, ...]


Block = Table | Figures | Heats | Prose | Source | Pairs | Folded | Map | Clips


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        key: its anchor.
        title: short; the contents name it.
        lead: its result, in a sentence or two.
        blocks: what shows it.
    """

    key: str
    title: str
    lead: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Headline:
    """One of the answers on top of a page."""

    question: str
    answer: str
    detail: str = ""
    is_accented: bool = False


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: of the page.
        subtitle: what it is about, in a line.
        headlines: what matters, in plain words.
        verdict: how sure that is, in a sentence or two.
        cautions: what to beware of.
        sections: the parts.
        footer: who made it.
    """

    title: str
    subtitle: str
    headlines: tuple[Headline, ...]
    verdict: tuple[str, ...]
    cautions: tuple[str, ...]
    sections: tuple[Section, ...]
    footer: str


def render(page: Page) -> str:
    """Return the page as HTML.

    All text from a corpus is escaped. The page's policy forbids all connections, and lets only its
    own script run, which it names by its digest.

    Raises:
        ReportError: Jinja is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise ReportError("a report needs Jinja: pip install jinja2") from None
    environment = Environment(
        loader=PackageLoader("sercache.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = _asset("page.js"), _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "media-src 'self' file: data:; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("page.html").render(page=page, script=script, style=style, policy=policy)


def _asset(name: str) -> str:
    return (files("sercache.reporting") / "templates" / name).read_text(encoding="utf-8")
