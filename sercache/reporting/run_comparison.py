"""Runs against each other: what differs in their recipes, and what it did, on the rows that they share."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sercache.errors import ReportError
from sercache.evaluation.bootstrap import (
    Difference,
    Estimate,
    SpeakerBootstrap,
    SumMetric,
    holm,
    holm_corrected,
    mean_over,
)
from sercache.evaluation.primary import PrimaryScore, primary_in
from sercache.events import Event, Listener, ignore
from sercache.files import without_nan
from sercache.posteriors import Posteriors
from sercache.reporting.facts import Facts, ScoredRows, read_facts
from sercache.reporting.recipe_differences import KeyDifference, differing, recipe_differences
from sercache.reporting.wording import interval, listed
from sercache.run import Run
from sercache.stacking.base import Prediction
from sercache.stacking.baselines import BASELINE
from sercache.stacking.rows import StackingRows, columns_in_order
from sercache.stacking.table import REFERENCE, scores_of

RECOMMENDED = "recommended"
_OTHER_KINDS = (REFERENCE, "best-single", BASELINE)


@dataclass(frozen=True)
class Entry:
    """One stacker of one run.

    Attributes:
        run: name of the run.
        kind: ``recommended``, ``soft-vote``, ``best-single`` or ``baseline``.
        stacker: which that is.
        scores: on the shared rows.
        differences: to the first run's of this kind; empty for the first run, and where that has none.
        p_value: of the difference in the primary score, Holm-corrected over all of the comparison; NaN
            without one.
        to_baseline: primary score minus that of the same run's linear baseline; None for the baseline itself,
            and for a run without one. Its p-value is Holm-corrected over the entries.
    """

    run: str
    kind: str
    stacker: str
    scores: Mapping[str, Estimate]
    differences: Mapping[str, Difference]
    p_value: float
    to_baseline: Difference | None = None


@dataclass(frozen=True)
class RunComparison:
    """Everything about some runs.

    Attributes:
        runs: names; the first is what the others are held against.
        folders: of the runs.
        recipe_differences: keys that differ.
        setting_differences: of versions, features, corpus and folds.
        entries: kind by kind, in the order of the runs; a kind that all runs recommend is there once.
        rows: that all runs scored.
        speakers: of those.
        notes: what to know before reading the differences.
    """

    runs: tuple[str, ...]
    folders: tuple[str, ...]
    recipe_differences: tuple[KeyDifference, ...]
    setting_differences: tuple[KeyDifference, ...]
    entries: tuple[Entry, ...]
    rows: int
    speakers: int
    notes: tuple[str, ...]

    @property
    def primary(self) -> PrimaryScore:
        """The score that decides."""
        return primary_in(self.entries[0].scores)

    def of(self, kind: str) -> tuple[Entry, ...]:
        """Return the entries of a kind."""
        return tuple(entry for entry in self.entries if entry.kind == kind)

    @property
    def verdict(self) -> tuple[str, ...]:
        """The conclusions, a sentence per run and kind."""
        sentences = [
            _sentence(entry, self.runs[0], self.primary) for entry in self.entries if entry.differences
        ]
        below = [
            f"{entry.run} ({entry.stacker}, {interval(difference, '+')})"
            for entry in self.of(RECOMMENDED)
            if (difference := entry.to_baseline) is not None and not difference.is_gain
        ]
        if below:
            sentences.append(f"Recommended, but not above the linear baseline of the run: {listed(below)}.")
        return tuple(sentences)


def compare_runs(runs: Sequence[Run], listener: Listener = ignore) -> RunComparison:
    """Compare stacked runs on the rows that all of them scored.

    Speakers are drawn with replacement, the same in every run. The truth is the first run's.

    Raises:
        ReportError: fewer than two runs, one is not stacked, their classes differ, or they share no rows.
    """
    if len(runs) < 2:
        raise ReportError("compare wants two runs or more, such as: sercache compare runs/a runs/b")
    names = _names(runs)
    read: list[tuple[Facts, ScoredRows]] = []
    for done, (name, run) in enumerate(zip(names, runs, strict=True), start=1):
        facts = read_facts(run)
        if facts.scored is None:
            raise ReportError(f"{name}: {facts.warnings[-1]}")
        read.append((facts, facts.scored))
        listener(Event("advance", "read runs", done=done, total=len(runs)))
    listener(Event("finish", "read runs"))
    first_facts, first = read[0]
    for name, (facts, _) in zip(names[1:], read[1:], strict=True):
        if sorted(facts.classes) != sorted(first_facts.classes):
            raise ReportError(
                f"{names[0]} has the classes {', '.join(first_facts.classes) or '(none)'} and {name} has "
                f"{', '.join(facts.classes) or '(none)'}: they cannot be compared; 'classes' in a recipe "
                "chooses them"
            )
    shared = set.intersection(*(set(scored.rows.inputs.ids) for _, scored in read))
    ids = tuple(row_id for row_id in first.rows.inputs.ids if row_id in shared)
    if not ids:
        raise ReportError(f"{listed(names)} have no scored utterance in common: they cannot be compared")
    rows = _shared_rows(first.rows, ids, [scored.rows for _, scored in read])
    if not rows.inputs.classes and not rows.inputs.attributes:
        raise ReportError(f"{listed(names)} have no attribute in common: they cannot be compared")
    bootstrap = SpeakerBootstrap(rows.speakers, first.samples, first.seed)
    entries = _entries(names, read, rows, bootstrap)
    recipes = [facts.recipe for facts, _ in read]
    known = [recipe for recipe in recipes if recipe is not None]
    return RunComparison(
        runs=names,
        folders=tuple(str(run.root) for run in runs),
        recipe_differences=recipe_differences(known) if len(known) == len(recipes) else (),
        setting_differences=differing([_settings(facts) for facts, _ in read]),
        entries=entries,
        rows=len(ids),
        speakers=bootstrap.cluster_count,
        notes=_notes(names, read, rows, ids),
    )


def as_json(comparison: RunComparison) -> dict[str, Any]:
    """Return everything, as JSON knows it."""
    content: dict[str, Any] = without_nan(asdict(comparison))
    return content | {"verdict": list(comparison.verdict)}


def _names(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the folders' names, with their parents' where two are the same."""
    paths = [run.root.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise ReportError("a run cannot be compared with itself")
    short = [path.name for path in paths]
    return tuple(
        path.name if short.count(path.name) == 1 else f"{path.parent.name}/{path.name}" for path in paths
    )


def _shared_rows(first: StackingRows, ids: tuple[str, ...], every: Sequence[StackingRows]) -> StackingRows:
    """Return the first run's rows of these utterances, with the attributes that all runs have."""
    index_of = {row_id: index for index, row_id in enumerate(first.inputs.ids)}
    rows = first.take(np.asarray([index_of[row_id] for row_id in ids], dtype=np.int64))
    names = [{attribute.name for attribute in table.inputs.attributes} for table in every]
    common = set.intersection(*names)
    kept = [index for index, attribute in enumerate(rows.inputs.attributes) if attribute.name in common]
    inputs = replace(
        rows.inputs,
        attributes=tuple(rows.inputs.attributes[index] for index in kept),
        attribute_values=rows.inputs.attribute_values[:, :, kept],
    )
    return replace(rows, inputs=inputs, attribute_targets=rows.attribute_targets[:, kept])


def _entries(
    names: Sequence[str],
    read: Sequence[tuple[Facts, ScoredRows]],
    rows: StackingRows,
    bootstrap: SpeakerBootstrap,
) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    key = rows.truth.primary.key
    baselines = {
        name: _metrics(facts, BASELINE, rows)[key]
        for name, (facts, _) in zip(names, read, strict=True)
        if facts.has_linear_baseline
    }
    choices = {facts.choice for facts, _ in read}
    for kind in (RECOMMENDED, *(other for other in _OTHER_KINDS if choices != {other})):
        before: dict[str, SumMetric] | None = None
        for index, (name, (facts, _)) in enumerate(zip(names, read, strict=True)):
            stacker = facts.choice if kind == RECOMMENDED else kind
            if stacker == BASELINE and not facts.has_linear_baseline:
                continue
            metrics = _metrics(facts, stacker, rows)
            differences = (
                {}
                if before is None
                else {score: bootstrap.difference(metrics[score], before[score]) for score in metrics}
            )
            scores = {score: bootstrap.estimate(metric) for score, metric in metrics.items()}
            to_baseline = None
            if facts.has_linear_baseline and stacker != BASELINE:
                to_baseline = bootstrap.difference(metrics[key], baselines[name])
            entries.append(Entry(name, kind, stacker, scores, differences, float("nan"), to_baseline))
            before = metrics if index == 0 else before
    entries = _with_corrected_baselines(entries)
    corrected = iter(
        holm([entry.differences[key].p_value for entry in entries if entry.differences]).tolist()
    )
    return tuple(
        replace(entry, p_value=float(next(corrected))) if entry.differences else entry for entry in entries
    )


def _with_corrected_baselines(entries: Sequence[Entry]) -> list[Entry]:
    compared = {
        str(index): entry.to_baseline for index, entry in enumerate(entries) if entry.to_baseline is not None
    }
    corrected = holm_corrected(compared)
    return [replace(entry, to_baseline=corrected.get(str(index))) for index, entry in enumerate(entries)]


def _metrics(facts: Facts, stacker: str, rows: StackingRows) -> dict[str, SumMetric]:
    """Return a stacker's scores on the shared rows; over several assignments of folds, their means."""
    folder = facts.run.stacker_folder(stacker)
    attributes = [attribute.name for attribute in rows.inputs.attributes]
    every = []
    for repeat in range(facts.metrics["repeats"]):
        found = Posteriors.load(folder / (f"posteriors-{repeat}.parquet" if repeat else "posteriors.parquet"))
        taken = found.take(rows.inputs.ids)
        order = columns_in_order("classes", taken.classes, rows.inputs.classes)
        values = [taken.attributes.index(name) for name in attributes]
        every.append(
            scores_of(
                rows, Prediction(taken.class_probabilities[:, order], taken.attribute_values[:, values])
            )
        )
    names = [name for name in every[0] if not name.startswith("f1:")]
    return {name: mean_over([repeat[name] for repeat in every]) for name in names}


def _settings(facts: Facts) -> dict[str, Any]:
    described = dict(facts.description)
    found = {f"versions.{name}": value for name, value in described.get("versions", {}).items()}
    found |= {f"fingerprint of {name}": value[:12] for name, value in described.get("features", {}).items()}
    found |= {f"{name} digest": described[name] for name in ("corpus", "folds") if name in described}
    return found | {
        "recommended": facts.choice,
        "members": len(facts.metrics["members"]),
        "scored rows": facts.metrics["judged_rows"],
        "judged on": facts.metrics["judged_on"],
    }


def _notes(
    names: Sequence[str],
    read: Sequence[tuple[Facts, ScoredRows]],
    rows: StackingRows,
    ids: tuple[str, ...],
) -> tuple[str, ...]:
    notes = []
    for name, (facts, scored) in zip(names, read, strict=True):
        left = len(scored.rows) - len(ids)
        if left:
            notes.append(
                f"{left:,} of {len(scored.rows):,} rows that {name} scored are not in all runs: left out."
            )
        if facts.metrics["is_leaky"]:
            notes.append(
                f"{name}: members trained on rows they are scored on; its scores hold for no new speaker."
            )
    for name, (facts, scored) in zip(names[1:], read[1:], strict=True):
        index_of = {row_id: index for index, row_id in enumerate(scored.rows.inputs.ids)}
        labels = [scored.rows.labels[index_of[row_id]] for row_id in ids]
        theirs = [facts.classes[label] if label >= 0 else "" for label in labels]
        ours = [rows.inputs.classes[label] if label >= 0 else "" for label in rows.labels]
        differ = sum(label != other for label, other in zip(ours, theirs, strict=True))
        if differ:
            notes.append(
                f"{differ:,} shared rows have another consensus in {name}: scored by that of {names[0]}."
            )
        first_facts = read[0][0]
        if facts.metrics["judged_on"] != first_facts.metrics["judged_on"]:
            notes.append(
                f"{names[0]} was scored on {first_facts.metrics['judged_on']} rows and {name} on "
                f"{facts.metrics['judged_on']}: they learned from different numbers of rows."
            )
        elif scored.rows.fold_map_digest != read[0][1].rows.fold_map_digest:
            notes.append(
                f"{name} has other folds than {names[0]}: part of the difference is the luck of the folds."
            )
    if bool({facts.choice for facts, _ in read} - {read[0][0].choice}):
        notes.append(
            "The recommended meta-levels are not the same: each was chosen by looking at these rows."
        )
    return tuple(notes)


def _sentence(entry: Entry, first: str, primary: PrimaryScore) -> str:
    difference = entry.differences[primary.key]
    what = f"Recommended ({entry.stacker})" if entry.kind == RECOMMENDED else entry.stacker
    figures = f"{primary.name} {interval(difference, '+')}"
    if not np.isnan(entry.p_value):
        figures += ", p < 0.001" if entry.p_value < 0.001 else f", p = {entry.p_value:.3f}"
    if difference.is_clear and entry.p_value < 0.05:
        word = "better" if difference.value > 0 else "worse"
        return f"{what}: {entry.run} is {word} than {first}: {figures}."
    return f"{what}: {entry.run} cannot be told apart from {first}: {figures}."
