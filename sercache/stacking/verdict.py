"""The sentences of a comparison: which meta-level to use, and no more than the intervals support."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sercache.evaluation.bootstrap import Difference, Estimate, holm
from sercache.evaluation.primary import MACRO_F1, MEAN_CCC, PrimaryScore
from sercache.stacking.names import META_LEVELS

_FEW_SPEAKERS = 20
"""Simulated 95 % intervals of differences hold the truth in 96 % of corpora of 20 speakers and 94 % of 10."""

_GUESSING = {MACRO_F1: "guessing (UAR", MEAN_CCC: "always giving the mean rating (mean CCC"}


@dataclass(frozen=True)
class AgainstBaseline:
    """The meta-levels compared with the linear baseline.

    Attributes:
        score: the baseline's primary score.
        differences: primary score of each meta-level minus the baseline's; p-values Holm-corrected over all.
    """

    score: Estimate
    differences: Mapping[str, Difference]

    @property
    def above(self) -> tuple[str, ...]:
        """The meta-levels that are clearly above the baseline."""
        return tuple(name for name, difference in self.differences.items() if difference.is_gain)

    def figures(self, name: str) -> str:
        """Return the difference of a meta-level to the baseline, with interval and p-value."""
        return _difference(self.differences[name]) + _corrected(len(self.differences))


class Recommendation(NamedTuple):
    """The meta-level to use, and the sentences that say so and how sure that is.

    Where the linear baseline alone is enough, the first sentence says to use that; ``stacker`` is then the
    meta-level that comes next.
    """

    stacker: str
    sentences: tuple[str, ...]


def recommend(
    scores: Mapping[str, Estimate],
    behind: Mapping[str, Difference],
    over_guessing: Difference,
    *,
    speakers: int,
    primary: PrimaryScore = MACRO_F1,
    baseline: AgainstBaseline | None = None,
) -> Recommendation:
    """Return which meta-level to use, and the sentences on how sure that is.

    It is the simplest of those that cannot be told apart from the best. With a baseline it is the simplest of
    these that is above it; where none is above it, that is not below it.

    Args:
        scores: the primary score of the stackers, without baselines.
        behind: the primary score of the best stacker minus that of each of the others.
        over_guessing: the best stacker's unweighted average recall minus that of always predicting one class,
            1/C. (Macro-F1 does not serve here: random guessing has a higher one than always predicting the
            most frequent class.) With attributes alone, its mean CCC minus that of always giving the mean
            rating, which is about 0.
        speakers: how many there are in the scored rows.
        primary: which score it is.
        baseline: the comparison with the linear baseline, if there is one.
    """
    best = max(scores, key=lambda name: scores[name].value)
    best_score = f"{primary.name} {_estimate(scores[best])}"
    caveat = _caveat(speakers, len(behind))
    if not over_guessing.is_gain:
        sentence = (
            f"Use none of them yet: {best} has the highest {primary.name} ({_estimate(scores[best])}), but "
            f"is not clearly better than {_GUESSING[primary]} {_difference(over_guessing)}).{caveat}"
        )
        return Recommendation(best, (sentence,))
    p_values = _corrected_p_values(behind)
    rivals = sorted(
        (name for name in behind if not (behind[name].is_clear and p_values[name] < 0.05)), key=_simplicity
    )
    choice, kept = _simplest([best, *rivals], scores, baseline)
    if baseline is not None and not baseline.above:
        enough = _baseline_is_enough(baseline, primary)
        return Recommendation(choice, (enough, _next_best(best, best_score, rivals, choice, kept) + caveat))
    if not behind:
        sentence = f"Use {best}: it was compared with nothing else ({best_score}).{caveat}"
    elif not rivals:
        nearest = min(behind, key=lambda name: behind[name].value)
        margin = _difference(behind[nearest], p_value=max(p_values.values())) + _corrected(len(behind))
        sentence = (
            f"Use {best}: its {primary.name} of {_estimate(scores[best])} is above that of every other "
            f"meta-level; above the nearest, {nearest}, by {margin}.{caveat}"
        )
    else:
        least = min(p_values[name] for name in rivals)
        smallest = (
            f"{_p(least)}{' or more' if least < 1 and len(rivals) > 1 else ''}{_corrected(len(behind))}"
        )
        beaten = sorted(set(behind) - set(rivals), key=_simplicity)
        lead = f" {best} is clearly above {_listed(beaten)}." if beaten else ""
        sentence = (
            f"Use {choice}: {best} has the highest {primary.name} ({_estimate(scores[best])}) but cannot be "
            f"told apart from {_listed(rivals)} ({smallest}), and {choice} is the simplest of them{kept}."
            f"{lead}{caveat}"
        )
    if baseline is None:
        return Recommendation(choice, (sentence,))
    return Recommendation(choice, (sentence, _over_baseline(choice, baseline, primary)))


def compare_pair(
    first: str,
    second: str,
    difference: Difference,
    comparisons: int = 1,
    primary: PrimaryScore = MACRO_F1,
) -> str:
    """Return a sentence on whether ``first`` and ``second`` differ in the primary score.

    Args:
        first: name of what the difference is of.
        second: name of what is subtracted.
        difference: its p-value corrected for ``comparisons``.
        comparisons: how many such pairs were compared.
        primary: the score.
    """
    figures = f"{primary.name} {_difference(difference)}{_corrected(comparisons)}."
    if difference.is_clear:
        word = "is better than" if difference.value > 0 else "is worse than"
        return f"{first} {word} {second}: {figures}"
    return f"{first} and {second} cannot be told apart: {figures}"


def _corrected_p_values(behind: Mapping[str, Difference]) -> dict[str, float]:
    """Return the Holm-corrected p-value of each difference; one that is unknown counts as 1."""
    known = [1.0 if math.isnan(difference.p_value) else difference.p_value for difference in behind.values()]
    return dict(zip(behind, holm(known).tolist(), strict=True))


def _simplest(
    names: Sequence[str], scores: Mapping[str, Estimate], baseline: AgainstBaseline | None
) -> tuple[str, str]:
    """Return the simplest of ``names`` that the baseline allows, and why a simpler one is not it."""
    simplest = min(names, key=_simplicity)
    if baseline is None:
        return simplest, ""
    allowed, kept = [name for name in names if name in baseline.above], " that is above the linear baseline"
    if not allowed:
        allowed = [names[0], *(name for name in names if scores[name].value >= baseline.score.value)]
        kept = " that is not below the linear baseline"
    choice = min(allowed, key=_simplicity)
    return choice, "" if choice == simplest else kept


def _baseline_is_enough(baseline: AgainstBaseline, primary: PrimaryScore) -> str:
    """Return the sentence that recommends the baseline, as nothing is above it."""
    highest = max(baseline.differences, key=lambda name: baseline.differences[name].value)
    difference = baseline.differences[highest]
    is_same = difference.value == difference.low == difference.high == 0
    figures = "scores the same" if is_same else f"differs by {baseline.figures(highest)}"
    return (
        f"Use the linear baseline alone: no meta-level is above its {primary.name} of "
        f"{_estimate(baseline.score)} (the highest, {highest}, {figures})."
    )


def _next_best(best: str, best_score: str, rivals: Sequence[str], choice: str, kept: str) -> str:
    """Return the sentence on the meta-levels where the baseline is the recommendation."""
    if not rivals:
        return f"Of the meta-levels {best} has the highest score ({best_score})."
    return (
        f"Of the meta-levels {best} has the highest score ({best_score}) and cannot be told apart from "
        f"{_listed(rivals)}; the simplest of them{kept} is {choice}."
    )


def _over_baseline(choice: str, baseline: AgainstBaseline, primary: PrimaryScore) -> str:
    """Return the sentence on the recommended meta-level and the baseline, where some are above it."""
    what = f"the baseline ({primary.name} {_estimate(baseline.score)})"
    if choice in baseline.above:
        return f"{choice} is above {what}: {baseline.figures(choice)}."
    are = "is" if len(baseline.above) == 1 else "are"
    return f"{choice} is not above {what}: {baseline.figures(choice)}; {_listed(baseline.above)} {are}."


def _caveat(speakers: int, comparisons: int) -> str:
    """Return a sentence on few speakers; no p-value is below 2 ** (1 - speakers), one in all ways to swap."""
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
