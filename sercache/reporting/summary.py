"""The answers on top: what to use, how good that is, how sure it is, and what to beware of."""

import math
from collections.abc import Mapping, Sequence

from sercache.cache.ledger import Failure
from sercache.encoders.random_weights import has_random_weights
from sercache.reporting.blocks import Headline, shown
from sercache.reporting.facts import Facts
from sercache.reporting.subgroups_section import Grouping
from sercache.reporting.wording import duration, interval, listed
from sercache.stacking.baselines import BASELINE
from sercache.stacking.table import REFERENCE

_FEW_SPEAKERS = 10
_NEVER_RIGHT = 0.1
_LARGE_GAP = 0.1
_LARGE_ECE = 0.1


def headlines(facts: Facts, found: Sequence[Grouping]) -> tuple[Headline, ...]:
    """Return the answers."""
    metrics, choice = facts.metrics, facts.choice
    use, words = choice, _what_it_is(choice, has_classes=bool(facts.classes))
    if facts.nothing_above_baseline:
        use = BASELINE
        words = (
            f"A linear model on all features: no meta-level is above it. The choice among those: {choice}."
        )
    score = facts.score(use)
    others = [*facts.main_stackers, *([BASELINE] if facts.has_linear_baseline else [])]
    beside = [f"{name} {facts.score(name).value:.3f}" for name in others if name != use]
    answers = [
        Headline("Use", use if not metrics["is_leaky"] else "none", words, is_accented=True),
        Headline(
            "How good",
            interval(score),
            f"{facts.primary.name} on {metrics['judged_rows']:,} rows of {metrics['speakers']:,} speakers; "
            f"{', '.join(beside)}.",
        ),
    ]
    score_name, prefix = ("F1", "f1:") if facts.classes else ("CCC", "ccc:")
    parts = {name: facts.score(choice, f"{prefix}{name}").value for name in facts.classes or facts.attributes}
    parts = {name: value for name, value in parts.items() if not math.isnan(value)}
    if parts:
        worst = min(parts, key=lambda name: parts[name])
        groups = [
            f"{grouping.name} {group.name} at {group.score.value:.3f}"
            for grouping in found
            if (group := grouping.worst) is not None
        ]
        answers.append(
            Headline(
                "Weakest at",
                f"{shown(worst)}, {score_name} {parts[worst]:.3f}",
                f"Groups: {'; '.join(groups)}." if groups else "",
            )
        )
    cost = _cost(facts)
    if cost:
        answers.append(cost)
    return tuple(answers)


def cautions(
    facts: Facts, found: Sequence[Grouping], failures: Mapping[str, list[Failure]]
) -> tuple[str, ...]:
    """Return what to beware of, the worst first."""
    metrics, choice = facts.metrics, facts.choice
    sentences = []
    if metrics["is_leaky"]:
        sentences.append("Members trained on rows they are scored on here: no score holds for new speakers.")
    if facts.recipe is not None:
        random = [
            name for name, feature in facts.recipe.features.items() if has_random_weights(feature.encoder)
        ]
        if random:
            sentences.append(
                f"Encoders with random weights made {listed(random)}: these results mean nothing."
            )
    if metrics["speakers"] < _FEW_SPEAKERS:
        sentences.append(f"Only {metrics['speakers']} speakers: take every interval as rough.")
    gap = metrics["rows"][choice]["leak_gap"]
    if gap is not None and gap > _LARGE_GAP:
        sentences.append(
            f"{choice} scores {gap:+.2f} higher on the rows it was fitted on: it learned some by heart."
        )
    missed = [shown(name) for name in facts.classes if facts.score(choice, f"f1:{name}").value < _NEVER_RIGHT]
    if missed:
        are = "is" if len(missed) == 1 else "are"
        sentences.append(f"{listed(missed)} {are} hardly ever recognised (F1 below {_NEVER_RIGHT}).")
    ece = facts.score(choice, "ece") if facts.classes else None
    if ece is not None and ece.value > _LARGE_ECE:
        sentences.append(
            f"Its probabilities are not to be taken at their word before calibration (ECE {ece.value:.3f})."
        )
    overall = facts.score(choice).value
    for grouping in found:
        worst = grouping.worst
        if worst is not None and worst.score.high < overall:
            sentences.append(
                f"It is clearly worse for {grouping.name} {worst.name}: {facts.primary.name} "
                f"{interval(worst.score)}."
            )
    failed = sum(map(len, failures.values()))
    if failed:
        sentences.append(f"{failed:,} utterances have no features.")
    return (*sentences, *facts.warnings)


def _what_it_is(name: str, *, has_classes: bool) -> str:
    words = {
        "best-single": "The member that was best on the fitting rows, alone.",
        "soft-vote": "The plain mean of all members' probabilities.",
        "hard-vote": "Each member has one vote.",
        "weighted": "A mean of the members with fitted weights.",
        "greedy": "Members chosen one by one, as long as the vote improves.",
        "logistic": "A logistic regression on the members' probabilities.",
        "neural": "MEDUSA's neural meta-classifier, one run.",
        "soup": "Several runs of the neural meta-classifier, their weights averaged.",
        "lightgbm": "Boosted trees on the members' probabilities.",
    }
    if not has_classes:
        words |= {
            "soft-vote": "The plain mean of all members' values.",
            "logistic": "A ridge regression on the members' values.",
            "lightgbm": "Boosted trees on the members' values.",
        }
    return words.get(name, "")


def _cost(facts: Facts) -> Headline | None:
    curves = facts.metrics.get("curves")
    if not curves:
        return None
    every = [point for point in curves["points"] if point["order"] == "best"]
    cost = every[-1]["cost"] if every else None
    if not cost or cost["seconds_per_minute"] is None:
        return None
    return Headline(
        "What it costs",
        f"{duration(cost['seconds_per_minute'])} a minute",
        f"of speech, to encode for all {every[-1]['size']} members ({len(cost['encoders'])} encoders); the "
        f"{REFERENCE} and its like cost next to nothing on top.",
    )
