"""What a comparison allows one to say, in words: no more than its intervals support."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sercache.evaluation.bootstrap import Difference, Estimate, holm
from sercache.evaluation.primary import MACRO_F1, MEAN_CCC, PrimaryScore
from sercache.stacking.names import META_LEVELS

_FEW_SPEAKERS = 20
"""Simulated 95 % intervals of differences hold the truth in 96 % of corpora of 20 speakers and 94 % of 10."""


_GUESSING = {MACRO_F1: "guessing (UAR", MEAN_CCC: "always giving the mean rating (mean CCC"}


class Recommendation(NamedTuple):
    """Which meta-level to use, and in words how sure that is."""

    stacker: str
    sentence: str


def recommend(
    scores: Mapping[str, Estimate],
    behind: Mapping[str, Difference],
    over_guessing: Difference,
    *,
    speakers: int,
    primary: PrimaryScore = MACRO_F1,
    floor: float = -math.inf,
) -> Recommendation:
    """Say which meta-level to use, and how sure that is.

    Args:
        scores: the primary score of the stackers, without baselines.
        behind: the best one's primary score minus that of each other.
        over_guessing: the best one's unweighted average recall minus that of always naming one class, 1/C.
            (Macro-F1 will not do here: plain guessing has a higher one than naming the most frequent class.)
            With attributes alone, its mean CCC minus that of always giving the mean rating, which is about 0.
        speakers: how many were judged on.
        floor: the linear baseline's score: what is below it is not recommended for being simple.
        primary: what the scores are.
    """
    best = max(scores, key=lambda name: scores[name].value)
    caveat = _caveat(speakers, len(behind))
    if not (over_guessing.is_clear and over_guessing.value > 0):
        return Recommendation(
            best,
            f"Use none of them yet: {best} has the highest {primary.name} ({_estimate(scores[best])}), but "
            f"is not clearly better than {_GUESSING[primary]} {_difference(over_guessing)}).{caveat}",
        )
    others = list(behind)
    if not others:
        alone = f"{best} was compared with nothing else: {primary.name} {_estimate(scores[best])}.{caveat}"
        return Recommendation(best, alone)
    corrected = holm([1.0 if math.isnan(behind[name].p_value) else behind[name].p_value for name in others])
    p_values = dict(zip(others, corrected.tolist(), strict=True))
    level_with = [name for name in others if not (behind[name].is_clear and p_values[name] < 0.05)]
    if not level_with:
        nearest = min(others, key=lambda name: behind[name].value)
        margin = _difference(behind[nearest], p_value=max(p_values.values())) + _corrected(len(others))
        return Recommendation(
            best,
            f"Use {best}: its {primary.name} of {_estimate(scores[best])} is above every other, above "
            f"{nearest} by {margin}.{caveat}",
        )
    level_with.sort(key=_simplicity)
    simplest = min([best, *(name for name in level_with if scores[name].value >= floor)], key=_simplicity)
    is_passed_over = simplest != min([best, *level_with], key=_simplicity)
    kept = " that is not below the linear baseline" if is_passed_over else ""
    lost = sorted(set(others) - set(level_with), key=_simplicity)
    beaten = f" It is clearly above {_listed(lost)}." if lost else ""
    least = min(p_values[name] for name in level_with)
    smallest = f"{_p(least)}{' or more' if least < 1 else ''}{_corrected(len(others))}"
    return Recommendation(
        simplest,
        f"{best} has the highest {primary.name} ({_estimate(scores[best])}) but cannot be told apart from "
        f"{_listed(level_with)} ({smallest}): use the simplest of them{kept}, {simplest}.{beaten}{caveat}",
    )


def oppose(
    first: str,
    second: str,
    difference: Difference,
    comparisons: int = 1,
    primary: PrimaryScore = MACRO_F1,
) -> str:
    """Say whether ``first`` and ``second`` differ in the primary score.

    Args:
        first: the one.
        second: the other.
        difference: its p-value corrected for ``comparisons``.
        comparisons: how many such pairs were looked at.
        primary: the score.
    """
    figures = f"{primary.name} {_difference(difference)}{_corrected(comparisons)}."
    if difference.is_clear:
        word = "is better than" if difference.value > 0 else "is worse than"
        return f"{first} {word} {second}: {figures}"
    return f"{first} and {second} cannot be told apart: {figures}"


def against_baseline(
    choice: str,
    differences: Mapping[str, Difference],
    baseline: Estimate,
    primary: PrimaryScore = MACRO_F1,
) -> str:
    """Say which meta-levels are above the linear baseline.

    Args:
        choice: the recommended one.
        differences: primary score of each minus the baseline's; p-values corrected for their number.
        baseline: its primary score.
        primary: what the scores are.
    """
    what = f"the baseline ({primary.name} {_estimate(baseline)})"
    above = [name for name, difference in differences.items() if difference.is_gain]

    def figures(name: str) -> str:
        return _difference(differences[name]) + _corrected(len(differences))

    if choice in above:
        return f"{choice} is above {what}: {figures(choice)}."
    if above:
        are = "is" if len(above) == 1 else "are"
        return f"{choice} is not above {what}: {figures(choice)}; {_listed(above)} {are}."
    best = max(differences, key=lambda name: differences[name].value)
    enough = f"No meta-level is above {what}: the baseline alone is enough."
    if differences[best].value == differences[best].low == differences[best].high == 0:
        return f"{enough} The best of them, {best}, decides as it does."
    return f"{enough} The best of them, {best}, differs from it by {figures(best)}."


def _caveat(speakers: int, comparisons: int) -> str:
    """Say what few speakers mean: no p-value is below one in all ways to swap sides, 2 ** (1 - speakers)."""
    least = min(1.0, max(comparisons, 1) * 2.0 ** (1 - speakers))
    if speakers > 1 and least >= 0.05:
        return (
            f" With only {speakers} speakers no difference can be clear, however large it is: no p-value can "
            f"be below {least:.3f}{_corrected(comparisons)}."
        )
    return f" Only {speakers} speakers: take the intervals as rough." if speakers < _FEW_SPEAKERS else ""


def _simplicity(name: str) -> tuple[int, str]:
    """Return a key that sorts the simplest first; stackers of other packages come last, by name."""
    built_in = list(META_LEVELS)
    return (built_in.index(name) if name in built_in else len(built_in)), name


def _estimate(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return f"{estimate.value:.3f}, no interval from one speaker"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _difference(difference: Difference, p_value: float | None = None) -> str:
    if math.isnan(difference.low):
        return f"{difference.value:+.3f}, no interval from one speaker"
    p_value = difference.p_value if p_value is None else p_value
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}], {_p(p_value)}"


def _p(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def _corrected(comparisons: int) -> str:
    return f" after Holm's correction for {comparisons} comparisons" if comparisons > 1 else ""


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
