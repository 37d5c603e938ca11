"""The comparison of meta-levels: same rows, no leak, intervals over speakers, and what may be concluded."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sercache.devices import threads_worth_having
from sercache.engines.protocol import Needs, Task
from sercache.engines.registry import AUTO, LOCAL, EngineChoice
from sercache.errors import Interrupted
from sercache.evaluation.bootstrap import Difference, SpeakerBootstrap, SumMetric, holm, mean_over
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
from sercache.stacking.splits import Plan, make_plan
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
from sercache.stacking.verdict import against_baseline, oppose, recommend
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
    """Fit and judge the recipe's stackers on the posteriors of a run; see :func:`compare_rows`.

    Raises:
        StackingError: members may not be stacked (:func:`sercache.stacking.joining.join`), or there are no
            rows to fit or judge on.
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
        normalized_members=[one.name for one in recipe.members if recipe.normalizes_speakers(one)],
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
    """Fit and judge stackers on joined posteriors, and write the results into a folder.

    Writes ``stack/<stacker>/`` (the stacker, the judged rows' posteriors; the recommended one's calibration),
    ``comparison.csv``, ``curves.csv`` and ``metrics.json``. A stacker whose inputs are those of an earlier
    result is not fitted again.

    Args:
        rows: what the members predicted, with the truth.
        settings: of the stackers and of the comparison.
        seed: of everything random.
        run: the folder that the results go to.
        costs: of the members, if they are known.
        normalized_members: names of members whose frames are standardised per speaker.
        baseline: what the linear baseline predicts, shown beside the stackers and seen by none of them.
        engine: where to fit; ``auto`` is one stacker after the other, here.
        context: receives events, and says when to stop.

    Raises:
        StackingError: there are no rows to fit or judge on.
        Interrupted: ``context.should_stop`` returned True; the same call goes on from there.
    """
    for name in settings.stackers:
        STACKERS[name]
    CALIBRATORS[settings.calibration]
    plan = make_plan(rows, settings.repeats, seed, context.listener)
    results = _results(plan, settings, seed, run, engine, context)
    if (
        baseline is not None
        and (linear := baseline_result(baseline, plan, run, context.listener)) is not None
    ):
        results.append(linear)
    context.listener(Event("start", "stack/intervals", total=1))
    with threads_worth_having(plan.fitting.inputs.features().size):
        comparison = judge(plan, results, settings, seed, run, context.listener)
        normalized = tuple(name for name in comparison.members if name in normalized_members)
        comparison = replace(comparison, normalized_members=normalized)
        if not comparison.is_leaky:
            chosen = next(result for result in results if result.name == comparison.choice)
            folder = run.stacker_folder(chosen.name)
            report = calibrate(plan, chosen, settings, seed, folder, context)
            curves = _curves(plan, settings, seed, costs)
            comparison = replace(comparison, calibration=report, curves=curves)
            write_atomically(run.curves_path, curves_as_csv(curves))
    if any(result.name == "soup" for result in results):
        comparison = replace(comparison, soup=SoupAccount.read(run.stacker_folder("soup")))
    write_atomically(run.comparison_path, as_csv(comparison))
    write_json(run.metrics_path, as_json(comparison))
    context.listener(Event("finish", "stack/intervals"))
    return comparison


def judge(
    plan: Plan,
    results: Sequence[StackerResult],
    settings: StackingRecipe,
    seed: int,
    run: Run,
    listener: Listener = ignore,
) -> Comparison:
    """Score the results with intervals, and say what they allow one to say."""
    judged = plan.judged
    bootstrap = SpeakerBootstrap(judged.speakers, settings.bootstrap_samples, derive_seed(seed, "bootstrap"))
    if bootstrap.unknown_speakers:
        _warn(
            listener,
            f"{bootstrap.unknown_speakers} of {len(judged)} judged rows name no speaker and count as one "
            "each: the intervals are too narrow if they share speakers",
        )
    by_repeat = {result.name: [scores_of(judged, one) for one in result.predictions] for result in results}
    scores = {
        stacker: {name: mean_over([one[name] for one in its]) for name in its[0]}
        for stacker, its in by_repeat.items()
    }
    attributes, classes = tuple(one.name for one in judged.inputs.attributes), judged.inputs.classes
    names, key = score_names(attributes, has_classes=bool(classes)), judged.truth.primary.key
    decisive = {name: own[key].value for name, own in scores.items()}
    baselines = baselines_of(classes)

    def differences(first: str, second: str) -> dict[str, Difference]:
        return {name: bootstrap.difference(scores[first][name], scores[second][name]) for name in names}

    meta_levels = [name for name in scores if name not in (*baselines, BASELINE)]
    rivals = [name for name in meta_levels if name != REFERENCE]
    to_reference = {name: differences(name, REFERENCE) for name in scores if name != REFERENCE}
    p_values = _holm([to_reference[name][key].p_value for name in rivals])
    p_to_reference = dict(zip(rivals, p_values, strict=True))

    has_baseline = BASELINE in scores
    to_baseline = {name: differences(name, BASELINE) for name in meta_levels} if has_baseline else {}
    p_to_baseline = _holm([own[key].p_value for own in to_baseline.values()])
    over_baseline = {
        name: replace(own[key], p_value=p_value)
        for (name, own), p_value in zip(to_baseline.items(), p_to_baseline, strict=True)
    }

    def row(result: StackerResult) -> ComparisonRow:
        own = scores[result.name]
        return ComparisonRow(
            stacker=result.name,
            is_baseline=result.name not in meta_levels,
            scores={name: bootstrap.estimate(metric) for name, metric in own.items()},
            to_soft_vote=to_reference.get(result.name, {}),
            p_to_soft_vote=p_to_reference.get(result.name, float("nan")),
            fit_seconds=result.fit_seconds,
            predict_seconds=result.predict_seconds,
            fitting_score=result.fitting_score,
            leak_gap=result.fitting_score - decisive[result.name],
            score_by_repeat=tuple(one[key].value for one in by_repeat[result.name]),
            shares=result.shares,
            folder=run.stacker_folder(result.name),
            to_baseline=to_baseline.get(result.name, {}),
            p_to_baseline=over_baseline[result.name].p_value if result.name in over_baseline else np.nan,
        )

    table = tuple(sorted((row(result) for result in results), key=lambda one: -decisive[one.stacker]))
    opposed = {pair: differences(*pair) for pair in COMPARED_PAIRS if set(pair) <= set(scores)}
    is_leaky = bool((judged.origins == "in-sample").any())
    choice, verdict = _verdict(table, scores, opposed, bootstrap, plan, is_leaky=is_leaky)
    above = tuple(name for name, difference in over_baseline.items() if difference.is_gain)
    if over_baseline and not is_leaky:
        estimate = bootstrap.estimate(scores[BASELINE][key])
        sentence = against_baseline(choice, over_baseline, estimate, judged.truth.primary)
        verdict = (verdict[0], sentence, *verdict[1:]) if above else (sentence, *verdict)
    if not is_leaky:
        verdict += tuple(worth_of_finetuning(judged, derived_members(run, "finetuned"), bootstrap))
    if not classes:
        verdict += (_left_out(settings),)
    return Comparison(
        rows=table,
        opposed=opposed,
        choice=choice,
        verdict=verdict,
        is_leaky=is_leaky,
        judged_on="folds" if plan.held_out is None else "held-out",
        fitting_rows=len(plan.fitting),
        judged_rows=len(judged),
        repeats=plan.repeats,
        speakers=bootstrap.cluster_count,
        classes=classes,
        attributes=attributes,
        members=judged.inputs.members,
        above_baseline=above if over_baseline and not is_leaky else None,
    )


def _curves(plan: Plan, settings: StackingRecipe, seed: int, costs: MemberCosts | None) -> Curves:
    rounds = plan.folds_in_turn() if plan.held_out is None else plan.rounds()
    return ensemble_curves(
        [(one.fit, one.judged) for one in rounds],
        fitting=plan.fitting,
        costs=costs,
        samples=settings.bootstrap_samples,
        seed=derive_seed(seed, "bootstrap"),
    )


def _results(
    plan: Plan,
    settings: StackingRecipe,
    seed: int,
    run: Run,
    engine: EngineChoice,
    context: Context,
) -> list[StackerResult]:
    plan_digest = plan.digest()
    classes = plan.fitting.inputs.classes
    named = dict.fromkeys([*baselines_of(classes), "best-single", REFERENCE, *settings.stackers])
    digests = {
        name: input_digest(name, plan_digest, settings, seed)
        for name in named
        if classes or not needs_classes(name)
    }
    results = {
        name: earlier_result(name, digest, run.stacker_folder(name), plan.repeats)
        for name, digest in digests.items()
    }
    tasks = []
    for name, digest in digests.items():
        if results[name] is None:
            folder = run.stacker_folder(name).resolve()
            arguments = (name, plan, settings, seed, digest, folder)
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
        results[name] or read_result(name, digest, run.stacker_folder(name), plan.repeats)
        for name, digest in digests.items()
    ]


def _needs(engine: EngineChoice) -> Needs:
    """Return the threads of a stacker: all where they take turns, one where they are fitted side by side."""
    return Needs(cores=0 if engine.name in (AUTO, "in-process") else 1)


def _verdict(
    table: Sequence[ComparisonRow],
    scores: Mapping[str, Mapping[str, SumMetric]],
    opposed: Mapping[tuple[str, str], Mapping[str, Difference]],
    bootstrap: SpeakerBootstrap,
    plan: Plan,
    *,
    is_leaky: bool,
) -> tuple[str, tuple[str, ...]]:
    """Return the stacker to use, and the sentences."""
    if is_leaky:
        sentence = (
            "No conclusion: members trained on rows they are judged on here, so no score in this table says "
            "anything about new speakers."
        )
        return REFERENCE, (sentence,)

    primary = plan.judged.truth.primary
    guessing = baselines_of(plan.judged.inputs.classes)[0], "uar" if primary == MACRO_F1 else primary.key

    def difference(first: str, second: str, score: str = primary.key) -> Difference:
        return bootstrap.difference(scores[first][score], scores[second][score])

    candidates = {row.stacker: row.scores[primary.key] for row in table if not row.is_baseline}
    best = max(candidates, key=lambda name: candidates[name].value)
    behind = {name: difference(best, name) for name in candidates if name != best}
    over_guessing = difference(best, *guessing)
    floor = max((row.scores[primary.key].value for row in table if row.stacker == BASELINE), default=-np.inf)
    choice, sentence = recommend(
        candidates,
        behind,
        over_guessing,
        speakers=bootstrap.cluster_count,
        primary=primary,
        floor=floor,
    )
    p_values = _holm([own[primary.key].p_value for own in opposed.values()])
    sentences = [sentence] + [
        oppose(*pair, replace(own[primary.key], p_value=p_value), len(opposed), primary)
        for (pair, own), p_value in zip(opposed.items(), p_values, strict=True)
    ]
    if (plan.fitting.origins == "in-sample").any():
        worst = max((row for row in table if not np.isnan(row.leak_gap)), key=lambda row: row.leak_gap)
        sentences.append(
            "Stackers were fitted on in-sample posteriors: "
            f"{worst.stacker} scores {worst.fitting_score:.3f} on the rows it was fitted on and "
            f"{worst.scores[primary.key].value:.3f} on held-out ones, a gap of {worst.leak_gap:+.3f}."
        )
    return choice, tuple(sentences)


def baselines_of(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the baselines of a corpus with these classes: those for classes only, or else the others."""
    return tuple(name for name in BASELINES if needs_classes(name) == bool(classes))


def _left_out(settings: StackingRecipe) -> str:
    """Say what is left out where a corpus has attributes alone."""
    skipped = [name for name in dict.fromkeys(settings.stackers) if needs_classes(name)]
    listed = ", ".join([*skipped, "calibration", "conformal sets"])
    return f"The corpus has no classes: {listed} and thresholds are left out, as only classes have them."


def _holm(p_values: Sequence[float]) -> list[float]:
    """Return the corrected p-values; with one speaker all are unknown and stay so."""
    return holm(p_values).tolist() if p_values and not np.isnan(p_values).any() else list(p_values)


def _warn(listener: Listener, message: str) -> None:
    listener(Event("warning", "stack", message=message))
