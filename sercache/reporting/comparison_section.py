"""Which meta-level is best: the forest plot and the whole table."""

import math
from collections.abc import Mapping

from sercache.evaluation.bootstrap import Difference
from sercache.recipe import speaker_note
from sercache.reporting.blocks import Block, Cell, Figure, Figures, Prose, Section, Table, number
from sercache.reporting.drawing import forest
from sercache.reporting.facts import Facts
from sercache.reporting.wording import interval, p_value, score_words
from sercache.stacking.baselines import BASELINE


def comparison_section(facts: Facts) -> Section:
    """Show every stacker's score, and its differences to the linear baseline and to the soft vote."""
    metrics = facts.metrics
    figures = [_forest(facts)]
    if facts.has_linear_baseline:
        against = {name: facts.minus_baseline(name) for name in facts.stackers}
        figures.append(_differences(facts, "the linear baseline's", against, "p_to_baseline"))
    against = {name: facts.minus_reference(name) for name in facts.stackers}
    if len(facts.stackers) > 1 and any(against.values()):
        figures.append(_differences(facts, "the soft vote's", against, "p_to_soft_vote"))
    blocks: list[Block] = [Figures(tuple(figures)), _table(facts)]
    if note := speaker_note(metrics.get("normalized_members", ())):
        blocks.append(Prose(note))
    blocks += [Prose(sentence) for sentence in metrics["verdict"][1:]]
    leaning = _leaning(facts)
    if leaning:
        blocks.append(leaning)
    where = (
        "held-out rows of the test split, by stackers fitted on out-of-fold rows"
        if metrics["judged_on"] == "held-out"
        else "every fold in turn, by stackers fitted on the other folds"
    )
    if metrics["repeats"] > 1:
        where += f"; scores are means over {metrics['repeats']} assignments of speakers to folds"
    return Section(
        "comparison",
        "Meta-levels",
        f"{metrics['judged_rows']:,} rows of {metrics['speakers']:,} speakers, {where}. "
        "Intervals: 95 %, over speakers.",
        blocks,
    )


def _forest(facts: Facts) -> Figure:
    linear = [BASELINE] if facts.has_linear_baseline else []
    names = sorted((*facts.stackers, *linear), key=lambda name: -facts.score(name).value)
    scores = {name: facts.score(name) for name in (*names, *facts.guesses)}
    best = names[0]
    title = facts.primary.title
    guessing = ", ".join(f"{name} {scores[name].value:.3f}" for name in facts.guesses)
    description = (
        f"One point and 95 % interval per meta-level, best first: from {best} {interval(scores[best])} to "
        f"{names[-1]} {interval(scores[names[-1]])}. Recommended: {facts.choice}."
        + (f" Guessing: {guessing}." if guessing else "")
    )
    svg = forest(names, scores, title, description, accented=facts.choice)
    numbers = Table(
        f"{title} of every meta-level",
        ("meta-level", facts.primary.name, "low", "high"),
        tuple(
            (Cell(name), number(estimate.value), number(estimate.low), number(estimate.high))
            for name, estimate in scores.items()
        ),
    )
    caption = f"guessing: {guessing}" if guessing else ""
    return Figure(svg, title, description, numbers, caption)


def _differences(facts: Facts, whose: str, found: Mapping[str, Difference | None], p_of: str) -> Figure:
    names = facts.stackers
    differences = {name: difference for name, difference in found.items() if difference is not None}
    above = [name for name, difference in differences.items() if difference.low > 0]
    below = [name for name, difference in differences.items() if difference.high < 0]
    title = f"{facts.primary.title} minus {whose}"
    description = (
        "One point and 95 % interval per meta-level, on the same draws of speakers. Wholly above zero: "
        f"{', '.join(above) or 'none'}. Wholly below: {', '.join(below) or 'none'}."
    )
    svg = forest(names, differences, title, description, accented=facts.choice, has_zero=True)
    numbers = Table(
        f"{title}; p is Holm-corrected",
        ("meta-level", "difference", "low", "high", "p"),
        tuple(
            (
                Cell(name),
                number(difference.value, sign="+"),
                number(difference.low, sign="+"),
                number(difference.high, sign="+"),
                p_value(_corrected(facts, name, p_of)),
            )
            for name, difference in differences.items()
        ),
    )
    return Figure(svg, title, description, numbers)


def _table(facts: Facts) -> Table:
    decimals = {"uar": 3, "weighted_f1": 3} | {f"ccc:{name}": 3 for name in facts.attributes}
    decimals |= {"log_loss": 3, "jsd": 3, "ece": 3, "brier": 3}
    known = facts.metrics["rows"][facts.choice]["scores"]
    decimals = {name: digits for name, digits in decimals.items() if name in known}
    header = ("meta-level", facts.primary.name, *map(score_words, decimals))
    if facts.has_linear_baseline:
        header += ("minus baseline", "p (Holm)")
    header += ("minus soft vote", "p (Holm)", "leak gap", "fit s", "predict s")

    def compared(difference: Difference | None, name: str, p_of: str) -> tuple[Cell, Cell]:
        cell = Cell("", is_number=True)
        if difference is not None:
            cell = Cell(interval(difference, "+"), difference.value, is_number=True)
        return cell, p_value(_corrected(facts, name, p_of))

    def row(name: str) -> tuple[Cell, ...]:
        figures = facts.metrics["rows"][name]
        score = facts.score(name)
        tone = "strong" if name == facts.choice else "dim" if name in facts.guesses else ""
        to_baseline = (
            compared(facts.minus_baseline(name), name, "p_to_baseline") if facts.has_linear_baseline else ()
        )
        return (
            Cell(name, tone=tone),
            Cell(interval(score), score.value, is_number=True, tone=tone),
            *(number(facts.score(name, key).value, digits) for key, digits in decimals.items()),
            *to_baseline,
            *compared(facts.minus_reference(name), name, "p_to_soft_vote"),
            number(figures["leak_gap"], 2, "+"),
            number(figures["fit_seconds"], 2),
            number(figures["predict_seconds"], 2),
        )

    if not facts.classes:
        caption = "All scores. Leak gap: mean CCC on the rows fitted on, minus mean CCC here."
        return Table(caption, header, tuple(row(name) for name in (*facts.stackers, *facts.baselines)))
    return Table(
        "All scores. Log-loss (nats) and JSD (bits) are against the votes, ECE and Brier score against the "
        "consensus class; of these four less is better. Leak gap: macro-F1 on the rows fitted on, minus "
        "macro-F1 here.",
        header,
        tuple(row(name) for name in (*facts.stackers, *facts.baselines)),
    )


def _leaning(facts: Facts) -> Table | None:
    """Show on which members the stackers lean that do not treat them all alike."""
    shares = {name: facts.metrics["rows"][name]["shares"] for name in facts.stackers}
    shares = {
        name: by_member
        for name, by_member in shares.items()
        if by_member and len(set(by_member.values())) > 1
    }
    if not shares:
        return None
    members = facts.metrics["members"]
    return Table(
        "How much each member counts, in per cent: its weight, or its share of the stacker's Shapley values.",
        ("member", *shares),
        tuple(
            (Cell(member), *(number(100 * by_member.get(member, 0.0), 1) for by_member in shares.values()))
            for member in members
        ),
    )


def _corrected(facts: Facts, name: str, p_of: str) -> float:
    found = facts.metrics["rows"][name].get(p_of)
    return math.nan if found is None else float(found)
