"""Matplotlib drawings as inline SVG in the page's colours, and the forest plot."""

import hashlib
import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from sercache.errors import ReportError
from sercache.evaluation.bootstrap import Difference, Estimate
from sercache.reporting.blocks import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID, ACCENT, PAPER = (f"#0a0b0{digit}" for digit in range(1, 6))
SERIES = tuple(f"#0a0c0{digit}" for digit in range(8))
"""Eight colours that colour-blind readers can tell apart (Okabe and Ito 2008, yellow darkened)."""

_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    ACCENT: "var(--accent)",
    PAPER: "var(--paper)",
} | {colour: f"var(--c{index})" for index, colour in enumerate(SERIES)}

_POINTS_PER_INCH = 72
_REFERRED = ("path", "clipPath", "rect")
"""Elements that others refer to by their id."""

_LONGEST_WORDS = 2000
_LARGEST = 1.2
"""How far a drawing grows where there is room: its text stays about as large as the page's."""
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sercache",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.linewidth": 0.8,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 11,
    "path.simplify": True,
    "path.simplify_threshold": 0.5,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,
}


class Canvas:
    """A drawing in the making.

    >>> with Canvas(300, 120) as canvas:
    ...     _ = canvas.axes.plot([0, 1], [0, 1], color=ACCENT)
    >>> canvas.svg("A line", "It rises.")[:4]
    '<svg'

    Args:
        width: in CSS pixels.
        height: likewise.
        columns: how many axes stand side by side.
        shares: of the width for each of them.
    """

    def __init__(
        self, width: float, height: float, columns: int = 1, shares: tuple[float, ...] | None = None
    ) -> None:
        matplotlib = _matplotlib()
        from matplotlib.figure import Figure as Drawing

        self._style = matplotlib.rc_context(_STYLE)
        self._style.__enter__()
        try:
            # A point of the drawing is a CSS pixel of the page.
            self.figure: Drawing = Drawing(
                figsize=(width / _POINTS_PER_INCH, height / _POINTS_PER_INCH), layout="constrained"
            )
            grid = {"width_ratios": shares} if shares else None
            made = self.figure.subplots(1, columns, squeeze=False, gridspec_kw=grid)
        except BaseException:
            self._style.__exit__(None, None, None)
            raise
        self.every: list[Axes] = list(made[0])

    def __enter__(self) -> "Canvas":
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            if exception[0] is None:
                stream = io.StringIO()
                with warnings.catch_warnings():
                    # The browser has the letters that matplotlib's font lacks.
                    warnings.filterwarnings("ignore", message="Glyph .* missing")
                    self.figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
                self._drawn = stream.getvalue()
        finally:
            self._style.__exit__(*exception)

    @property
    def axes(self) -> "Axes":
        """The first axes."""
        return self.every[0]

    def svg(self, title: str, description: str) -> str:
        """Return the drawing as inline SVG with its title and description; once the ``with`` has ended."""
        return _inline(self._drawn, title, description)


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise ReportError("a report needs matplotlib: pip install matplotlib") from None
    return matplotlib


def _inline(drawn: str, title: str, description: str) -> str:
    """Return matplotlib's file as an element of a page: no header, own ids, the page's colours and font."""
    root = ElementTree.fromstring(drawn)
    digest = hashlib.sha256(f"{title}{description}{drawn}".encode()).hexdigest()[:8]
    for element in list(root.iter()):
        element.tag = element.tag.rpartition("}")[2]
        for child in list(element):
            if child.tag.endswith(("}metadata", "}style")):
                element.remove(child)
        element.attrib = {
            (local_name := name.rpartition("}")[2]): _of_this_page(local_name, value, digest)
            for name, value in element.attrib.items()
        }
        if element.tag not in _REFERRED:
            element.attrib.pop("id", None)
        elif "id" in element.attrib:
            element.set("id", f"{digest}-{element.attrib['id']}")
        if element.tag != "text":
            element.text = None
        element.tail = None
    view = root.attrib["viewBox"]
    width, height = (f"{float(side):.0f}" for side in view.split()[2:])
    root.attrib = {
        "viewBox": view,
        "width": width,
        "height": height,
        "style": f"max-width: {_LARGEST * float(width):.0f}px",
        "role": "img",
        "aria-labelledby": f"{digest}-t {digest}-d",
    }
    for index, (tag, text, letter) in enumerate((("title", title, "t"), ("desc", description, "d"))):
        words = ElementTree.Element(tag, {"id": f"{digest}-{letter}"})
        words.text = shown(text, _LONGEST_WORDS)
        root.insert(index, words)
    return ElementTree.tostring(root, encoding="unicode")


def _of_this_page(name: str, value: str, digest: str) -> str:
    """Return an attribute in the page's terms."""
    if name == "style":
        for colour, variable in _VARIABLES.items():
            value = value.replace(colour, variable)
        return re.sub(r"font-family: [^;]*(; |$)", "", value)
    if name in ("href", "clip-path"):
        return re.sub(r"^(url\()?#", rf"\g<1>#{digest}-", value)
    return re.sub(r"(\d+\.\d)\d+", r"\1", value).replace("\n", " ").strip()


_WIDTH = 360
_ROW_HEIGHT = 24


def forest(
    rows: Sequence[str],
    scores: Mapping[str, Estimate | Difference],
    title: str,
    description: str,
    *,
    accented: str = "",
    has_zero: bool = False,
) -> str:
    """Return the drawing.

    Args:
        rows: names, from top to bottom.
        scores: of the rows; a row without one is empty.
        title: of the drawing.
        description: of what can be seen.
        accented: the row that is set off.
        has_zero: whether zero is marked, for differences.
    """
    with Canvas(_WIDTH, 46 + _ROW_HEIGHT * len(rows)) as canvas:
        axes = canvas.axes
        if has_zero:
            axes.axvline(0, color=MUTED, linewidth=1)
        for index, name in enumerate(rows):
            if name not in scores or math.isnan(scores[name].value):
                continue
            scored, colour = scores[name], ACCENT if name == accented else INK
            if not math.isnan(scored.low):
                axes.plot([scored.low, scored.high], [index, index], color=colour, linewidth=1.6)
            size = 6.5 if name == accented else 5
            axes.plot([scored.value], [index], "o", color=colour, markersize=size)
        axes.set_yticks(range(len(rows)), [shown(name, 30) for name in rows])
        axes.set_ylim(len(rows) - 0.5, -0.6)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=5)
        for name, text in zip(rows, axes.get_yticklabels(), strict=True):
            text.set_color(ACCENT if name == accented else INK)
            text.set_fontweight("bold" if name == accented else "normal")
    return canvas.svg(title, description)
