"""What came of a search: its trials, and how the best one is scored on rows that no trial saw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sercache.corpus import Corpus
from sercache.corpus.table import dump_csv
from sercache.errors import TrainingError
from sercache.evaluation.bootstrap import Difference, Estimate, SpeakerBootstrap, SumMetric
from sercache.evaluation.primary import MACRO_F1, PrimaryScore, Truth
from sercache.experiments.tuning_study import Trial
from sercache.posteriors import Posteriors
from sercache.stacking.table import primary_metric
from sercache.stacking.verdict import compare_pair

_FEW_SPEAKERS = 10


@dataclass(frozen=True, slots=True)
class ReservedScores:
    """The primary score on the reserved rows, of the mean of the fold models.

    Attributes:
        rows: how many were scored.
        speakers: of those rows; one without speaker counts as one.
        rows_without_speaker: how many of them name no speaker.
        found: of the settings that the search found.
        original: of the recipe's settings.
        difference: ``found - original``, with the same draws of speakers.
        baseline: of a linear model on the member's features; None without one.
        to_baseline: ``found - baseline``.
    """

    rows: int
    speakers: int
    rows_without_speaker: int
    found: Estimate
    original: Estimate
    difference: Difference
    baseline: Estimate | None = None
    to_baseline: Difference | None = None


@dataclass(frozen=True, slots=True)
class TuningReport:
    """A search over the settings of one member.

    Attributes:
        output: the folder of the search.
        member: the name of the searched member.
        trials: all that have ended, in order.
        best: the one with the highest primary score, out of fold.
        original_score: the same score of the recipe's settings, on the same rows and folds, shuffled anew.
        importances: how much each key mattered for the score, summing to 1; none after few trials.
        judged_on: a description of the reserved rows.
        reserved_scores: of the best trial and of the recipe, on these rows.
        earlier_evaluations: how many other trials were evaluated on the same rows in earlier calls.
        primary: the score that decides.
        baseline_score: the primary score of the linear baseline, out of fold, on the rows and folds of the
            trials; NaN without one.
    """

    output: Path
    member: str
    trials: tuple[Trial, ...]
    best: Trial
    original_score: float
    importances: Mapping[str, float]
    judged_on: str
    reserved_scores: ReservedScores
    earlier_evaluations: int
    primary: PrimaryScore = MACRO_F1
    baseline_score: float = math.nan

    @property
    def csv_path(self) -> Path:
        """Where the trials are written."""
        return csv_path(self.output)

    @property
    def json_path(self) -> Path:
        """Where everything is written for programs."""
        return self.output / "tuning.json"

    @property
    def best_path(self) -> Path:
        """Where the recipe with the found settings is written."""
        return best_path(self.output)

    @property
    def ranked(self) -> tuple[Trial, ...]:
        """The trials that were trained, best first."""
        return tuple(sorted(trained(self.trials), key=_rank))

    @property
    def beats_recipe(self) -> bool:
        """Whether the best trial is ahead on the inner folds, and not clearly behind on the reserved rows."""
        difference = self.reserved_scores.difference
        is_worse = difference.is_clear and difference.value < 0
        return self.best.score > self.original_score and not is_worse

    @property
    def verdict(self) -> tuple[str, ...]:
        """Sentences on whether the search improved the member."""
        scores = self.reserved_scores
        number = f"Trial {self.best.number}"
        lines = [
            f"On {scores.rows} rows of {scores.speakers} speakers that no trial saw ({self.judged_on}): "
            + compare_pair(
                f"trial {self.best.number}", "the recipe as it is", scores.difference, primary=self.primary
            ),
            f"{number} is the best of {len(self.ranked)} by its inner folds, which makes its inner "
            f"{self.primary.name} optimistic: {self.best.score:.3f} there, {scores.found.value:.3f} on those "
            f"rows (the recipe as it is: {self.original_score:.3f} and {scores.original.value:.3f}).",
        ]
        if scores.baseline is not None and scores.to_baseline is not None:
            lines.append(
                f"The linear baseline on the same features has {self.primary.name} "
                f"{scores.baseline.value:.3f} there: "
                + compare_pair(
                    f"trial {self.best.number}", "the baseline", scores.to_baseline, primary=self.primary
                )
            )
            if not scores.to_baseline.is_gain:
                lines.append(f"{number} is not above the baseline, which takes seconds to fit.")
        if not self.beats_recipe:
            behind = (
                ""
                if self.best.score > self.original_score
                else "No trial beat the recipe on the inner folds. "
            )
            lines.append(f"{behind}Keep the recipe as it is.")
        if self.earlier_evaluations:
            earlier = "trial was" if self.earlier_evaluations == 1 else "trials were"
            lines.append(
                f"{self.earlier_evaluations} earlier best {earlier} evaluated on the same rows: each further "
                "look makes the result less certain."
            )
        if scores.speakers < _FEW_SPEAKERS:
            lines.append(f"Only {scores.speakers} speakers: take the interval as rough.")
        if scores.rows_without_speaker:
            lines.append(
                f"{scores.rows_without_speaker} rows name no speaker and count as one each: the interval is "
                "too narrow if they share speakers."
            )
        return tuple(lines)


def csv_path(output: Path) -> Path:
    """Return where the trials of a search are written."""
    return output / "tuning.csv"


def best_path(output: Path) -> Path:
    """Return where the recipe with the found settings is written."""
    return output / "best.yaml"


def trained(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that have a score."""
    return [trial for trial in trials if trial.state == "trained"]


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial with the highest score, the earlier of equals; None where none was trained."""
    return min(trained(trials), key=_rank, default=None)


def compare_on_reserved(
    reserved: Corpus,
    found: Posteriors,
    original: Posteriors,
    *,
    samples: int,
    seed: int,
    baseline: Posteriors | None = None,
) -> ReservedScores:
    """Compare two members on the reserved rows.

    Args:
        reserved: the rows.
        found: predictions of the member with the found settings; other rows in it do not count.
        original: the same of the member as the recipe has it.
        samples: draws of speakers.
        seed: of the draws.
        baseline: the same of the linear baseline; left out where it lacks a row.

    Raises:
        TrainingError: there is no row to score, or a model has learned from one.
    """
    predicted, of_all = set(found.ids) & set(original.ids), Truth.of(reserved)
    ids = [
        utterance_id
        for utterance_id, counts in zip(reserved.ids, of_all.is_scored, strict=True)
        if counts and utterance_id in predicted
    ]
    if not ids:
        raise TrainingError(
            f"none of the reserved rows has both {of_all.primary.needs} and frames to be scored"
        )
    rows = reserved.select(ids)

    def metric(posteriors: Posteriors) -> SumMetric:
        if set(posteriors.take(ids).origins.tolist()) != {"held-out"}:
            raise TrainingError(f"member '{posteriors.member}' has learned from rows that it is evaluated on")
        return primary_metric(rows, posteriors)

    bootstrap = SpeakerBootstrap([row.speaker for row in rows.utterances], samples, seed)
    first, second = metric(found), metric(original)
    linear = metric(baseline) if baseline is not None and set(ids) <= set(baseline.ids) else None
    return ReservedScores(
        rows=len(ids),
        speakers=bootstrap.cluster_count,
        rows_without_speaker=bootstrap.unknown_speakers,
        found=bootstrap.estimate(first),
        original=bootstrap.estimate(second),
        difference=bootstrap.difference(first, second),
        baseline=None if linear is None else bootstrap.estimate(linear),
        to_baseline=None if linear is None else bootstrap.difference(first, linear),
    )


def as_csv(trials: Sequence[Trial], primary: PrimaryScore = MACRO_F1) -> str:
    """Return one line per trial: number, state, score, seconds, each setting, and why it failed."""
    keys = sorted({key for trial in trials for key in trial.settings})
    rows = [
        [
            str(trial.number),
            trial.state,
            "" if math.isnan(trial.score) else f"{trial.score:.6g}",
            f"{trial.seconds:.1f}",
            *(str(trial.settings.get(key, "")) for key in keys),
            trial.note,
        ]
        for trial in trials
    ]
    return dump_csv(["trial", "state", primary.key, "seconds", *keys, "note"], rows)


def as_json(report: TuningReport) -> dict[str, Any]:
    """Return everything that was measured, as JSON knows it."""
    scores, key = report.reserved_scores, report.primary.key
    return {
        "member": report.member,
        "trials": len(report.trials),
        "failed": len(report.trials) - len(report.ranked),
        "best": {
            "trial": report.best.number,
            "settings": dict(report.best.settings),
            f"inner_{key}": report.best.score,
            key: _interval(scores.found),
        },
        "own": {f"inner_{key}": _known(report.original_score), key: _interval(scores.original)},
        "difference": {**_interval(scores.difference), "p_value": _known(scores.difference.p_value)},
        "baseline": None
        if scores.baseline is None or scores.to_baseline is None
        else {
            f"inner_{key}": _known(report.baseline_score),
            key: _interval(scores.baseline),
            "difference": {
                **_interval(scores.to_baseline),
                "p_value": _known(scores.to_baseline.p_value),
            },
        },
        "judged_on": report.judged_on,
        "judged_before": report.earlier_evaluations,
        "rows": scores.rows,
        "speakers": scores.speakers,
        "rows_without_speaker": scores.rows_without_speaker,
        "importances": dict(report.importances),
        "verdict": list(report.verdict),
    }


def _rank(trial: Trial) -> tuple[float, int]:
    return -trial.score, trial.number


def _interval(scored: Estimate | Difference) -> dict[str, float | None]:
    return {"value": _known(scored.value), "low": _known(scored.low), "high": _known(scored.high)}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
