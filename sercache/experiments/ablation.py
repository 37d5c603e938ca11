"""Ablation: train a member with one ingredient removed at a time, over seeds and folds, and compare."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sercache.corpus import Corpus
from sercache.engines.registry import LOCAL, EngineChoice
from sercache.errors import TrainingError
from sercache.evaluation.bootstrap import Difference, Estimate, SpeakerBootstrap, holm
from sercache.evaluation.primary import Truth, primary_score
from sercache.events import QUIET, Context
from sercache.experiments.ablation_design import FULL, AblationDesign
from sercache.experiments.ablation_report import (
    AblationReport,
    BaselineResult,
    VariantResult,
    as_csv,
    as_json,
)
from sercache.experiments.variants import VARIANTS
from sercache.files import write_atomically, write_json
from sercache.posteriors import Posteriors
from sercache.run import Run
from sercache.seeds import derive_seed
from sercache.stacking.table import primary_metric
from sercache.training.data import read_run_corpus
from sercache.training.ensemble import EnsembleReport, train_ensemble

Floats = NDArray[np.float64]


def run_ablation(
    design: AblationDesign,
    *,
    device: str = "auto",
    workers: int | None = None,
    engine: EngineChoice = LOCAL,
    context: Context = QUIET,
) -> AblationReport:
    """Train what is not trained yet, compare the variants with the full member, and write the table.

    Arguments are those of :func:`sercache.training.ensemble.train_ensemble`. Writes ``ablation.csv`` and
    ``ablation.json`` into the run's folder.

    Raises:
        RecipeError: the run's folder belongs to another recipe, or to other variants or seeds.
        TrainingError: the full member could not be trained with every seed: there is nothing to compare with.
        Interrupted: it was asked to stop; the same call goes on after the last finished epoch.
    """
    trained = train_ensemble(
        design.recipe,
        device=device,
        workers=workers,
        engine=engine,
        context=context,
    )
    report = evaluate_ablation(design, trained)
    write_atomically(report.csv_path, as_csv(report))
    write_json(report.json_path, as_json(report))
    return report


def evaluate_ablation(design: AblationDesign, trained: EnsembleReport) -> AblationReport:
    """Compare each variant with the full member on the out-of-fold rows that all trained members have.

    A variant's score is the mean primary score of its seeds. The interval of its difference says how far that
    depends on the speakers, with the same draws of speakers for all. It does not include the variation
    between seeds, which :func:`seed_p_values` tests.

    Raises:
        TrainingError: a member of ``full`` failed, or no row can be scored.
    """
    errors = {member.name: member.error for member in trained.members if member.error}
    for name in design.members_of(FULL):
        if name in errors:
            raise TrainingError(f"nothing to compare with, {name} could not be trained: {errors[name]}")
    corpus = read_run_corpus(design.recipe)
    predicted = {
        name: _out_of_fold(trained.run, name)
        for variant in (FULL, *design.trained)
        for name in design.members_of(variant)
        if name not in errors
    }
    rows = _rows_of_all(corpus, predicted)
    speakers = [utterance.speaker for utterance in rows.utterances]
    bootstrap = SpeakerBootstrap(
        speakers, design.recipe.stacking.bootstrap_samples, derive_seed(design.recipe.seed, "bootstrap")
    )
    scores: dict[str, float] = {}
    replicates: dict[str, Floats] = {}
    for name, posteriors in predicted.items():
        metric = primary_metric(rows, posteriors)
        scores[name], replicates[name] = metric.value, bootstrap.replicates(metric)

    def mean_replicates(variant: str) -> Floats:
        return np.asarray(np.mean([replicates[name] for name in design.members_of(variant)], axis=0))

    full = _result(FULL, design, scores, errors)
    baseline = _baseline(design, trained, rows, bootstrap, full.score, mean_replicates(FULL))
    results = [_result(variant, design, scores, errors) for variant in design.chosen]
    compared = {
        result.name: _compared(result, full, mean_replicates(result.name), mean_replicates(FULL), bootstrap)
        for result in results
        if result.state == "trained"
    }
    corrected = _corrected(full, compared)
    return AblationReport(
        run=trained.run,
        member=design.member,
        seeds=design.seeds,
        rows=len(rows),
        speakers=bootstrap.cluster_count,
        rows_without_speaker=bootstrap.unknown_speakers,
        primary=primary_score(len(rows.classes)),
        full=full,
        variants=tuple(corrected.get(result.name, result) for result in results),
        baseline=baseline,
    )


def seed_p_values(full: Sequence[float], variants: Sequence[Sequence[float]]) -> Floats:
    """Return the two-sided p-value of each variant under the hypothesis that only the seeds differ.

    A t-test against ``full`` with the seeds' variance pooled over all variants, as in Dunnett (1955): a
    few seeds do not suffice to estimate it per variant. The seeds are not paired: a member's initialisation
    depends on its name too. The order of rows and the draws of stage 2 are the same for all seeds, so the
    test does not cover them. NaN where there is one seed.

    Args:
        full: the full member's score with each seed.
        variants: the same of each variant.
    """
    from scipy.stats import t

    groups = [np.asarray(group, dtype=np.float64) for group in (full, *variants)]
    degrees = sum(len(group) - 1 for group in groups)
    if not degrees:
        return np.full(len(variants), np.nan)
    variance = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / degrees
    reference = groups[0]
    # Where all seeds have the same score, any difference counts as real.
    errors = [max(np.sqrt(variance * (1 / len(group) + 1 / len(reference))), 1e-12) for group in groups[1:]]
    differences = [group.mean() - reference.mean() for group in groups[1:]]
    return np.asarray(2 * t.sf(np.abs(differences) / np.asarray(errors), degrees))


def _out_of_fold(run: Run, name: str) -> Posteriors:
    """Return a member's posteriors for its out-of-fold rows."""
    posteriors = Posteriors.load(run.posteriors_path(name))
    return posteriors.take(
        [
            utterance_id
            for utterance_id, origin in zip(posteriors.ids, posteriors.origins, strict=True)
            if origin == "out-of-fold"
        ]
    )


def _rows_of_all(corpus: Corpus, predicted: Mapping[str, Posteriors]) -> Corpus:
    """Return the utterances that count in the primary score and that every member predicted."""
    shared = set.intersection(*(set(posteriors.ids) for posteriors in predicted.values()))
    truth = Truth.of(corpus)
    ids = [
        utterance_id
        for utterance_id, counts in zip(corpus.ids, truth.is_scored, strict=True)
        if counts and utterance_id in shared
    ]
    if not ids:
        raise TrainingError(
            f"no row with {truth.primary.needs} was predicted by all members: nothing to compare on"
        )
    return corpus.select(ids)


def _result(
    variant: str, design: AblationDesign, scores: Mapping[str, float], errors: Mapping[str, str]
) -> VariantResult:
    """Return a variant's scores, or why it has none.

    One failed seed is enough not to compare it: the mean of the successful seeds would be biased.
    """
    described = VARIANTS.get(variant)
    result = VariantResult(
        name=variant,
        description=described.description if described else "the member as the recipe has it",
        ingredient=described.ingredient if described else "",
        paper_change=described.paper_change if described else None,
    )
    if variant in design.skipped:
        return replace(result, state="skipped", note=design.skipped[variant])
    members = design.members_of(variant)
    result = replace(result, scores=tuple(scores.get(name, np.nan) for name in members))
    failed = [errors[name] for name in members if name in errors]
    if failed:
        return replace(result, state="failed", note=f"{len(failed)} of {design.seeds} seeds: {failed[0]}")
    return result


def _compared(
    result: VariantResult,
    full: VariantResult,
    replicates: Floats,
    full_replicates: Floats,
    bootstrap: SpeakerBootstrap,
) -> VariantResult:
    """Return the result with its difference to ``full``; replicates are ``(samples,)``."""
    difference = replicates - full_replicates
    relative = np.full_like(difference, np.nan)
    np.divide(difference, full_replicates, out=relative, where=full_replicates > 0)
    value = result.score - full.score
    return replace(
        result,
        difference=Difference(value, *bootstrap.interval(difference), bootstrap.p_value(difference)),
        relative=Estimate(value / full.score if full.score > 0 else np.nan, *bootstrap.interval(relative)),
    )


def _baseline(
    design: AblationDesign,
    trained: EnsembleReport,
    rows: Corpus,
    bootstrap: SpeakerBootstrap,
    full: float,
    full_replicates: Floats,
) -> BaselineResult | None:
    """Return the linear baseline's result on the compared rows; None where it does not predict them all."""
    if trained.baseline is None or trained.baseline.member.name in design.members_of(FULL):
        return None
    name = trained.baseline.member.name
    posteriors = _out_of_fold(trained.run, name)
    if not set(rows.ids) <= set(posteriors.ids):
        return None
    metric = primary_metric(rows, posteriors)
    difference = full_replicates - bootstrap.replicates(metric)
    return BaselineResult(
        name,
        bootstrap.estimate(metric),
        Difference(full - metric.value, *bootstrap.interval(difference), bootstrap.p_value(difference)),
    )


def _corrected(full: VariantResult, compared: Mapping[str, VariantResult]) -> dict[str, VariantResult]:
    """Return the results with both p-values, each corrected for how many variants were compared."""
    over_speakers = [
        result.difference.p_value for result in compared.values() if result.difference is not None
    ]
    over_seeds = seed_p_values(full.scores, [result.scores for result in compared.values()])
    pairs = zip(holm(over_speakers), holm(over_seeds), strict=True)
    return {
        name: replace(result, p_speakers=float(speakers), p_seeds=float(seeds))
        for (name, result), (speakers, seeds) in zip(compared.items(), pairs, strict=True)
    }
