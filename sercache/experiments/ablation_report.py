"""The report of an ablation: its table as CSV and JSON, and the sentences that it supports."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sercache.evaluation.bootstrap import Difference, Estimate
from sercache.evaluation.primary import MACRO_F1, PrimaryScore
from sercache.files import without_nan
from sercache.run import Run

_FEW_SPEAKERS = 10
_LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class VariantResult:
    """One variant of the ablated member.

    Attributes:
        name: of the variant.
        description: what it leaves out, as the paper puts it.
        ingredient: what is left out.
        paper_change: relative change of macro-F1 that the paper reports; None where it reports none.
        state: ``skipped`` where it would change nothing, ``failed`` where a seed could not be trained.
        note: why it is skipped or failed.
        scores: the primary score of each seed, NaN for one that failed; none where it is skipped.
        difference: mean score minus that of the full member, with interval and p-value over speakers; None
            where it was not compared.
        relative: the same as a share of the full member's score.
        p_speakers: the difference's p-value, Holm-corrected over the variants.
        p_seeds: the p-value over seeds, Holm-corrected; NaN with one seed.
    """

    name: str
    description: str
    ingredient: str
    paper_change: float | None
    state: Literal["trained", "skipped", "failed"] = "trained"
    note: str = ""
    scores: tuple[float, ...] = ()
    difference: Difference | None = None
    relative: Estimate | None = None
    p_speakers: float = math.nan
    p_seeds: float = math.nan

    @property
    def score(self) -> float:
        """Mean over the seeds; NaN where one of them failed."""
        return float(np.mean(self.scores)) if self.scores else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; NaN with one."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else math.nan

    @property
    def is_clear(self) -> bool:
        """Whether neither speakers nor seeds explain the difference by chance."""
        return (
            self.difference is not None
            and self.difference.is_clear
            and self.p_speakers < _LEVEL
            and self.p_seeds < _LEVEL
        )


@dataclass(frozen=True, slots=True)
class BaselineResult:
    """The linear baseline on the rows that the variants are compared on.

    Attributes:
        name: of the member that it is.
        score: the primary score, with an interval over speakers.
        full_minus: the full member's mean score minus the baseline's.
    """

    name: str
    score: Estimate
    full_minus: Difference

    @property
    def minus_full(self) -> Difference:
        """The baseline's score minus the full member's, as the variants' differences are."""
        forward = self.full_minus
        return Difference(-forward.value, -forward.high, -forward.low, forward.p_value)


@dataclass(frozen=True, slots=True)
class AblationReport:
    """The ablation of one member.

    Attributes:
        run: the folder that holds all variants and seeds as members.
        member: the name of the ablated member.
        seeds: how many of each variant.
        rows: out-of-fold rows that count in the primary score and that all members predicted.
        speakers: of these rows; one without speaker counts as one.
        rows_without_speaker: how many of them name no speaker.
        full: the member as the recipe has it.
        variants: in the order of the paper's table.
        primary: the score that was compared.
        baseline: a linear model on the same features; None where there is none, or where it is the full
            member itself.
    """

    run: Run
    member: str
    seeds: int
    rows: int
    speakers: int
    rows_without_speaker: int
    full: VariantResult
    variants: tuple[VariantResult, ...]
    primary: PrimaryScore = MACRO_F1
    baseline: BaselineResult | None = None

    @property
    def csv_path(self) -> Path:
        """Where the table is written."""
        return self.run.root / "ablation.csv"

    @property
    def json_path(self) -> Path:
        """Where the table is written with every seed's score."""
        return self.run.root / "ablation.json"

    @property
    def verdict(self) -> tuple[str, ...]:
        """Sentences on which ingredients improve the score on this corpus."""
        compared = [variant for variant in self.variants if variant.difference is not None]
        seeds = f"{self.seeds} seed{'s' if self.seeds > 1 else ''} each"
        where = f"On {self.rows} rows of {self.speakers} speakers, {seeds}: "
        clear = [variant for variant in compared if variant.is_clear and variant.difference is not None]
        pays = [
            variant for variant in clear if variant.difference is not None and variant.difference.value < 0
        ]
        costs = [variant for variant in clear if variant not in pays]
        unclear = [variant for variant in compared if variant not in clear]
        sentences = []
        if pays:
            sentences.append(f"{_ingredients(pays)} {'pay' if len(pays) > 1 else 'pays'}.")
        if costs:
            sentences.append(f"{_ingredients(costs)} {'do' if len(costs) > 1 else 'does'} harm.")
        if unclear:
            sentences.append(f"there is no clear effect of {_ingredients(unclear)}.")
        first, *others = sentences or ["no variant could be compared."]
        lines = [" ".join([where + first, *(sentence[0].upper() + sentence[1:] for sentence in others)])]
        if self.baseline is not None and not self.baseline.full_minus.is_gain:
            lines.insert(0, self._not_above())
        if compared:
            lines.append(" ".join(self._caveats()))
        return tuple(line for line in lines if line)

    def _not_above(self) -> str:
        assert self.baseline is not None
        difference, estimate = self.baseline.full_minus, self.baseline.score
        interval = "" if math.isnan(difference.low) else f" [{difference.low:+.3f}, {difference.high:+.3f}]"
        return (
            f"The full member is not above the linear baseline ({self.primary.name} {estimate.value:.3f}): "
            f"it differs from it by {difference.value:+.3f}{interval}. What pays within it need not pay "
            "at all."
        )

    def _caveats(self) -> list[str]:
        caveats = []
        if self.seeds == 1:
            caveats.append(
                "With one seed the variation between seeds is unknown, so no difference counts as clear; "
                "use --seeds 3."
            )
        if self.speakers < _FEW_SPEAKERS:
            caveats.append(f"Only {self.speakers} speakers: take the intervals as rough.")
        if self.rows_without_speaker:
            caveats.append(
                f"{self.rows_without_speaker} rows name no speaker and count as one each: the intervals are "
                "too narrow if they share speakers."
            )
        return caveats


def as_csv(report: AblationReport) -> str:
    """Return one line per variant, the full member first and the baseline, if there is one, last."""
    shared = {"rows": report.rows, "speakers": report.speakers, "seeds": report.seeds}
    lines = [_cells(variant, report.primary.key) | shared for variant in (report.full, *report.variants)]
    if report.baseline is not None:
        lines.append(_baseline_cells(report.baseline, report.primary.key) | shared)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _written(value) for key, value in line.items()} for line in lines)
    return stream.getvalue()


def as_json(report: AblationReport) -> dict[str, Any]:
    """Return everything that was measured, as JSON knows it."""
    baseline = report.baseline
    return {
        "member": report.member,
        "seeds": report.seeds,
        "baseline": None if baseline is None else _baseline_json(baseline, report.primary.key),
        "rows": report.rows,
        "speakers": report.speakers,
        "rows_without_speaker": report.rows_without_speaker,
        "verdict": list(report.verdict),
        "variants": [
            _cells(variant, report.primary.key)
            | {f"{report.primary.key}_by_seed": [_known(score) for score in variant.scores]}
            for variant in (report.full, *report.variants)
        ],
    }


def _cells(result: VariantResult, score: str) -> dict[str, Any]:
    difference = result.difference or Difference(math.nan, math.nan, math.nan, math.nan)
    relative = result.relative or Estimate(math.nan, math.nan, math.nan)
    measured = {
        score: result.score,
        f"{score}_sd": result.spread,
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "relative": relative.value,
        "relative_low": relative.low,
        "relative_high": relative.high,
        "p_uncorrected": difference.p_value,
        "p_speakers": result.p_speakers,
        "p_seeds": result.p_seeds,
    }
    return {
        "variant": result.name,
        "description": result.description,
        "state": result.state,
        **{name: _known(value) for name, value in measured.items()},
        "paper_relative": result.paper_change,
        "note": result.note,
    }


def _baseline_json(baseline: BaselineResult, score: str) -> dict[str, Any]:
    content: dict[str, Any] = without_nan(asdict(baseline))
    return {score if key == "score" else key: value for key, value in content.items()}


def _baseline_cells(baseline: BaselineResult, score: str) -> dict[str, Any]:
    result = VariantResult(
        name="baseline",
        description="a linear model on pooled statistics of the same features",
        ingredient="",
        paper_change=None,
        scores=(baseline.score.value,),
        difference=baseline.minus_full,
    )
    return _cells(result, score)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _written(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _ingredients(results: Sequence[VariantResult]) -> str:
    names = [result.ingredient for result in results]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
