"""Numbers in words and cells, the same on every part of a page."""

import math

from sercache.evaluation.bootstrap import Difference, Estimate
from sercache.reporting.blocks import Cell


def interval(scored: Estimate | Difference, sign: str = "", decimals: int = 3) -> str:
    """Return a score with its interval.

    >>> interval(Estimate(0.5, 0.4, 0.6)), interval(Estimate(0.5, math.nan, math.nan))
    ('0.500 [0.400, 0.600]', '0.500')
    """
    if math.isnan(scored.value):
        return "unknown"
    value = f"{scored.value:{sign}.{decimals}f}"
    if math.isnan(scored.low):
        return value
    return f"{value} [{scored.low:{sign}.{decimals}f}, {scored.high:{sign}.{decimals}f}]"


_SCORES = {
    "mean_ccc": "mean CCC",
    "macro_f1": "macro-F1",
    "uar": "UAR",
    "weighted_f1": "weighted F1",
    "log_loss": "log-loss",
    "jsd": "JSD",
    "ece": "ECE",
    "brier": "Brier",
}


def score_words(name: str) -> str:
    """Return what a score is called on a page.

    >>> score_words("log_loss"), score_words("ccc:arousal")
    ('log-loss', 'CCC arousal')
    """
    return _SCORES.get(name, name.replace("ccc:", "CCC ", 1))


def p_value(value: float) -> Cell:
    """Return a p-value's cell."""
    if math.isnan(value):
        return Cell("", is_number=True)
    return Cell("< 0.001" if value < 0.001 else f"{value:.3f}", value, is_number=True)


def duration(seconds: float) -> str:
    """Return a length of time in the units that people use.

    >>> duration(0.25), duration(75), duration(7300)
    ('0.25 s', '1 min 15 s', '2 h 1 min')
    """
    if math.isnan(seconds):
        return "unknown"
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {round(seconds) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(count_bytes: float) -> str:
    """Return a size on disk.

    >>> size(2_500_000)
    '2.5 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count_bytes < 1000:
            return f"{count_bytes:.3g} {unit}"
        count_bytes /= 1000
    return f"{count_bytes:.3g} TB"


def listed(names: list[str] | tuple[str, ...], most: int = 5) -> str:
    """Return names as a list in a sentence.

    >>> listed(["a", "b", "c"]), listed(["a", "b", "c"], most=1)
    ('a, b and c', 'a and 2 more')
    """
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"
