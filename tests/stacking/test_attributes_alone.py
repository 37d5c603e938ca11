"""The comparison of meta-levels where a corpus has attributes and no classes."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from sercache.corpus.manifest import write_corpus
from sercache.events import Context
from sercache.posteriors import Posteriors
from sercache.recipe import MemberRecipe, StackingRecipe
from sercache.run import DerivedMember, save_derived
from sercache.stacking.comparison import compare
from sercache.stacking.curves import by_score, ensemble_curves, greedy
from sercache.stacking.registry import STACKERS, load_stacker, needs_classes
from sercache.stacking.splits import make_splits
from support.simulated_attributes import lins_mean, simulate_attributes

QUICK = {
    "neural": {"runs": 3, "epochs": 12},
    "lightgbm": {"rounds": 20, "min_rows_per_leaf": 5},
    "repeats": 2,
    "bootstrap_samples": 200,
}
DEFINED = sorted(name for name in STACKERS if not needs_classes(name))


@pytest.fixture(scope="module")
def rows():
    return simulate_attributes().rows()


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    run = simulate_attributes().run(tmp_path_factory.mktemp("stacked"), **QUICK)
    return run, compare(run)


def test_only_what_classes_define_is_left_out():
    assert set(STACKERS) - set(DEFINED) == {"hard-vote", "majority", "chance"}


@pytest.mark.parametrize("name", DEFINED)
def test_a_stacker_learns_attributes_and_is_read_back(name, rows, tmp_path):
    fit, new = rows.take(np.arange(0, 112)), rows.take(np.arange(112, 160))
    stacker = STACKERS[name].from_recipe(StackingRecipe.model_validate(QUICK), 0)
    stacker.fit(fit)
    prediction = stacker.predict(new.inputs)
    assert prediction.class_probabilities.shape == (48, 0)
    for attribute, values in zip(new.inputs.attributes, prediction.attribute_values.T, strict=True):
        assert ((values >= attribute.low) & (values <= attribute.high)).all()
    stacker.save(tmp_path)
    again = load_stacker(tmp_path).predict(new.inputs)
    np.testing.assert_allclose(again.attribute_values, prediction.attribute_values, atol=1e-12)
    if name != "mean-rating":
        worst = lins_mean(new.attribute_targets, new.inputs.attribute_values[:, 0])
        assert lins_mean(new.attribute_targets, prediction.attribute_values) > worst + 0.1
        assert sum(stacker.shares_.values()) == pytest.approx(1)


@pytest.mark.parametrize("inputs", ["probabilities", "log"])
@pytest.mark.parametrize("hidden", [0, 4])
def test_every_kind_of_network_does_without_classes(rows, inputs, hidden):
    settings = StackingRecipe.model_validate(
        QUICK | {"neural": {"inputs": inputs, "hidden": hidden, "epochs": 5}}
    )
    stacker = STACKERS["neural"].from_recipe(settings, 0)
    stacker.fit(rows)
    assert lins_mean(rows.attribute_targets, stacker.predict(rows.inputs).attribute_values) > 0.4


def test_those_that_weigh_members_prefer_the_best(rows):
    for name in ("best-single", "greedy", "weighted"):
        stacker = STACKERS[name].from_recipe(StackingRecipe(), 0)
        stacker.fit(rows)
        assert max(stacker.shares_, key=stacker.shares_.get) == "m2", name


def test_the_baseline_is_compared_by_the_mean_ccc(tmp_path):
    simulation = simulate_attributes(noises=(2.0, 1.0, 0.5, 1.0))
    members, table = replace(simulation, tables=simulation.tables[:3]), simulation.tables[3]
    run = members.run(tmp_path, stackers=["logistic"], repeats=2, bootstrap_samples=200)
    member = MemberRecipe(name="linear-baseline", head="ridge", features=["logmel"])
    save_derived(run, DerivedMember("baseline", "the recipe", member))
    replace(table, member=member.name).save(run.posteriors_path(member.name))
    comparison = compare(run)
    found = {row.stacker: row for row in comparison.rows}
    ids = simulation.rows().inputs.ids
    truth = simulation.corpus.select(ids).attribute_values
    score = lins_mean(truth, table.take(ids).attribute_values)
    assert found["baseline"].is_baseline
    assert found["baseline"].scores["mean_ccc"].value == pytest.approx(score)
    assert found["mean-rating"].to_baseline == {}
    for name in ("best-single", "soft-vote", "logistic"):
        difference = found[name].to_baseline["mean_ccc"]
        assert difference.value == pytest.approx(found[name].scores["mean_ccc"].value - score)
    assert comparison.choice in comparison.above_baseline
    assert any(f"is above the baseline (mean CCC {score:.3f} [" in line for line in comparison.verdict)
    with run.comparison_path.open(newline="") as stream:
        lines = {line["stacker"]: line for line in csv.DictReader(stream)}
    assert float(lines["soft-vote"]["mean_ccc_minus_baseline"]) == pytest.approx(
        found["soft-vote"].to_baseline["mean_ccc"].value, rel=1e-4
    )


def test_the_table_is_sorted_by_the_mean_ccc_of_an_oracle(compared):
    run, comparison = compared
    truth = simulate_attributes().corpus
    scores = []
    for row in comparison.rows:
        by_repeat = []
        for repeat in range(comparison.repeats):
            name = f"posteriors-{repeat}.parquet" if repeat else "posteriors.parquet"
            posteriors = Posteriors.load(run.stacker_folder(row.stacker) / name)
            assert posteriors.classes == ()
            by_repeat.append(
                lins_mean(truth.select(posteriors.ids).attribute_values, posteriors.attribute_values)
            )
        assert row.scores["mean_ccc"].value == pytest.approx(np.mean(by_repeat))
        assert row.score_by_repeat == pytest.approx(by_repeat)
        scores.append(np.mean(by_repeat))
    assert scores == sorted(scores, reverse=True)
    assert comparison.repeats == 2
    assert set(comparison.rows[0].scores) == {"mean_ccc", "ccc:arousal", "ccc:valence"}
    assert [row.stacker for row in comparison.rows if row.is_baseline] == ["mean-rating"]
    assert "hard-vote" not in {row.stacker for row in comparison.rows}


def test_the_verdict_goes_by_the_mean_ccc_and_says_what_is_left_out(compared):
    _, comparison = compared
    assert "mean CCC" in comparison.verdict[0]
    assert "macro-F1" not in " ".join(comparison.verdict)
    assert comparison.verdict[-1] == (
        "The corpus has no classes: hard-vote, calibration, conformal sets and thresholds are left out, as "
        "only classes have them."
    )
    assert comparison.calibration is None
    assert "mean CCC" in comparison.soup.sentence
    assert "squared error" in comparison.soup.sentence


def test_what_is_written_has_no_class_columns(compared):
    run, comparison = compared
    with run.comparison_path.open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["stacker"] for row in table] == [row.stacker for row in comparison.rows]
    assert {"mean_ccc", "mean_ccc_low", "mean_ccc_minus_soft-vote", "fitting_mean_ccc"} <= set(table[0])
    assert not [name for name in table[0] if "f1" in name or name in ("uar", "ece", "log_loss")]
    metrics = json.loads(run.metrics_path.read_text())
    assert "fitting_mean_ccc" in metrics["rows"]["soft-vote"]
    assert "macro_f1" not in run.metrics_path.read_text()
    assert run.curves_path.read_text().startswith("order,size,mean_ccc,")
    assert not list(run.root.rglob("calibration.json"))


def test_finished_stackers_are_found_again(compared):
    run, comparison = compared
    states = []
    again = compare(run, context=Context(listener=lambda event: states.append(event.values.get("state"))))
    assert states.count("reused") == len(comparison.rows)
    assert again.verdict == comparison.verdict


def test_guessers_are_not_recommended(tmp_path):
    run = simulate_attributes(noises=(1.0, 1.0), skill=0.0).run(tmp_path, **QUICK, stackers=["weighted"])
    assert "Use none of them yet" in compare(run).verdict[0]
    assert "not clearly better than always giving the mean rating" in compare(run).verdict[0]


def test_a_rated_test_split_is_scored_and_an_unrated_one_is_not(tmp_path):
    simulation = simulate_attributes(test_speakers=3)
    splits = make_splits(simulation.rows())
    assert splits.held_out is not None
    assert len(splits.held_out) == 48
    rows = tuple(
        replace(row, attributes=(np.nan, np.nan)) if row.split == "test" else row
        for row in simulation.corpus.utterances
    )
    notes = []
    unrated = replace(simulation, corpus=replace(simulation.corpus, utterances=rows)).rows()
    assert make_splits(unrated, listener=notes.append).held_out is None
    assert "none of the 48 held-out rows has a rated attribute: folds take turns" in notes[0].message


def test_curves_are_those_of_an_oracle(rows):
    half = [rows.take(np.arange(0, 80)), rows.take(np.arange(80, 160))]
    curves = ensemble_curves([(half[0], half[1]), (half[1], half[0])], fitting=rows, samples=100)
    for name, way in (("best", by_score), ("greedy", greedy)):
        orders = [way(half[0]), way(half[1])]
        for point in curves.of(name):
            values = [
                scored.inputs.attribute_values[:, list(order[: point.size])].mean(axis=1)
                for scored, order in zip((half[1], half[0]), orders, strict=True)
            ]
            truth = np.concatenate([half[1].attribute_targets, half[0].attribute_targets])
            assert point.score.value == pytest.approx(lins_mean(truth, np.concatenate(values)))
    assert curves.rows == int((~np.isnan(rows.attribute_targets)).any(axis=1).sum())
    assert "macro" not in " ".join(curves.verdict)


def test_the_same_corpus_with_classes_is_scored_by_them(tmp_path):
    """Attributes that stand beside classes decide nothing."""
    simulation = simulate_attributes()
    classes = ("Angry", "Sad")
    rows = tuple(
        replace(row, votes=(1.0, 0.0) if place % 2 else (0.0, 1.0))
        for place, row in enumerate(simulation.corpus.utterances)
    )
    corpus = replace(simulation.corpus, classes=classes, utterances=rows)
    even = (
        np.full((len(rows), 2), 0.5)
        + np.asarray([0.01, -0.01]) * np.where(np.arange(len(rows)) % 3, 1, -1)[:, None]
    )
    tables = [replace(table, classes=classes, class_probabilities=even) for table in simulation.tables]
    write_corpus(corpus, tmp_path / "corpus.csv")
    both = replace(simulation, corpus=corpus, tables=tables).rows()
    assert both.truth.primary.key == "macro_f1"
    np.testing.assert_array_equal(both.inputs.decisive_values, both.inputs.class_probabilities)
