"""Which layer of an encoder is best on a corpus: a linear probe on each (SUPERB, Yang et al. 2021).

Where a property sits among the layers differs from encoder to encoder and from task to task (Pasad, Chou and
Livescu 2021), and emotion is rarely in the last one. A probe costs minutes and asks the corpus itself.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sercache.cache.ledger import Ledger
from sercache.cache.pooling import pooled_layer
from sercache.cache.store import FeatureSet
from sercache.corpus import Corpus
from sercache.corpus.folds import assign_folds, inner_slice
from sercache.corpus.targets import consensus
from sercache.errors import TrainingError
from sercache.evaluation.bootstrap import (
    Difference,
    Estimate,
    SpeakerBootstrap,
    SumMetric,
    ccc_metric,
    confusion_metric,
)
from sercache.evaluation.metrics import ConfusionMetric, macro_f1_of_confusion, uar_of_confusion
from sercache.events import Event, Listener, ignore
from sercache.experiments.linear_probe import Probed, ProbeRows, chosen_on_inner_rows, probe
from sercache.files import without_nan, write_atomically
from sercache.interrupts import ShouldStop, never
from sercache.seeds import derive_seed

_INNER_SHARE = 0.2
_CLEAR = 0.05


@dataclass(frozen=True, slots=True)
class LayerScore:
    """One layer, or the sum of all.

    Attributes:
        name: as the feature set calls it; ``sum of all`` for the sum.
        request: how ``layers`` in a recipe and ``cache prune --keep-layers`` call it; empty for the sum.
        macro_f1: out of fold, with its interval over speakers.
        uar: likewise.
        ccc: of each attribute.
        behind_best: macro-F1 minus the best layer's; None for the best.
        p_value: that it is as good as the best, for all layers together
            (:meth:`~sercache.evaluation.bootstrap.SpeakerBootstrap.best_p_values`); NaN for the best.
    """

    name: str
    request: str
    macro_f1: Estimate
    uar: Estimate
    ccc: dict[str, Estimate]
    behind_best: Difference | None
    p_value: float

    @property
    def is_clearly_worse(self) -> bool:
        """Whether it can be told from the best layer."""
        return self.behind_best is not None and self.behind_best.high < 0 and self.p_value < _CLEAR


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What a probe found.

    Attributes:
        folder: of the feature set.
        rows: judged, those with a consensus class.
        speakers: who speaks in them.
        layers: in the order of the encoder; the sum last, if it was asked for.
        chosen_blindly: macro-F1 of whoever has to choose the layer without the fold that is judged.
        blind_choices: which layer that was, by fold.
        size_bytes: of the feature set.
    """

    folder: Path
    rows: int
    speakers: int
    layers: tuple[LayerScore, ...]
    chosen_blindly: Estimate
    blind_choices: tuple[str, ...]
    size_bytes: int

    @property
    def best(self) -> LayerScore:
        """The layer with the highest macro-F1."""
        return max(self.layers, key=lambda layer: layer.macro_f1.value)

    @property
    def best_kept(self) -> LayerScore:
        """The best of the single layers, which a cache can be pruned to."""
        return max((one for one in self.layers if one.request), key=lambda layer: layer.macro_f1.value)

    @property
    def verdict(self) -> str:
        """What to keep, and how sure that is."""
        best = self.best
        where = f"On {self.rows:,} rows of {self.speakers} speakers"
        if len(self.layers) == 1:
            return f"{where}: there is one layer, and nothing to choose between."
        worse = [one.name for one in self.layers if one.is_clearly_worse]
        if len(worse) == len(self.layers) - 1:
            return f"{where}: {best.name} is better than every other layer."
        if not worse:
            return f"{where}: {best.name} scores highest, but no layer can be told from it."
        return (
            f"{where}: {best.name} scores highest; of the others only {', '.join(worse)} can be told from it."
        )


def probe_layers(
    feature_set: FeatureSet,
    corpus: Corpus,
    *,
    folds: int = 5,
    seed: int = 0,
    deviation: bool = True,
    with_sum: bool = False,
    samples: int = 2000,
    listener: Listener = ignore,
    should_stop: ShouldStop = never,
) -> LayerReport:
    """Probe every kept layer on the training split of a corpus.

    Args:
        feature_set: with one or more layers.
        corpus: its training rows with frames are used; development and test rows are never touched.
        folds: speaker-disjoint, stratified by class.
        seed: of the folds and of the bootstrap.
        deviation: pool standard deviations as well as means.
        with_sum: also probe the sum of all kept layers, frame by frame.
        samples: draws of the bootstrap.
        listener: told of every layer.
        should_stop: looked at while layers are read, and between them.

    Raises:
        TrainingError: there is nothing to probe on.
        CorpusError: there are fewer speakers than folds.
        CacheError: frames are damaged.
        Interrupted: ``should_stop`` said so.
    """
    chosen, rows = _rows(feature_set, corpus, folds, seed)
    wanted: list[tuple[str, str, tuple[str, ...]]] = [
        (name, _request(name), (name,)) for name in feature_set.layers
    ]
    if with_sum and len(wanted) > 1:
        wanted.append(("sum of all", "", feature_set.layers))
    probed: list[Probed] = []
    for number, (name, _, layers) in enumerate(wanted):
        vectors = pooled_layer(
            feature_set, layers, chosen.ids, deviation=deviation, listener=listener, should_stop=should_stop
        )
        probed.append(probe(vectors, rows))
        listener(Event("advance", "probing", number + 1, len(wanted), values={"layer": name}))
    listener(Event("finish", "probing", len(wanted), len(wanted)))
    speakers = [row.speaker for row in chosen.utterances]
    bootstrap = SpeakerBootstrap(speakers, samples, derive_seed(seed, "probe"))
    scores = _scores(wanted, probed, rows, corpus.attribute_names, bootstrap)
    classes, choices = chosen_on_inner_rows(probed, rows)
    blind = confusion_metric(rows.labels, classes, rows.num_classes, macro_f1_of_confusion)
    return LayerReport(
        feature_set.folder,
        int((rows.labels >= 0).sum()),
        bootstrap.cluster_count,
        scores,
        bootstrap.estimate(blind),
        tuple(wanted[choice][0] for choice in choices),
        feature_set.size_bytes,
    )


def _scores(
    wanted: Sequence[tuple[str, str, tuple[str, ...]]],
    probed: Sequence[Probed],
    rows: ProbeRows,
    attribute_names: Sequence[str],
    bootstrap: SpeakerBootstrap,
) -> tuple[LayerScore, ...]:
    def metrics(score: ConfusionMetric) -> list[SumMetric]:
        return [confusion_metric(rows.labels, one.classes, rows.num_classes, score) for one in probed]

    f1, uars = metrics(macro_f1_of_confusion), metrics(uar_of_confusion)
    best = int(np.argmax([metric.value for metric in f1]))
    behind = {
        index: bootstrap.difference(metric, f1[best]) for index, metric in enumerate(f1) if index != best
    }
    p_values = bootstrap.best_p_values(f1).tolist()
    return tuple(
        LayerScore(
            name=name,
            request=request,
            macro_f1=bootstrap.estimate(f1[index]),
            uar=bootstrap.estimate(uars[index]),
            ccc={
                attribute: bootstrap.estimate(ccc_metric(truth, predicted))
                for attribute, truth, predicted in zip(
                    attribute_names, rows.attributes.T, probed[index].attributes.T, strict=True
                )
            },
            behind_best=behind.get(index),
            p_value=p_values[index],
        )
        for index, (name, request, _) in enumerate(wanted)
    )


def save_probe(report: LayerReport, path: Path) -> None:
    """Write a report as CSV, one row per layer."""
    text = io.StringIO()
    attributes = list(report.layers[0].ccc)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["layer", "macro_f1", "macro_f1_low", "macro_f1_high", "uar", "uar_low", "uar_high"]
        + [f"ccc:{name}" for name in attributes]
        + ["minus_best", "minus_best_low", "minus_best_high", "p_value"]
    )
    for layer in report.layers:
        behind = layer.behind_best
        writer.writerow(
            [layer.name, *_numbers(layer.macro_f1), *_numbers(layer.uar)]
            + [f"{layer.ccc[name].value:.6f}" for name in attributes]
            + ([*_numbers(behind), f"{layer.p_value:.6f}"] if behind is not None else [""] * 4)
        )
    write_atomically(path, text.getvalue())


def as_json(report: LayerReport) -> dict[str, Any]:
    """Return everything that was measured, as JSON knows it."""
    content: dict[str, Any] = without_nan(asdict(report))
    return content | {"best": report.best.name, "verdict": report.verdict}


def _numbers(estimate: Estimate | Difference) -> list[str]:
    return [f"{value:.6f}" for value in (estimate.value, estimate.low, estimate.high)]


def _request(name: str) -> str:
    """Return how a recipe calls a layer: ``layer-7`` is 7, ``sum-9-12`` is 9-12."""
    return name.removeprefix("layer-").removeprefix("sum-")


def _rows(feature_set: FeatureSet, corpus: Corpus, folds: int, seed: int) -> tuple[Corpus, ProbeRows]:
    """Return the utterances that are probed on, and what there is to learn of them."""
    train = [row.id for row in corpus.utterances if (row.split or "train") == "train"]
    missing = set(feature_set.missing(train))
    failed = Ledger(feature_set.folder).failures
    if untried := [one for one in train if one in missing and one not in failed]:
        raise TrainingError(
            f"{feature_set.folder}: lacks {len(untried)} of {len(train)} training utterances, first "
            f"'{untried[0]}'; run sercache extract to finish it, or name the corpus that it was made from"
        )
    chosen = corpus.select([one for one in train if one not in missing])
    labels = consensus(chosen)
    if len(np.unique(labels[labels >= 0])) < 2:
        raise TrainingError(
            f"{len(chosen)} training rows with frames have fewer than two consensus classes: nothing to probe"
        )
    numbers = assign_folds(chosen, folds, seed).of(chosen.ids)
    inner = []
    for fold in range(folds):
        if not (labels[numbers != fold] >= 0).any():
            raise TrainingError(
                f"all rows with a consensus class are in fold {fold}: nothing to learn it from"
            )
        others = [one for one, its in zip(chosen.ids, numbers, strict=True) if its != fold]
        _, judged = inner_slice(chosen.select(others), _INNER_SHARE, derive_seed(seed, "inner", fold))
        inner.append(np.isin(np.asarray(chosen.ids), np.asarray(judged)))
    return chosen, ProbeRows(labels, chosen.attribute_values, numbers, tuple(inner), len(corpus.classes))
