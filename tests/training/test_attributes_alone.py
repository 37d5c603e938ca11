"""Corpora with attributes and no classes: what is learned, what stops a training, what comes of it."""

import csv
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sercache.corpus import Attribute, Corpus, Utterance
from sercache.corpus.manifest import write_corpus
from sercache.errors import CorpusError, RecipeError, TrainingError
from sercache.heads.protocol import HeadInput, HeadOutput
from sercache.heads.registry import HEADS, build_head
from sercache.posteriors import Posteriors
from sercache.recipe import TargetsRecipe, TrainingRecipe, load_recipe
from sercache.training.checkpoint import load_head
from sercache.training.data import open_run
from sercache.training.ensemble import train_ensemble
from sercache.training.epoch import rank_of_epoch, rows_of_epoch, scores_of_epoch
from sercache.training.member import HISTORY_NAME
from sercache.training.mixing import Mix, mix_targets
from sercache.training.objective import Objective, Targets
from sercache.training.rows import LabelledRows
from support.run_builder import make_corpus, write_features, write_recipe
from support.simulated_attributes import lins_mean, without_classes

LINEAR = {"name": "linear", "head": "mean-linear", "features": ["speech"]}


def lay_out(folder, *, ratings=lambda row: row.attributes, splits=None, **changes):
    """A run whose features follow the classes that its corpus no longer has."""
    corpus = make_corpus(folder, splits=splits)
    write_features(folder, corpus)
    alone = without_classes(corpus)
    rows = tuple(replace(row, attributes=tuple(ratings(row))) for row in alone.utterances)
    write_corpus(replace(alone, utterances=rows), folder / "corpus.csv")
    return load_recipe(write_recipe(folder, **changes))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return train_ensemble(lay_out(tmp_path_factory.mktemp("alone")), workers=1)


def test_members_learn_the_attributes_and_have_no_class_columns(report):
    data = open_run(report.run.root)
    assert len(report.members) == 2
    for member in report.members:
        posteriors = Posteriors.load(report.run.posteriors_path(member.name))
        assert posteriors.classes == ()
        assert posteriors.class_probabilities.shape == (len(data.corpus), 0)
        truth = data.corpus.select(posteriors.ids).attribute_values
        assert member.mean_ccc == pytest.approx(lins_mean(truth, posteriors.attribute_values))
        assert member.mean_ccc > 0.3
        assert member.rows == (~np.isnan(truth)).any(axis=1).sum() < len(truth)
        assert np.isnan([member.macro_f1, member.uar]).all()
        assert member.score(report.primary) == member.mean_ccc


def test_the_baseline_has_a_mean_ccc_and_members_are_compared_by_it(report):
    baseline, data = report.baseline, open_run(report.run.root)
    tables = [Posteriors.load(report.run.posteriors_path(name)) for name in ("linear-baseline", "linear")]
    scores = [
        lins_mean(data.corpus.select(table.ids).attribute_values, table.attribute_values) for table in tables
    ]
    assert baseline.score.value == pytest.approx(scores[0])
    assert baseline.score.low <= baseline.score.value <= baseline.score.high
    assert baseline.uar is None
    assert set(baseline.differences) == {"fusion", "linear"}
    assert baseline.differences["linear"].value == pytest.approx(scores[1] - scores[0])
    assert f"mean CCC {scores[0]:.3f} [" in baseline.sentence
    assert f"(mean CCC {scores[0]:.3f} [" in baseline.verdict
    assert "macro-F1" not in baseline.sentence + baseline.verdict


def test_the_best_epoch_has_the_highest_mean_ccc(report):
    folds = sorted(report.run.root.glob(f"members/*/fold-*/{HISTORY_NAME}"))
    assert len(folds) == 6
    for path in folds:
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert "macro_f1" not in rows[0]
        assert all(-1 <= float(row["mean_ccc"]) <= 1 for row in rows)
    data = open_run(report.run.root)
    best = load_head(folds[0].with_name("weights.safetensors"))[1].best
    with folds[0].open(newline="") as stream:
        assert best["mean_ccc"] == max(float(row["mean_ccc"]) for row in csv.DictReader(stream))
    assert data.rows.soft.shape[1] == 0


def epoch(mean_ccc, stop_loss):
    return {"epoch": 1, "stop_loss": stop_loss, "mean_ccc": mean_ccc}


def test_epochs_rank_by_mean_ccc_then_by_loss():
    ordered = [epoch(np.nan, 0.1), epoch(-0.2, 0.1), epoch(0.3, 0.9), epoch(0.3, 0.5), epoch(0.31, 2.0)]
    ranks = [rank_of_epoch(row) for row in ordered]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ranks)


def rows_without_classes(count=12, seed=0):
    rng = np.random.default_rng(seed)
    corpus = without_classes(make_corpus_of(count))
    values = rng.uniform(1, 7, (count, 1))
    values[3] = np.nan
    utterances = tuple(
        replace(row, attributes=tuple(ratings))
        for row, ratings in zip(corpus.utterances, values.tolist(), strict=True)
    )
    return LabelledRows.of(replace(corpus, utterances=utterances), TargetsRecipe()), values


def make_corpus_of(count):
    rows = tuple(Utterance(f"u{row}", text="words", speaker=f"s{row % 3}") for row in range(count))
    return Corpus((), (Attribute("arousal", 1, 7),), rows, Path())


def test_the_score_of_an_epoch_is_the_mean_ccc_of_its_stop_rows():
    rows, values = rows_without_classes()
    predicted = np.nan_to_num(values, nan=4.0) + np.linspace(-1, 1, len(values))[:, None]
    output = HeadOutput(torch.empty(len(values), 0), torch.from_numpy(predicted).float())
    scores = scores_of_epoch(output, rows, TrainingRecipe())
    assert set(scores) == {"stop_loss", "mean_ccc"}
    assert scores["mean_ccc"] == pytest.approx(lins_mean(values, predicted), abs=1e-6)
    known = ~np.isnan(values)
    assert scores["stop_loss"] == pytest.approx(0.4 * ((predicted - values)[known] ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize("stage", [1, 2])
def test_both_stages_take_all_rated_rows(stage):
    rows, values = rows_without_classes()
    drawn = rows_of_epoch(rows, np.arange(len(rows))[::-1], stage, TrainingRecipe())
    assert drawn.tolist() == np.flatnonzero(~np.isnan(values[:, 0])).tolist()


def test_mixup_mixes_attributes_that_have_no_class_beside_them():
    mix = Mix(torch.tensor([0.25, 1.0]), torch.tensor([1, 0]))
    kept, mixed = mix_targets(mix, Targets(torch.empty(2, 0), torch.tensor([[2.0], [6.0]])))
    assert kept.share.tolist() == [0.25, 1.0]
    assert mixed.attributes.tolist() == [[5.0], [6.0]]


@pytest.mark.parametrize("name", sorted(HEADS))
def test_every_head_does_without_classes_and_without_a_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head = build_head(name, [6, 4], 0, [(1.0, 7.0), (-1.0, 1.0)], {}, 0, [1, 1])
    inputs = [HeadInput(torch.randn(3, 5, dim), torch.ones(3, 5, dtype=torch.bool)) for dim in (6, 4)]
    output = head.eval()(inputs)
    assert output.logits.shape == (3, 0)
    assert output.attributes.shape == (3, 2)
    assert ((output.attributes[:, 0] >= 1) & (output.attributes[:, 0] <= 7)).all()


def test_the_objective_is_the_attribute_loss_alone():
    output = HeadOutput(torch.empty(2, 0), torch.tensor([[2.0], [3.0]], requires_grad=True))
    loss = Objective()(output, Targets(torch.empty(2, 0), torch.tensor([[4.0], [float("nan")]])))
    assert loss.item() == pytest.approx(0.4 * 4.0)
    loss.backward()
    with pytest.raises(RecipeError, match="the corpus has no classes, and attribute_weight is 0"):
        Objective(attribute_weight=0.0)(output, Targets(torch.empty(2, 0), torch.zeros(2, 1)))


def test_a_member_without_attribute_weight_is_refused_before_the_run_is_laid_out(tmp_path):
    recipe = lay_out(tmp_path, training={"attribute_weight": 0.0})
    with pytest.raises(RecipeError, match="member 'fusion': the corpus has no classes, and attribute_weight"):
        train_ensemble(recipe, workers=1)
    assert not recipe.output.exists()


def test_stop_rows_without_a_rating_are_one_clear_line(tmp_path):
    splits = ["train"] * 6 + ["development"] * 2
    recipe = lay_out(
        tmp_path,
        ratings=lambda row: (np.nan,) if row.split == "development" else row.attributes,
        splits=splits,
        members=[LINEAR],
    )
    with pytest.raises(TrainingError, match="none of its 18 stop rows has a rated attribute"):
        train_ensemble(recipe, workers=1)


def test_neither_classes_nor_attributes_is_one_clear_line(tmp_path):
    corpus = replace(without_classes(make_corpus(tmp_path)), attributes=())
    bare = replace(corpus, utterances=tuple(replace(row, attributes=()) for row in corpus.utterances))
    with pytest.raises(CorpusError, match=r"nothing to learn.*votes:<Class>.*attribute:<name>"):
        LabelledRows.of(bare, TargetsRecipe())


def test_a_recipe_may_leave_all_classes_out(tmp_path):
    """Votes for classes that are not learned count as other votes: they decide nothing here."""
    corpus = make_corpus(tmp_path)
    write_features(tmp_path, corpus)
    recipe = write_recipe(tmp_path, classes=[], members=[LINEAR])
    report = train_ensemble(load_recipe(recipe), workers=1)
    assert report.num_classes == 0
    assert report.members[0].mean_ccc > 0.2


def test_rows_with_attributes_and_no_votes_keep_their_part_beside_classes(tmp_path):
    corpus = make_corpus(tmp_path)
    silent = {row.id for row in corpus.utterances if row.id.endswith("/0")}
    rows = tuple(
        replace(row, votes=(0.0,) * 3, other_votes=0.0) if row.id in silent else row
        for row in corpus.utterances
    )
    write_features(tmp_path, corpus)
    write_corpus(replace(corpus, utterances=rows), tmp_path / "corpus.csv")
    report = train_ensemble(load_recipe(write_recipe(tmp_path, members=[LINEAR])), workers=1)
    data = open_run(report.run.root)
    labelled = data.rows.select(sorted(silent))
    assert labelled.has_target.all()
    assert np.isnan(labelled.soft).all()
    assert set(Posteriors.load(report.run.posteriors_path("linear")).ids) >= silent
    assert report.members[0].macro_f1 > 0.5
