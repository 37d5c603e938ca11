"""Which layer of an encoder is best on a corpus: a linear probe on each (SUPERB, Yang et al. 2021).

Where a property sits among the layers differs from encoder to encoder and from task to task (Pasad, Chou and
Livescu 2021), and emotion is rarely in the last one. A probe of the corpus takes minutes.
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
from sercache.corpus.folds import assign_folds
from sercache.corpus.targets import consensus
from sercache.errors import TrainingError
from sercache.evaluation.bootstrap import (
    Difference,
    Estimate,
    SpeakerBootstrap,
    SumMetric,
    ccc_metric,
    confusion_metric,
    mean_ccc_metric,
)
from sercache.evaluation.metrics import macro_f1_of_confusion, uar_of_confusion
from sercache.evaluation.primary import MACRO_F1, PrimaryScore, Truth, primary_score
from sercache.events import QUIET, Context, Event
from sercache.experiments.linear_probe import Probed, ProbeRows, chosen_on_inner_rows, probe
from sercache.files import without_nan, write_atomically
from sercache.recipe import TargetsRecipe
from sercache.seeds import derive_seed
from sercache.training.rows import LabelledRows

_CLEAR = 0.05


@dataclass(frozen=True, slots=True)
class LayerScore:
    """One layer, or the sum of all.

    Attributes:
        name: in the feature set; ``sum of all`` for the sum.
        request: the layer for ``layers`` in a recipe and ``cache prune --keep-layers``; empty for the sum.
        score: the primary score, out of fold, with its interval over speakers.
        uar: likewise; None where there are no classes.
        ccc: of each attribute.
        behind_best: primary score minus the best layer's; None for the best.
        p_value: that it is as good as the best, for all layers together
            (:meth:`~sercache.evaluation.bootstrap.SpeakerBootstrap.best_p_values`); NaN for the best.
    """

    name: str
    request: str
    score: Estimate
    uar: Estimate | None
    ccc: dict[str, Estimate]
    behind_best: Difference | None
    p_value: float

    @property
    def is_clearly_worse(self) -> bool:
        """Whether the layer is clearly below the best."""
        return self.behind_best is not None and self.behind_best.high < 0 and self.p_value < _CLEAR


@dataclass(frozen=True, slots=True)
class LayerReport:
    """The scores of all layers.

    Attributes:
        folder: of the feature set.
        rows: how many count in the primary score.
        speakers: of these rows.
        layers: in the order of the encoder; the sum last, if it was asked for.
        chosen_blindly: primary score where each fold's layer is chosen on the other folds.
        blind_choices: the chosen layer, by fold.
        size_bytes: of the feature set.
        primary: the score that decides.
    """

    folder: Path
    rows: int
    speakers: int
    layers: tuple[LayerScore, ...]
    chosen_blindly: Estimate
    blind_choices: tuple[str, ...]
    size_bytes: int
    primary: PrimaryScore = MACRO_F1

    @property
    def best(self) -> LayerScore:
        """The layer with the highest primary score."""
        return max(self.layers, key=lambda layer: layer.score.value)

    @property
    def best_kept(self) -> LayerScore:
        """The best of the single layers, which a cache can be pruned to."""
        return max((layer for layer in self.layers if layer.request), key=lambda layer: layer.score.value)

    @property
    def freed_bytes(self) -> float:
        """How many bytes a cache needs less when it is pruned to one of the single layers."""
        return self.size_bytes * (1 - 1 / sum(bool(layer.request) for layer in self.layers))

    @property
    def verdict(self) -> str:
        """A sentence on the best layer, and which layers are clearly worse."""
        best = self.best
        where = f"On {self.rows:,} rows of {self.speakers} speakers"
        if len(self.layers) == 1:
            return f"{where}: there is one layer, and nothing to choose between."
        worse = [layer.name for layer in self.layers if layer.is_clearly_worse]
        if len(worse) == len(self.layers) - 1:
            return f"{where}: {best.name} is better than every other layer."
        if not worse:
            return f"{where}: {best.name} scores highest, but no layer is clearly worse."
        return (
            f"{where}: {best.name} scores highest; of the others only {', '.join(worse)} "
            f"{'are' if len(worse) > 1 else 'is'} clearly worse."
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
    context: Context = QUIET,
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
        context: receives events, and can stop the work.

    Raises:
        TrainingError: there is nothing to probe on.
        CorpusError: there are fewer speakers than folds.
        CacheError: frames are damaged.
        Interrupted: ``context.should_stop`` returned True.
    """
    chosen, rows = _rows(feature_set, corpus, folds, seed)
    wanted: list[tuple[str, str, tuple[str, ...]]] = [
        (name, _request(name), (name,)) for name in feature_set.layers
    ]
    if with_sum and len(wanted) > 1:
        wanted.append(("sum of all", "", feature_set.layers))
    probed: list[Probed] = []
    for number, (name, _, layers) in enumerate(wanted):
        vectors = pooled_layer(feature_set, layers, chosen.ids, deviation=deviation, context=context)
        probed.append(probe(vectors, rows, context.should_stop))
        context.listener(Event("advance", "probing", number + 1, len(wanted), values={"layer": name}))
    context.listener(Event("finish", "probing", len(wanted), len(wanted)))
    speakers = [row.speaker for row in chosen.utterances]
    bootstrap = SpeakerBootstrap(speakers, samples, derive_seed(seed, "probe"))
    scores = _scores(wanted, probed, rows, corpus.attribute_names, bootstrap)
    blind, choices = chosen_on_inner_rows(probed, rows.folds)
    return LayerReport(
        feature_set.folder,
        int(rows.truth.is_scored.sum()),
        bootstrap.cluster_count,
        scores,
        bootstrap.estimate(_primary_metric(rows, blind)),
        tuple(wanted[choice][0] for choice in choices),
        feature_set.size_bytes,
        rows.truth.primary,
    )


def _primary_metric(rows: ProbeRows, probed: Probed) -> SumMetric:
    """Return the primary score of predictions; those of classes are decisions, no probabilities."""
    truth = rows.truth
    if truth.num_classes:
        return confusion_metric(truth.labels, probed.classes, truth.num_classes, macro_f1_of_confusion)
    return mean_ccc_metric(truth.attributes, probed.attributes)


def _scores(
    wanted: Sequence[tuple[str, str, tuple[str, ...]]],
    probed: Sequence[Probed],
    rows: ProbeRows,
    attribute_names: Sequence[str],
    bootstrap: SpeakerBootstrap,
) -> tuple[LayerScore, ...]:
    primary = [_primary_metric(rows, layer) for layer in probed]
    best = int(np.argmax([metric.value for metric in primary]))
    behind = {
        index: bootstrap.difference(metric, primary[best])
        for index, metric in enumerate(primary)
        if index != best
    }
    p_values = bootstrap.best_p_values(primary).tolist()

    def uar(layer: Probed) -> Estimate | None:
        truth = rows.truth
        if not truth.num_classes:
            return None
        metric = confusion_metric(truth.labels, layer.classes, truth.num_classes, uar_of_confusion)
        return bootstrap.estimate(metric)

    return tuple(
        LayerScore(
            name=name,
            request=request,
            score=bootstrap.estimate(primary[index]),
            uar=uar(probed[index]),
            ccc={
                attribute: bootstrap.estimate(ccc_metric(truth, predicted))
                for attribute, truth, predicted in zip(
                    attribute_names, rows.truth.attributes.T, probed[index].attributes.T, strict=True
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
    attributes, key = list(report.layers[0].ccc), report.primary.key
    names = [key, "uar"] if report.layers[0].uar is not None else [key]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["layer", *(f"{name}{end}" for name in names for end in ("", "_low", "_high"))]
        + [f"ccc:{name}" for name in attributes]
        + ["minus_best", "minus_best_low", "minus_best_high", "p_value"]
    )
    for layer in report.layers:
        behind = layer.behind_best
        writer.writerow(
            [layer.name, *_numbers(layer.score), *(_numbers(layer.uar) if layer.uar is not None else [])]
            + [f"{layer.ccc[name].value:.6f}" for name in attributes]
            + ([*_numbers(behind), f"{layer.p_value:.6f}"] if behind is not None else [""] * 4)
        )
    write_atomically(path, text.getvalue())


def as_json(report: LayerReport) -> dict[str, Any]:
    """Return everything that was measured, as JSON knows it."""
    content: dict[str, Any] = without_nan(asdict(report))
    named = {"score": content.pop("primary")["key"]}
    content["layers"] = [
        {named.get(key, key): value for key, value in layer.items() if key != "uar" or value is not None}
        for layer in content["layers"]
    ]
    return content | {"best": report.best.name, "verdict": report.verdict}


def _numbers(estimate: Estimate | Difference) -> list[str]:
    return [f"{value:.6f}" for value in (estimate.value, estimate.low, estimate.high)]


def _request(name: str) -> str:
    """Return a layer as a recipe names it: ``layer-7`` is 7, ``sum-9-12`` is 9-12."""
    return name.removeprefix("layer-").removeprefix("sum-")


def _rows(feature_set: FeatureSet, corpus: Corpus, folds: int, seed: int) -> tuple[Corpus, ProbeRows]:
    """Return the utterances that are probed on, and their targets and folds."""
    train = [row.id for row in corpus.utterances if (row.split or "train") == "train"]
    missing = set(feature_set.missing(train))
    failed = Ledger(feature_set.folder).failures
    if untried := [
        utterance_id for utterance_id in train if utterance_id in missing and utterance_id not in failed
    ]:
        raise TrainingError(
            f"{feature_set.folder}: lacks {len(untried)} of {len(train)} training utterances, first "
            f"'{untried[0]}'; run sercache extract to finish it, or name the corpus that it was made from"
        )
    chosen = corpus.select([utterance_id for utterance_id in train if utterance_id not in missing])
    labels, is_scored = consensus(chosen), Truth.of(chosen).is_scored
    needs = primary_score(len(corpus.classes)).needs
    if corpus.classes and len(np.unique(labels[labels >= 0])) < 2:
        raise TrainingError(
            f"{len(chosen)} training rows with frames have fewer than two consensus classes: nothing to probe"
        )
    if not is_scored.any():
        raise TrainingError(f"none of {len(chosen)} training rows with frames has {needs}: nothing to probe")
    numbers = assign_folds(chosen, folds, seed).of(chosen.ids)
    for fold in range(folds):
        if not is_scored[numbers != fold].any():
            raise TrainingError(f"all rows with {needs} are in fold {fold}: nothing to learn it from")
    targets = LabelledRows.of(chosen, TargetsRecipe())
    return chosen, ProbeRows(chosen, targets, numbers, derive_seed(seed, "inner"))
