"""What a run's folder holds, read once for all sections of its report."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sercache.errors import ReportError, SercacheError
from sercache.evaluation.bootstrap import Difference, Estimate
from sercache.evaluation.primary import PrimaryScore, primary_score
from sercache.events import Event, Listener, ignore
from sercache.files import read_json
from sercache.posteriors import Posteriors
from sercache.recipe import Recipe, StackingRecipe
from sercache.run import Run
from sercache.seeds import derive_seed
from sercache.stacking.base import Prediction
from sercache.stacking.baselines import BASELINE
from sercache.stacking.external.members import load_sources, rows_of_sources
from sercache.stacking.joining import load_rows
from sercache.stacking.rows import Floats, StackingRows
from sercache.stacking.splits import make_splits
from sercache.stacking.table import REFERENCE


@dataclass(frozen=True)
class ScoredRows:
    """The rows that stackers were scored on, and each stacker's predictions of them.

    Attributes:
        rows: members' posteriors and the truth, N rows.
        predictions: by stacker, in the order of ``rows``; of the members' own folds, where there are several
            assignments of speakers to folds.
        samples: bootstrap draws.
        seed: of the bootstrap, the one that the comparison had.
    """

    rows: StackingRows
    predictions: Mapping[str, Posteriors]
    samples: int
    seed: int

    @cached_property
    def known(self) -> NDArray[np.int64]:
        """The rows that count in the primary score: those with a consensus class, or a rated attribute."""
        return np.flatnonzero(self.rows.truth.is_scored).astype(np.int64)

    def probabilities(self, stacker: str) -> Floats:
        """Return the class probabilities of a stacker, ``(N, C)``."""
        return self.predictions[stacker].class_probabilities

    def decisions(self, stacker: str) -> NDArray[np.int64]:
        """Return the class that a stacker names, ``(N,)``; there must be classes."""
        return np.asarray(self.probabilities(stacker).argmax(axis=1), dtype=np.int64)

    def prediction(self, stacker: str) -> Prediction:
        """Return the prediction of a stacker."""
        found = self.predictions[stacker]
        return Prediction(found.class_probabilities, found.attribute_values)


@dataclass(frozen=True)
class Facts:
    """A run as its report tells it.

    Attributes:
        run: its folder.
        recipe: None where others' predictions were stacked.
        description: of ``run.json``; empty where there is none.
        metrics: of ``metrics.json``.
        scored: None where corpus or predictions are missing; ``warnings`` has the reason.
        warnings: what was odd when the rows were read.
    """

    run: Run
    recipe: Recipe | None
    description: Mapping[str, Any]
    metrics: Mapping[str, Any]
    scored: ScoredRows | None
    warnings: tuple[str, ...]

    @property
    def choice(self) -> str:
        """The recommended stacker."""
        return str(self.metrics["choice"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.metrics["classes"])

    @property
    def attributes(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.metrics["attributes"])

    @property
    def primary(self) -> PrimaryScore:
        """The score that decides."""
        return primary_score(len(self.classes))

    @cached_property
    def stackers(self) -> tuple[str, ...]:
        """Names, best primary score first, without baselines."""
        return tuple(name for name in self._by_score if not self.metrics["rows"][name]["is_baseline"])

    @cached_property
    def baselines(self) -> tuple[str, ...]:
        """Names, best primary score first; the linear one, if the run has it, and guessing."""
        return tuple(name for name in self._by_score if self.metrics["rows"][name]["is_baseline"])

    @property
    def guesses(self) -> tuple[str, ...]:
        """Baselines that look at no features."""
        return tuple(name for name in self.baselines if name != BASELINE)

    @property
    def has_linear_baseline(self) -> bool:
        """Whether the run has a linear baseline, as those of earlier versions have not."""
        return BASELINE in self.metrics["rows"]

    @property
    def nothing_above_baseline(self) -> bool:
        """Whether it is known that no meta-level is above the linear baseline."""
        return self.metrics.get("above_baseline") == []

    @property
    def _by_score(self) -> list[str]:
        return sorted(self.metrics["rows"], key=lambda name: -self.score(name).value)

    @cached_property
    def main_stackers(self) -> tuple[str, ...]:
        """The recommended one, the best, the soft vote and the best single member, each once."""
        wanted = dict.fromkeys([self.choice, self.stackers[0], REFERENCE, "best-single"])
        return tuple(name for name in wanted if name in self.metrics["rows"])

    def score(self, stacker: str, name: str = "") -> Estimate:
        """Return a score of a stacker: the primary score, unless another is named."""
        return estimate_of(self.metrics["rows"][stacker]["scores"][name or self.primary.key])

    def minus_reference(self, stacker: str) -> Difference | None:
        """Return the primary score minus that of the soft vote; None for the soft vote itself."""
        found = self.metrics["rows"][stacker]["to_soft_vote"].get(self.primary.key)
        return None if found is None else difference_of(found)

    def minus_baseline(self, stacker: str) -> Difference | None:
        """Return the primary score minus the linear baseline's; None for baselines, and without that one."""
        found = self.metrics["rows"][stacker].get("to_baseline", {}).get(self.primary.key)
        return None if found is None else difference_of(found)


def estimate_of(found: Mapping[str, Any]) -> Estimate:
    """Return an estimate as ``metrics.json`` writes it."""
    return Estimate(*(_float(found[part]) for part in ("value", "low", "high")))


def difference_of(found: Mapping[str, Any]) -> Difference:
    """Return a difference as ``metrics.json`` writes it."""
    return Difference(*(_float(found[part]) for part in ("value", "low", "high", "p_value")))


def read_metrics(run: Run) -> Mapping[str, Any]:
    """Return what ``sercache stack`` measured.

    Raises:
        ReportError: there is nothing yet, or it is damaged.
    """
    try:
        metrics: Mapping[str, Any] = read_json(run.metrics_path)
        for key in ("rows", "choice", "classes", "attributes", "members", "verdict"):
            metrics[key]
        return metrics
    except FileNotFoundError:
        raise ReportError(
            f"{run.root} has no {run.metrics_path.name}: sercache stack {run.root} makes it"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ReportError(
            f"{run.metrics_path} is damaged ({error}); sercache stack {run.root} writes it anew"
        ) from error


def read_facts(run: Run, listener: Listener = ignore) -> Facts:
    """Read a run, or a folder where others' predictions were stacked.

    What is missing by now (the corpus, files of predictions) becomes a warning; the rest is shown.

    Raises:
        ReportError: nothing was stacked there yet, or ``metrics.json`` is damaged.
    """
    metrics = read_metrics(run)
    recipe = run.recipe() if run.recipe_path.is_file() else None
    description = read_json(run.description_path) if run.description_path.is_file() else {}
    warnings: list[str] = []

    def listen(event: Event) -> None:
        if event.kind == "warning":
            warnings.append(event.message)
        else:
            listener(event)

    try:
        scored: ScoredRows | None = read_scored(run, recipe, metrics, listen)
    except (SercacheError, OSError) as error:
        warnings.append(f"Rows cannot be shown one by one: {error}")
        scored = None
    return Facts(run, recipe, description, metrics, scored, tuple(dict.fromkeys(warnings)))


def read_scored(
    run: Run, recipe: Recipe | None, metrics: Mapping[str, Any], listener: Listener = ignore
) -> ScoredRows:
    """Read the rows that stackers were scored on.

    Raises:
        SercacheError: corpus, posteriors or predictions are gone, or are not those that were stacked.
    """
    if recipe is None:
        sources = load_sources(run)
        rows = rows_of_sources(sources, listener=listener)
        seed, samples = sources.seed, StackingRecipe().bootstrap_samples
    else:
        rows = load_rows(run, allow_in_sample=True, listener=listener)
        seed, samples = recipe.seed, recipe.stacking.bootstrap_samples
    scored = make_splits(rows).scored
    stale = (
        f"{run.root}: corpus or members have changed since they were stacked; sercache stack does it again"
    )
    if scored.inputs.classes != tuple(metrics["classes"]) or len(scored) != metrics["judged_rows"]:
        raise ReportError(stale)
    predictions = {}
    for name in metrics["rows"]:
        found = Posteriors.load(run.stacker_folder(name) / "posteriors.parquet")
        if found.ids != scored.inputs.ids:
            raise ReportError(stale)
        predictions[name] = found
    return ScoredRows(scored, predictions, samples, derive_seed(seed, "bootstrap"))


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)
