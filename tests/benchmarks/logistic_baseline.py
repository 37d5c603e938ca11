"""Hold a run against the simplest thing: logistic regression on mean-pooled frames, on the run's own folds.

    python tests/benchmarks/logistic_baseline.py RUN [--features logmel]

Prints macro-F1 and UAR with 95 % intervals over speakers, and what every member and stacker of the run scores
beyond the regression on the same rows. Works on runs without a test split, where every row is judged.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sercache.cache.precision import from_storage
from sercache.evaluation.bootstrap import SpeakerBootstrap, SumMetric, confusion_metric
from sercache.evaluation.metrics import macro_f1_of_confusion, uar_of_confusion
from sercache.posteriors import Posteriors
from sercache.training.context import RunContext, open_run


def predict_by_regression(context: RunContext, features: str, ids: list[str]) -> np.ndarray:
    """Return the class of each of ``ids``, predicted by a regression that never saw its speaker, ``(N,)``."""
    feature_set = context.feature_sets[features]
    pooled = np.stack(
        [from_storage(feature_set.frames(each), feature_set.spec.dtype).mean(axis=0) for each in ids]
    )
    folds, labels = context.folds.of(ids), context.rows.select(ids).consensus
    predicted = np.empty(len(ids), np.int64)
    for fold in range(context.folds.count):
        fit = (folds != fold) & (labels >= 0)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
        predicted[folds == fold] = model.fit(pooled[fit], labels[fit]).predict(pooled[folds == fold])
    return predicted


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--features", default="logmel", help="the recipe's name of the feature set")
    arguments = parser.parse_args()
    context = open_run(arguments.run.resolve())
    root = context.run.root
    tables = [Posteriors.load(context.run.posteriors_path(one.name)) for one in context.recipe.members]
    tables += [Posteriors.load(path) for path in sorted(root.glob("stack/*/posteriors.parquet"))]
    ids = [each for each in tables[0].ids if all(each in set(table.ids) for table in tables)]
    labels = context.rows.select(ids).consensus
    bootstrap = SpeakerBootstrap(
        [context.corpus.by_id[each].speaker for each in ids], samples=2000, seed=0, level=0.95
    )
    num_classes = len(context.corpus.classes)

    def scores(predicted: np.ndarray) -> tuple[SumMetric, SumMetric]:
        return (
            confusion_metric(labels, predicted, num_classes, macro_f1_of_confusion),
            confusion_metric(labels, predicted, num_classes, uar_of_confusion),
        )

    def shown(metric: SumMetric) -> str:
        estimate = bootstrap.estimate(metric)
        return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"

    rows = {"logistic regression": scores(predict_by_regression(context, arguments.features, ids))}
    for table in tables:
        rows[table.member] = scores(table.take(ids).class_probabilities.argmax(axis=1))
    baseline = rows["logistic regression"][0]
    print(f"{len(ids)} rows, {num_classes} classes; regression on the means of '{arguments.features}'")
    print(f"{'':20} {'macro-F1':22} {'UAR':22} macro-F1 beyond the regression")
    for name, (f1, recall) in rows.items():
        line = f"{name:20} {shown(f1):22} {shown(recall):22}"
        if f1 is not baseline:
            gain = bootstrap.difference(f1, baseline)
            line += f" {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] p = {gain.p_value:.3f}"
        print(line)


if __name__ == "__main__":
    main()
