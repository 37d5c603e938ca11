"""The ablation: what is lost when one ingredient of a member is taken out, over seeds and folds."""

from sercache.engines.choice import LOCAL, EngineChoice
from sercache.events import Listener, ignore
from sercache.experiments.ablation_judging import judge_ablation
from sercache.experiments.ablation_plan import AblationPlan
from sercache.experiments.ablation_report import AblationReport, as_csv, as_json
from sercache.files import write_atomically, write_json
from sercache.interrupts import ShouldStop, never
from sercache.training.ensemble import train_ensemble


def run_ablation(
    plan: AblationPlan,
    *,
    device: str = "auto",
    workers: int | None = None,
    engine: EngineChoice = LOCAL,
    listener: Listener = ignore,
    should_stop: ShouldStop = never,
) -> AblationReport:
    """Train what is not trained yet, compare the variants with the full member, and write the table.

    Arguments are those of :func:`sercache.training.ensemble.train_ensemble`. Writes ``ablation.csv`` and
    ``ablation.json`` into the run's folder.

    Raises:
        RecipeError: the run's folder belongs to another recipe, or to other variants or seeds.
        TrainingError: the full member could not be trained with every seed: there is nothing to compare with.
        Interrupted: ``should_stop`` said so; the same call goes on after the last finished epoch.
    """
    trained = train_ensemble(
        plan.recipe,
        device=device,
        workers=workers,
        engine=engine,
        listener=listener,
        should_stop=should_stop,
    )
    report = judge_ablation(plan, trained)
    write_atomically(report.csv_path, as_csv(report))
    write_json(report.json_path, as_json(report))
    return report
