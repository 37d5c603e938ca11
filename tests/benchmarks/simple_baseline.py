"""Compare a run with what ten lines of scikit-learn reach on its own folds.

    python tests/benchmarks/simple_baseline.py RUN [--features whisper kwt1]

The ten lines: mean and standard deviation over time of every layer of the feature sets, standardised, then
ridge regression on -1 and 1, or logistic regression, with a fixed penalty. Prints macro-F1 and UAR with 95 %
intervals over speakers, and what every member and stacker of the run scores beyond the better of the two on
the same rows. Works on runs without a test split, where every row is judged.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sercache.cache.frames import from_storage
from sercache.evaluation.bootstrap import SpeakerBootstrap, SumMetric, confusion_metric
from sercache.evaluation.metrics import macro_f1_of_confusion, uar_of_confusion
from sercache.posteriors import Posteriors
from sercache.training.data import TrainingData, open_run


def pooled_statistics(data: TrainingData, features: list[str], ids: list[str]) -> np.ndarray:
    """Return mean and standard deviation over time of every layer of the feature sets, ``(N, P)``."""
    columns = []
    for name in features:
        feature_set = data.feature_sets[name]
        for layer in feature_set.layers:
            frames = [
                from_storage(feature_set.frames(utterance_id, layer), feature_set.spec.dtype)
                for utterance_id in ids
            ]
            columns.append(
                np.stack([np.concatenate([frame.mean(axis=0), frame.std(axis=0)]) for frame in frames])
            )
    return np.concatenate(columns, axis=1)


def predict(data: TrainingData, pooled: np.ndarray, ids: list[str], model: Any) -> np.ndarray:
    """Return the class of each of ``ids``, predicted by a model that never saw its speaker, ``(N,)``."""
    folds, labels = data.folds.of(ids), data.rows.select(ids).consensus
    predicted = np.empty(len(ids), np.int64)
    for fold in range(data.folds.count):
        fit = (folds != fold) & (labels >= 0)
        fitted = make_pipeline(StandardScaler(), model).fit(pooled[fit], labels[fit])
        predicted[folds == fold] = fitted.predict(pooled[folds == fold])
    return predicted


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--features", nargs="+", help="the recipe's names of feature sets; all unless given")
    arguments = parser.parse_args()
    data = open_run(arguments.run.resolve())
    root = data.run.root
    tables = [Posteriors.load(data.run.posteriors_path(member.name)) for member in data.recipe.members]
    tables += [Posteriors.load(path) for path in sorted(root.glob("stack/*/posteriors.parquet"))]
    ids = [
        utterance_id
        for utterance_id in tables[0].ids
        if all(utterance_id in set(table.ids) for table in tables)
    ]
    labels = data.rows.select(ids).consensus
    bootstrap = SpeakerBootstrap(
        [data.corpus.by_id[utterance_id].speaker for utterance_id in ids], samples=2000, seed=0, level=0.95
    )
    num_classes = len(data.corpus.classes)

    def scores(predicted: np.ndarray) -> tuple[SumMetric, SumMetric]:
        return (
            confusion_metric(labels, predicted, num_classes, macro_f1_of_confusion),
            confusion_metric(labels, predicted, num_classes, uar_of_confusion),
        )

    def shown(metric: SumMetric) -> str:
        estimate = bootstrap.estimate(metric)
        return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"

    features = arguments.features or list(data.feature_sets)
    pooled = pooled_statistics(data, features, ids)
    models = {
        "simple ridge": RidgeClassifier(alpha=0.1 * pooled.shape[1]),
        "simple logistic": LogisticRegression(C=0.01, max_iter=2000),
    }
    rows = {name: scores(predict(data, pooled, ids, model)) for name, model in models.items()}
    best = max(rows, key=lambda name: rows[name][0].value)
    for table in tables:
        rows[table.member] = scores(table.take(ids).class_probabilities.argmax(axis=1))
    baseline = rows[best][0]
    print(
        f"{len(ids)} rows, {num_classes} classes; {pooled.shape[1]:,} pooled numbers of {', '.join(features)}"
    )
    print(f"{'':20} {'macro-F1':22} {'UAR':22} macro-F1 beyond {best}")
    for name, (f1, recall) in rows.items():
        line = f"{name:20} {shown(f1):22} {shown(recall):22}"
        if f1 is not baseline:
            gain = bootstrap.difference(f1, baseline)
            line += f" {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] p = {gain.p_value:.3f}"
        print(line)


if __name__ == "__main__":
    main()
