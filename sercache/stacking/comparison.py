"""The comparison of meta-levels: same rows, no leak, intervals over speakers, and a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sercache.devices import threads_for_table
from sercache.engines.protocol import Needs, Task
from sercache.engines.registry import AUTO, LOCAL, EngineChoice
from sercache.errors import Interrupted
from sercache.evaluation.bootstrap import Difference, SpeakerBootstrap, SumMetric, holm_corrected, mean_over
from sercache.evaluation.calibration.registry import CALIBRATORS
from sercache.evaluation.primary import MACRO_F1
from sercache.events import QUIET, Context, Event, Listener, ignore
from sercache.files import write_atomically, write_json
from sercache.posteriors import Posteriors
from sercache.recipe import StackingRecipe
from sercache.run import Run, derived_members
from sercache.seeds import derive_seed
from sercache.stacking.baselines import BASELINE, baseline_result, worth_of_finetuning
from sercache.stacking.calibrating import calibrate
from sercache.stacking.costs import MemberCosts, member_costs
from sercache.stacking.curves import Curves, ensemble_curves
from sercache.stacking.curves import as_csv as curves_as_csv
from sercache.stacking.joining import load_rows
from sercache.stacking.names import BASELINES
from sercache.stacking.neural import SoupAccount
from sercache.stacking.registry import STACKERS, needs_classes
from sercache.stacking.rows import StackingRows
from sercache.stacking.splits import Splits, make_splits
from sercache.stacking.table import (
    REFERENCE,
    Comparison,
    ComparisonRow,
    as_csv,
    as_json,
    score_names,
    scores_of,
)
from sercache.stacking.task import StackerResult, earlier_result, input_digest, read_result, run_stacker
from sercache.stacking.verdict import AgainstBaseline, compare_pair, recommend
from sercache.training.baseline import baseline_posteriors

COMPARED_PAIRS = (("neural", "lightgbm"), ("soup", "lightgbm"))
"""Pairs of meta-levels whose difference is reported beside the differences to the reference."""


def compare(
    run: Run,
    *,
    allow_in_sample: bool = False,
    engine: EngineChoice = LOCAL,
    context: Context = QUIET,
) -> Comparison:
    """Fit and score the recipe's stackers on the posteriors of a run; see :func:`compare_rows`.

    Raises:
        StackingError: members may not be stacked (:func:`sercache.stacking.joining.join`), or there are no
            rows to fit or score.
        Interrupted: ``context.should_stop`` returned True.
    """
    recipe = run.recipe()
    rows = load_rows(run, allow_in_sample=allow_in_sample, listener=context.listener)
    return compare_rows(
        rows,
        recipe.stacking,
        recipe.seed,
        run,
        costs=member_costs(recipe, derived_members(run, "finetuned")),
        normalized_members=[m.name for m in recipe.members if recipe.normalizes_speakers(m)],
        baseline=baseline_posteriors(run, recipe),
        engine=engine,
        context=context,
    )


def compare_rows(
    rows: StackingRows,
    settings: StackingRecipe,
    seed: int,
    run: Run,
    *,
    costs: MemberCosts | None = None,
    normalized_members: Sequence[str] = (),
    baseline: Posteriors | None = None,
    engine: EngineChoice = LOCAL,
    context: Context = QUIET,
) -> Comparison:
    """Fit and score stackers on joined posteriors, and write the results into a folder.

    Writes ``stack/<stacker>/`` (the stacker, the scored rows' posteriors; the recommended one's calibration),
    ``comparison.csv``, ``curves.csv`` and ``metrics.json``. A stacker whose inputs are those of an earlier
    result is not fitted again.

    Args:
        rows: the predictions of the members, with the truth.
        settings: of the stackers and of the comparison.
        seed: of everything random.
        run: the folder that the results go to.
        costs: of the members, if they are known.
        normalized_members: names of members whose frames are standardised per speaker.
        baseline: the predictions of the linear baseline, shown beside the stackers and used by none of them.
        engine: where to fit; ``auto`` is one stacker after the other, here.
        context: receives events, and is asked whether to stop.

    Raises:
        StackingError: there are no rows to fit or score.
        Interrupted: ``context.should_stop`` returned True; the same call goes on from there.
    """
    for name in settings.stackers:
        STACKERS[name]
    CALIBRATORS[settings.calibration]
    splits = make_splits(rows, settings.repeats, seed, context.listener)
    results = _results(splits, settings, seed, run, engine, context)
    if (
        baseline is not None
        and (linear := baseline_result(baseline, splits, run, context.listener)) is not None
    ):
        results.append(linear)
    context.listener(Event("start", "stack/intervals", total=1))
    with threads_for_table(splits.fitting.inputs.features().size):
        comparison = score_results(splits, results, settings, seed, run, context.listener)
        normalized = tuple(name for name in comparison.members if name in normalized_members)
        comparison = replace(comparison, normalized_members=normalized)
        if not comparison.is_leaky:
            chosen = next(result for result in results if result.name == comparison.choice)
            folder = run.stacker_folder(chosen.name)
            report = calibrate(splits, chosen, settings, seed, folder, context)
            curves = _curves(splits, settings, seed, costs)
            comparison = replace(comparison, calibration=report, curves=curves)
            write_atomically(run.curves_path, curves_as_csv(curves))
    if any(result.name == "soup" for result in results):
        comparison = replace(comparison, soup=SoupAccount.read(run.stacker_folder("soup")))
    write_atomically(run.comparison_path, as_csv(comparison))
    write_json(run.metrics_path, as_json(comparison))
    context.listener(Event("finish", "stack/intervals"))
    return comparison


def score_results(
    splits: Splits,
    results: Sequence[StackerResult],
    settings: StackingRecipe,
    seed: int,
    run: Run,
    listener: Listener = ignore,
) -> Comparison:
    """Score the results with intervals and differences, and return the table with its verdict."""
    rows = splits.scored
    bootstrap = SpeakerBootstrap(rows.speakers, settings.bootstrap_samples, derive_seed(seed, "bootstrap"))
    if bootstrap.unknown_speakers:
        _warn(
            listener,
            f"{bootstrap.unknown_speakers} of {len(rows)} scored rows name no speaker and count as one "
            "each: the intervals are too narrow if they share speakers",
        )
    scored = _Scored(splits, results, bootstrap)
    is_leaky = bool((rows.origins == "in-sample").any())
    baseline = scored.against_baseline()
    to_baseline = {} if baseline is None else baseline.differences
    table = tuple(
        sorted(
            (scored.row(result, to_baseline, run.stacker_folder(result.name)) for result in results),
            key=lambda row: -row.scores[scored.key].value,
        )
    )
    pairs = {pair: scored.differences(*pair) for pair in COMPARED_PAIRS if set(pair) <= set(scored.metrics)}
    choice, verdict = _verdict(table, scored, pairs, baseline, is_leaky=is_leaky)
    if not is_leaky:
        verdict += tuple(worth_of_finetuning(rows, derived_members(run, "finetuned"), bootstrap))
    classes = rows.inputs.classes
    if not classes:
        verdict += (_left_out(settings),)
    return Comparison(
        rows=table,
        pairs=pairs,
        choice=choice,
        verdict=verdict,
        is_leaky=is_leaky,
        scored_on="folds" if splits.held_out is None else "held-out",
        fitting_rows=len(splits.fitting),
        scored_rows=len(rows),
        repeats=splits.repeats,
        speakers=bootstrap.cluster_count,
        classes=classes,
        attributes=tuple(attribute.name for attribute in rows.inputs.attributes),
        members=rows.inputs.members,
        above_baseline=baseline.above if baseline is not None and not is_leaky else None,
    )


class _Scored:
    """The scores of all results as functions of draws of speakers, and differences between them.

    Attributes:
        splits: which rows are scored.
        bootstrap: over their speakers.
        key: of the primary score.
        metrics: for each stacker its scores by name; the mean over repeats.
        meta_levels: the stackers that are no baseline.
    """

    def __init__(self, splits: Splits, results: Sequence[StackerResult], bootstrap: SpeakerBootstrap) -> None:
        rows = splits.scored
        self.splits, self.bootstrap, self.key = splits, bootstrap, rows.truth.primary.key
        by_repeat = {
            result.name: [scores_of(rows, prediction) for prediction in result.predictions]
            for result in results
        }
        self.metrics: dict[str, dict[str, SumMetric]] = {
            stacker: {name: mean_over([scores[name] for scores in repeats]) for name in repeats[0]}
            for stacker, repeats in by_repeat.items()
        }
        self._by_repeat = {
            stacker: tuple(scores[self.key].value for scores in repeats)
            for stacker, repeats in by_repeat.items()
        }
        baselines = (*baselines_of(rows.inputs.classes), BASELINE)
        self.meta_levels = tuple(name for name in self.metrics if name not in baselines)
        attributes = tuple(attribute.name for attribute in rows.inputs.attributes)
        self._names = score_names(attributes, has_classes=bool(rows.inputs.classes))
        rivals = [name for name in self.meta_levels if name != REFERENCE]
        self._to_reference = holm_corrected({name: self.difference(name, REFERENCE) for name in rivals})

    def difference(self, first: str, second: str, score: str | None = None) -> Difference:
        """Return the difference of two stackers in a score, by default the primary one."""
        score = score or self.key
        return self.bootstrap.difference(self.metrics[first][score], self.metrics[second][score])

    def differences(self, first: str, second: str) -> dict[str, Difference]:
        """Return the difference of two stackers in each score of the table."""
        return {name: self.difference(first, second, name) for name in self._names}

    def against_baseline(self) -> AgainstBaseline | None:
        """Return how the meta-levels compare with the linear baseline; None without one."""
        if BASELINE not in self.metrics or not self.meta_levels:
            return None
        differences = {name: self.difference(name, BASELINE) for name in self.meta_levels}
        estimate = self.bootstrap.estimate(self.metrics[BASELINE][self.key])
        return AgainstBaseline(estimate, holm_corrected(differences))

    def row(
        self, result: StackerResult, to_baseline: Mapping[str, Difference], folder: Path
    ) -> ComparisonRow:
        """Return the row of the table; ``to_baseline`` has the corrected differences of all stackers."""
        name, metrics = result.name, self.metrics[result.name]
        is_compared, to_reference = name in to_baseline, self._to_reference.get(name)
        return ComparisonRow(
            stacker=name,
            is_baseline=name not in self.meta_levels,
            scores={score: self.bootstrap.estimate(metric) for score, metric in metrics.items()},
            to_soft_vote={} if name == REFERENCE else self.differences(name, REFERENCE),
            p_to_soft_vote=np.nan if to_reference is None else to_reference.p_value,
            fit_seconds=result.fit_seconds,
            predict_seconds=result.predict_seconds,
            fitting_score=result.fitting_score,
            leak_gap=result.fitting_score - metrics[self.key].value,
            score_by_repeat=self._by_repeat[name],
            shares=result.shares,
            folder=folder,
            to_baseline=self.differences(name, BASELINE) if is_compared else {},
            p_to_baseline=to_baseline[name].p_value if is_compared else np.nan,
            input_digest=result.input_digest,
        )


def _curves(splits: Splits, settings: StackingRecipe, seed: int, costs: MemberCosts | None) -> Curves:
    rounds = splits.folds_in_turn() if splits.held_out is None else splits.rounds()
    return ensemble_curves(
        [(turn.fit, turn.scored) for turn in rounds],
        fitting=splits.fitting,
        costs=costs,
        samples=settings.bootstrap_samples,
        seed=derive_seed(seed, "bootstrap"),
    )


def _results(
    splits: Splits,
    settings: StackingRecipe,
    seed: int,
    run: Run,
    engine: EngineChoice,
    context: Context,
) -> list[StackerResult]:
    splits_digest = splits.digest()
    classes = splits.fitting.inputs.classes
    named = dict.fromkeys([*baselines_of(classes), "best-single", REFERENCE, *settings.stackers])
    digests = {
        name: input_digest(name, splits_digest, settings, seed)
        for name in named
        if classes or not needs_classes(name)
    }
    results = {
        name: earlier_result(name, digest, run.stacker_folder(name), splits.repeats)
        for name, digest in digests.items()
    }
    tasks = []
    for name, digest in digests.items():
        if results[name] is None:
            folder = run.stacker_folder(name).resolve()
            arguments = (name, splits, settings, seed, digest, folder)
            tasks.append(Task(f"stack/{name}", run_stacker, arguments, _needs(engine), (run.root.resolve(),)))
        else:
            context.listener(Event("start", f"stack/{name}", total=1))
            context.listener(Event("finish", f"stack/{name}", values={"state": "reused"}))
    try:
        errors = engine.open(None, local="in-process").run(tasks, context)
    except Interrupted:
        raise Interrupted("stopped while stackers were fitted; the same command goes on from there") from None
    for error in errors.values():
        raise error
    return [
        results[name] or read_result(name, digest, run.stacker_folder(name), splits.repeats)
        for name, digest in digests.items()
    ]


def _needs(engine: EngineChoice) -> Needs:
    """Return the threads of a stacker: all where they take turns, one where they are fitted side by side."""
    return Needs(cores=0 if engine.name in (AUTO, "in-process") else 1)


def _verdict(
    table: Sequence[ComparisonRow],
    scored: _Scored,
    pairs: Mapping[tuple[str, str], Mapping[str, Difference]],
    baseline: AgainstBaseline | None,
    *,
    is_leaky: bool,
) -> tuple[str, tuple[str, ...]]:
    """Return the stacker to use, and the sentences."""
    if is_leaky:
        sentence = (
            "No conclusion: members trained on rows they are scored on here, so no score in this table holds "
            "for new speakers."
        )
        return REFERENCE, (sentence,)
    rows = scored.splits.scored
    primary = rows.truth.primary
    candidates = {row.stacker: row.scores[primary.key] for row in table if not row.is_baseline}
    best = max(candidates, key=lambda name: candidates[name].value)
    choice, sentences = recommend(
        candidates,
        behind={name: scored.difference(best, name) for name in candidates if name != best},
        over_guessing=scored.difference(
            best, baselines_of(rows.inputs.classes)[0], "uar" if primary == MACRO_F1 else primary.key
        ),
        speakers=scored.bootstrap.cluster_count,
        primary=primary,
        baseline=baseline,
    )
    in_primary = holm_corrected({pair: differences[primary.key] for pair, differences in pairs.items()})
    sentences += tuple(
        compare_pair(*pair, difference, len(pairs), primary) for pair, difference in in_primary.items()
    )
    if (scored.splits.fitting.origins == "in-sample").any():
        worst = max((row for row in table if not np.isnan(row.leak_gap)), key=lambda row: row.leak_gap)
        sentences += (
            "Stackers were fitted on in-sample posteriors: "
            f"{worst.stacker} scores {worst.fitting_score:.3f} on the rows it was fitted on and "
            f"{worst.scores[primary.key].value:.3f} on held-out ones, a gap of {worst.leak_gap:+.3f}.",
        )
    return choice, sentences


def baselines_of(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the baselines of a corpus with these classes: those for classes only, or else the others."""
    return tuple(name for name in BASELINES if needs_classes(name) == bool(classes))


def _left_out(settings: StackingRecipe) -> str:
    """Return the sentence on what is left out where a corpus has attributes alone."""
    skipped = [name for name in dict.fromkeys(settings.stackers) if needs_classes(name)]
    listed = ", ".join([*skipped, "calibration", "conformal sets"])
    return f"The corpus has no classes: {listed} and thresholds are left out, as only classes have them."


def _warn(listener: Listener, message: str) -> None:
    listener(Event("warning", "stack", message=message))
