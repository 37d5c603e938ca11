"""The forest plot: a point and an interval per row."""

import math
from collections.abc import Mapping, Sequence

from sercache.evaluation.bootstrap import Difference, Estimate
from sercache.reporting.blocks import shown
from sercache.reporting.drawing import ACCENT, INK, MUTED, Canvas

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
        for place, name in enumerate(rows):
            if name not in scores or math.isnan(scores[name].value):
                continue
            scored, colour = scores[name], ACCENT if name == accented else INK
            if not math.isnan(scored.low):
                axes.plot([scored.low, scored.high], [place, place], color=colour, linewidth=1.6)
            size = 6.5 if name == accented else 5
            axes.plot([scored.value], [place], "o", color=colour, markersize=size)
        axes.set_yticks(range(len(rows)), [shown(name, 30) for name in rows])
        axes.set_ylim(len(rows) - 0.5, -0.6)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=5)
        for name, text in zip(rows, axes.get_yticklabels(), strict=True):
            text.set_color(ACCENT if name == accented else INK)
            text.set_fontweight("bold" if name == accented else "normal")
    return canvas.svg(title, description)
