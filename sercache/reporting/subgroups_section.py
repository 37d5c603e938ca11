"""For whom it works: the primary score by speaker, gender, duration and ambiguity, and where it is worst."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sercache.corpus.summary import utterance_seconds
from sercache.evaluation.bootstrap import Estimate, SpeakerBootstrap
from sercache.evaluation.metrics import Floats
from sercache.evaluation.primary import PrimaryScore
from sercache.reporting.blocks import Block, Cell, Folded, Section, Table, count, shown
from sercache.reporting.facts import Facts, ScoredRows
from sercache.reporting.wording import interval
from sercache.stacking.base import Prediction

GENDER_COLUMNS = ("gender", "sex")
FEWEST_ROWS = 20
"""Rows that count in the primary score below which a group is not called the worst."""

_SHOWN_SPEAKERS = 24
_SPEAKER_SAMPLES = 500


@dataclass(frozen=True, slots=True)
class Group:
    """Some of the scored rows.

    Attributes:
        name: of the group.
        rows: that count in the primary score.
        speakers: of those.
        score: the primary score, macro-F1 over the classes that occur there; the interval is over speakers,
            of one speaker over clips.
    """

    name: str
    rows: int
    speakers: int
    score: Estimate


@dataclass(frozen=True)
class Grouping:
    """One way to part the rows.

    Attributes:
        name: of the way.
        groups: worst first for speakers, else in their own order.
    """

    name: str
    groups: tuple[Group, ...]

    @property
    def worst(self) -> Group | None:
        """The group with the lowest score, among those with enough rows; None where there are not two."""
        large = [group for group in self.groups if group.rows >= FEWEST_ROWS]
        return min(large, key=lambda group: group.score.value) if len(large) > 1 else None


def groupings(facts: Facts) -> tuple[Grouping, ...]:
    """Split the scored rows in every way that the corpus allows, and score the recommended stacker."""
    scored = facts.scored
    if scored is None or not len(scored.known):
        return ()
    prediction = scored.prediction(facts.choice)
    found = [
        _by_name("gender", scored, prediction, _genders(scored)),
        _by_quantile("duration", scored, prediction, _seconds(scored), "{:.1f} to {:.1f} s"),
        *([_by_ambiguity(scored, prediction)] if facts.classes else []),
        _by_name("speaker", scored, prediction, list(scored.rows.speakers)),
    ]
    return tuple(grouping for grouping in found if len(grouping.groups) > 1)


def subgroups_section(facts: Facts, found: Sequence[Grouping]) -> Section | None:
    """Show the groups; None where the rows cannot be parted."""
    if not found:
        return None
    overall = facts.score(facts.choice)
    sentences = [
        f"by {grouping.name}, {worst.name} ({interval(worst.score)} on {worst.rows:,} rows)"
        for grouping in found
        if (worst := grouping.worst) is not None
    ]
    lead = (
        f"{facts.primary.title} of {facts.choice}, over all {interval(overall)}. "
        + (f"Worst: {'; '.join(sentences)}. " if sentences else "")
        + "Of many groups one is always worst by luck: look at the intervals."
    )
    blocks: list[Block] = []
    for grouping in found:
        table = _table(grouping, overall, facts.primary)
        if grouping.name == "speaker" and len(grouping.groups) > _SHOWN_SPEAKERS:
            half = _SHOWN_SPEAKERS // 2
            ends = Grouping(grouping.name, grouping.groups[:half] + grouping.groups[-half:])
            caption = f"By speaker: the {half} worst and the {half} best of {len(grouping.groups)}"
            blocks += [
                _table(ends, overall, facts.primary, caption),
                Folded(f"All {len(grouping.groups)} speakers", (table,)),
            ]
        else:
            blocks.append(table)
    return Section("groups", "Groups", lead, blocks)


def _table(grouping: Grouping, overall: Estimate, primary: PrimaryScore, caption: str = "") -> Table:
    over = "clips" if grouping.name == "speaker" else "speakers"

    def row(group: Group) -> tuple[Cell, ...]:
        score = group.score
        tone = "bad" if score.high < overall.value else "dim" if group.rows < FEWEST_ROWS else ""
        return (
            Cell(group.name, tone="strong" if group == grouping.worst else ""),
            count(group.rows),
            count(group.speakers),
            Cell(interval(score), score.value, is_number=True, tone=tone),
        )

    return Table(
        f"{caption or f'By {grouping.name}'}; intervals over {over}. Red: wholly below the score over all. "
        f"The worst group of at least {FEWEST_ROWS} rows is bold.",
        (grouping.name, "rows", "speakers", primary.name),
        tuple(row(group) for group in grouping.groups),
    )


def _by_name(name: str, scored: ScoredRows, prediction: Prediction, names: Sequence[str | None]) -> Grouping:
    is_speaker = name == "speaker"
    indices: dict[str, list[int]] = {}
    for index in scored.known.tolist():
        name_of_row = names[index]
        if name_of_row:
            indices.setdefault(name_of_row, []).append(index)
    groups = [
        _group(shown(name_of_row, 40), scored, prediction, np.asarray(rows), over_clips=is_speaker)
        for name_of_row, rows in sorted(indices.items())
    ]
    if is_speaker:
        groups.sort(key=lambda group: group.score.value)
    return Grouping(name, tuple(groups))


def _by_quantile(
    name: str, scored: ScoredRows, prediction: Prediction, values: Floats, words: str
) -> Grouping:
    known = scored.known[~np.isnan(values[scored.known])]
    if not len(known):
        return Grouping(name, ())
    edges = np.unique(np.quantile(values[known], [0, 0.25, 0.5, 0.75, 1]))
    if len(edges) < 3:
        return Grouping(name, ())
    which = np.clip(np.searchsorted(edges, values[known], side="right") - 1, 0, len(edges) - 2)
    return Grouping(
        name,
        tuple(
            _group(words.format(edges[part], edges[part + 1]), scored, prediction, known[which == part])
            for part in range(len(edges) - 1)
            if (which == part).any()
        ),
    )


def _by_ambiguity(scored: ScoredRows, prediction: Prediction) -> Grouping:
    """Part by how much the raters differ: all alike, and two halves of the rest."""
    entropy = vote_entropy(scored.rows.soft_targets)[scored.known]
    differ = entropy > 1e-9
    if not differ.any():
        return Grouping("ambiguity", ())
    middle = float(np.median(entropy[differ]))
    parts = {
        "raters agree": ~differ,
        f"entropy up to {middle:.2f}": differ & (entropy <= middle),
        f"entropy above {middle:.2f}": differ & (entropy > middle),
    }
    return Grouping(
        "ambiguity",
        tuple(
            _group(name, scored, prediction, scored.known[chosen])
            for name, chosen in parts.items()
            if chosen.any()
        ),
    )


def vote_entropy(soft_targets: Floats) -> Floats:
    """Return how much raters differ, ``(N,)``: 0 all agree, 1 they scatter evenly; NaN without votes."""
    classes = soft_targets.shape[1]
    if classes < 2:
        return np.where(np.isnan(soft_targets[:, 0]), np.nan, 0.0)
    logs = np.log(soft_targets, out=np.zeros_like(soft_targets), where=soft_targets > 0)
    return np.asarray(np.abs((soft_targets * logs).sum(axis=1)) / np.log(classes), dtype=np.float64)


def _group(
    name: str,
    scored: ScoredRows,
    prediction: Prediction,
    rows: NDArray[np.int64],
    *,
    over_clips: bool = False,
) -> Group:
    speakers = [scored.rows.speakers[row] for row in rows.tolist()]
    metric = scored.rows.truth.take(rows).metric(
        prediction.class_probabilities[rows], prediction.attribute_values[rows]
    )
    clusters: list[str | None] = [None] * len(rows) if over_clips else speakers
    samples = min(scored.samples, _SPEAKER_SAMPLES) if over_clips else scored.samples
    bootstrap = SpeakerBootstrap(clusters, samples, scored.seed)
    return Group(name, len(rows), len(set(speakers) - {None}), bootstrap.estimate(metric))


def _genders(scored: ScoredRows) -> list[str | None]:
    def of(extras: dict[str, str]) -> str | None:
        by_name = {name.lower(): value for name, value in extras.items()}
        return next((by_name[column].strip() for column in GENDER_COLUMNS if column in by_name), None)

    return [of(dict(row.extras)) for row in scored.rows.corpus.utterances]


def _seconds(scored: ScoredRows) -> Floats:
    corpus = scored.rows.corpus
    return np.asarray([utterance_seconds(corpus, row) for row in corpus.utterances], dtype=np.float64)
