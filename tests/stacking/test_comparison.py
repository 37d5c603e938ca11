import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from sercache.errors import Interrupted, StackingError
from sercache.evaluation import metrics
from sercache.events import Context
from sercache.posteriors import ALL_FOLDS, Posteriors
from sercache.recipe import StackingRecipe, load_recipe
from sercache.stacking import task
from sercache.stacking.comparison import compare
from sercache.stacking.registry import load_stacker
from sercache.stacking.splits import make_splits

QUICK = {
    "neural": {"runs": 2, "epochs": 10, "patience": 4},
    "lightgbm": {"rounds": 20, "patience": 5},
    "bootstrap_samples": 200,
    "repeats": 1,
}
EVERY = {*StackingRecipe().stackers, "majority", "chance"}


def by_name(comparison):
    return {row.stacker: row for row in comparison.rows}


def test_the_table_is_sorted_complete_and_on_disk(simulate, tmp_path):
    run = simulate().run(tmp_path, **QUICK)
    comparison = compare(run)
    scores = [row.scores["macro_f1"].value for row in comparison.rows]
    assert scores == sorted(scores, reverse=True)
    assert {row.stacker for row in comparison.rows} == EVERY
    assert comparison.score_names == (
        "macro_f1", "uar", "weighted_f1", "ccc:arousal", "log_loss", "jsd", "ece", "brier",
    )  # fmt: skip
    for row in comparison.rows:
        for name in comparison.score_names:
            if not np.isnan(row.scores[name].value):
                assert row.scores[name].low <= row.scores[name].high
                # A calibration error is larger on rows that were drawn twice, whoever is drawn.
                if name != "ece":
                    assert row.scores[name].low <= row.scores[name].value <= row.scores[name].high
        assert (row.to_soft_vote == {}) == (row.stacker == "soft-vote")
    assert set(comparison.pairs) == {("neural", "lightgbm"), ("soup", "lightgbm")}
    with run.comparison_path.open() as stream:
        lines = list(csv.DictReader(stream))
    assert [line["stacker"] for line in lines] == [row.stacker for row in comparison.rows]
    first, best = lines[0], comparison.rows[0]
    assert float(first["macro_f1_low"]) == pytest.approx(best.scores["macro_f1"].low, rel=1e-4)
    assert {line["stacker"] for line in lines if line["macro_f1_minus_lightgbm"]} == {"neural", "soup"}

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    written = json.loads(run.metrics_path.read_text(), parse_constant=refuse)
    assert set(written["rows"]) == EVERY
    assert "f1:Angry" in written["rows"]["neural"]["scores"]
    assert written["verdict"] == list(comparison.verdict)
    assert written["soup"]["sentence"] == comparison.soup.sentence
    assert set(written["soup"]) == {"kept", "runs", "standings", "barriers", "barrier", "sentence"}


def test_scores_are_those_of_the_written_posteriors(simulate, tmp_path):
    simulation = simulate()
    run = simulation.run(tmp_path, **QUICK)
    rows = simulation.rows()
    for row in compare(run).rows:
        posteriors = Posteriors.load(run.stacker_folder(row.stacker) / "posteriors.parquet")
        assert set(posteriors.ids) == set(simulation.corpus.ids)
        aligned = posteriors.take(rows.inputs.ids)
        scored = rows.labels >= 0
        predicted = aligned.class_probabilities[scored].argmax(axis=1)
        score = metrics.macro_f1(rows.labels[scored], predicted, 4)
        assert row.scores["macro_f1"].value == pytest.approx(score)
        assert row.scores["log_loss"].value == pytest.approx(
            metrics.log_loss(rows.soft_targets, aligned.class_probabilities)
        )
        assert row.scores["ece"].value == pytest.approx(
            metrics.expected_calibration_error(rows.labels[scored], aligned.class_probabilities[scored])
        )
        values = aligned.attribute_values[:, 0]
        expected = metrics.ccc(rows.attribute_targets[:, 0], values)
        assert row.scores["ccc:arousal"].value == pytest.approx(expected, nan_ok=True, abs=1e-9)
        np.testing.assert_array_equal(posteriors.folds, simulation.fold_map.of(posteriors.ids))


def test_no_row_is_scored_by_a_stacker_that_saw_its_speaker(simulate):
    splits = make_splits(simulate().rows(), repeats=3)
    rounds = list(splits.rounds())
    assert [turn.repeat for turn in rounds] == [0] * 4 + [1] * 4 + [2] * 4
    assert len(rounds) == splits.num_rounds
    for repeat in range(3):
        scored_speakers, indices = [], []
        for turn in rounds[4 * repeat : 4 * repeat + 4]:
            assert not set(turn.fit.speakers) & set(turn.scored.speakers)
            assert len(turn.fit) + len(turn.scored) == len(splits.fitting)
            assert turn.scored.inputs.ids == tuple(splits.scored.inputs.ids[index] for index in turn.indices)
            scored_speakers += sorted(set(turn.scored.speakers))
            indices += turn.indices.tolist()
        assert len(scored_speakers) == len(set(scored_speakers)) == 12
        assert sorted(indices) == list(range(len(splits.scored)))


def test_repeats_begin_with_the_members_folds_and_are_all_different(simulate):
    rows = simulate().rows()
    splits = make_splits(rows, repeats=4, seed=1)
    np.testing.assert_array_equal(splits.assignments[0], rows.folds)
    grouped = {(folds == folds[:, None]).tobytes() for folds in splits.assignments}  # who is with whom
    assert len(grouped) == 4
    few = make_splits(simulate(speakers=3, folds=3).rows(), repeats=4)
    assert few.repeats == 1  # three speakers have one way of being alone each


def test_scores_are_means_over_the_repeats(simulate, tmp_path):
    simulation = simulate()
    run = simulation.run(tmp_path, **QUICK | {"repeats": 3})
    comparison = compare(run)
    assert comparison.repeats == 3
    rows = simulation.rows()
    scored = rows.labels >= 0
    assert comparison.rows
    for row in comparison.rows:
        folder = run.stacker_folder(row.stacker)
        scores = []
        for name in ("posteriors", "posteriors-1", "posteriors-2"):
            posteriors = Posteriors.load(folder / f"{name}.parquet").take(rows.inputs.ids)
            predicted = posteriors.class_probabilities[scored].argmax(axis=1)
            scores.append(metrics.macro_f1(rows.labels[scored], predicted, 4))
        assert row.score_by_repeat == pytest.approx(scores)
        assert row.scores["macro_f1"].value == pytest.approx(np.mean(scores))
    learned = next(row for row in comparison.rows if row.stacker == "neural")
    assert len(set(learned.score_by_repeat)) > 1


def test_a_test_split_is_scored_and_never_fitted_on(simulate, tmp_path):
    simulation = simulate(test_speakers=4)
    run = simulation.run(tmp_path, **QUICK)
    comparison = compare(run)
    assert (comparison.scored_on, comparison.speakers, comparison.scored_rows) == ("held-out", 4, 100)
    assert comparison.fitting_rows == 200
    posteriors = Posteriors.load(run.stacker_folder("neural") / "posteriors.parquet")
    assert set(posteriors.origins) == {"held-out"}
    assert set(posteriors.folds) == {ALL_FOLDS}
    rows = simulation.rows()
    again = load_stacker(run.stacker_folder("neural")).predict(rows.where(rows.origins == "held-out").inputs)
    np.testing.assert_allclose(again.class_probabilities, posteriors.class_probabilities)


def test_development_rows_are_neither_fitted_nor_scored(simulate):
    rows = simulate().rows()
    origins = rows.origins.copy()
    origins[:50] = "development"
    notes = []
    splits = make_splits(replace(rows, origins=origins), listener=lambda event: notes.append(event.message))
    assert len(splits.fitting) == 250
    assert notes == ["50 development rows are left out: they stopped the members' training"]


def test_held_out_rows_without_labels_leave_the_folds_to_take_turns(simulate):
    rows = simulate(test_speakers=4).rows()
    labels = np.where(rows.origins == "held-out", -3, rows.labels)
    assert make_splits(replace(rows, labels=labels)).held_out is None


def test_what_cannot_be_compared_says_why(simulate):
    rows = simulate(test_speakers=4).rows()
    with pytest.raises(StackingError, match="no out-of-fold rows"):
        make_splits(rows.where(rows.origins == "held-out"))
    with pytest.raises(StackingError, match="none of the 200 out-of-fold rows has a consensus"):
        make_splits(replace(rows, labels=np.full(len(rows), -1)))
    with pytest.raises(StackingError, match=r"cannot take turns over 1 fold\(s\)"):
        make_splits(rows.where(rows.folds == 0))


@pytest.fixture
def memorised(simulate):
    """Random labels; members that know the training split by heart and guess on the test split."""

    def make(test_speakers):
        simulation = simulate(seed=4, speakers=16, test_speakers=test_speakers, skill=0.0, attributes=False)
        rng = np.random.default_rng(0)
        votes = np.eye(4)[rng.integers(0, 4, len(simulation.corpus))] * 5
        utterances = tuple(
            replace(row, votes=tuple(row_votes))
            for row, row_votes in zip(simulation.corpus.utterances, votes.tolist(), strict=True)
        )
        simulation.corpus = replace(simulation.corpus, utterances=utterances)
        train = np.array([row.split == "train" for row in utterances])
        for member, table in enumerate(simulation.tables):
            guesses = rng.dirichlet(np.ones(4), len(train))
            known = 0.9 * votes / 5 + 0.1 * guesses
            simulation.tables[member] = replace(
                table,
                class_probabilities=np.where(train[:, None], known, guesses),
                origins=np.where(train, "in-sample", "held-out"),
            )
        return simulation

    return make


def test_in_sample_posteriors_are_refused_and_the_leak_gap_exposes_them(memorised, tmp_path):
    run = memorised(6).run(tmp_path, **QUICK)
    with pytest.raises(StackingError, match="are in-sample"):
        compare(run)
    assert not run.comparison_path.exists()
    comparison = compare(run, allow_in_sample=True)
    rows = by_name(comparison)
    for name in ("neural", "soup", "lightgbm", "best-single"):
        assert rows[name].fitting_score > 0.95
        assert rows[name].scores["macro_f1"].value < 0.4
        assert rows[name].leak_gap > 0.6
    assert abs(rows["chance"].leak_gap) < 0.15
    assert comparison.verdict[0].startswith("Use none of them yet")
    assert "Stackers were fitted on in-sample posteriors" in comparison.verdict[-1]


def test_where_every_row_is_in_sample_nothing_is_concluded(memorised, tmp_path):
    comparison = compare(memorised(0).run(tmp_path, **QUICK), allow_in_sample=True)
    assert comparison.is_leaky
    assert len(comparison.verdict) == 1
    assert comparison.verdict[0].startswith("No conclusion: members trained on rows they are scored on")


def test_finished_stackers_are_not_fitted_again(simulate, tmp_path, monkeypatch):
    run = simulate().run(tmp_path, **QUICK)
    first = compare(run)

    def refuse(*arguments):
        raise AssertionError("fitted again")

    monkeypatch.setattr(task, "STACKERS", dict.fromkeys(EVERY, refuse))
    again = compare(run)
    assert again.verdict == first.verdict
    assert by_name(again)["neural"].fit_seconds == by_name(first)["neural"].fit_seconds


def test_a_result_of_other_inputs_settings_or_damage_is_done_again(simulate, tmp_path):
    simulation = simulate()
    run = simulation.run(tmp_path, **QUICK, stackers=["lightgbm"])
    compare(run)
    fitted = []

    def listener(event):
        if event.kind == "advance":
            fitted.append(event.task)

    def fits():
        fitted.clear()
        compare(run, context=Context(listener=listener))
        return sorted(set(fitted))

    everyone = [
        f"stack/{name}" for name in sorted({"lightgbm", "best-single", "soft-vote", "majority", "chance"})
    ]
    assert fits() == []
    (run.stacker_folder("lightgbm") / "classes.txt").write_bytes(b"tree\n")
    assert fits() == ["stack/lightgbm"]
    (run.stacker_folder("soft-vote") / "posteriors.parquet").write_bytes(b"PAR1")
    (run.stacker_folder("chance") / "result.json").write_text("{")
    assert fits() == ["stack/chance", "stack/soft-vote"]
    recipe = run.recipe_path.read_text()
    run.recipe_path.write_text(recipe.replace("rounds: 20", "rounds: 21"))
    assert load_recipe(run.recipe_path).stacking.lightgbm.rounds == 21
    assert fits() == everyone
    table = simulation.tables[0]
    replace(table, class_probabilities=table.class_probabilities[::-1]).save(run.posteriors_path("m0"))
    assert fits() == everyone
    assert fits() == []


def test_an_interrupted_comparison_goes_on_where_it_stopped(simulate, tmp_path):
    simulation = simulate()
    whole, broken = simulation.run(tmp_path / "a", **QUICK), simulation.run(tmp_path / "b", **QUICK)
    expected = compare(whole)
    asked = []

    def after_twelve_fits():
        asked.append(1)
        return len(asked) > 12

    with pytest.raises(Interrupted, match="goes on from there"):
        compare(broken, context=Context(should_stop=after_twelve_fits))
    assert not broken.comparison_path.exists()
    started = []
    actual = compare(
        broken, context=Context(listener=lambda e: started.append(e.task) if e.kind == "advance" else None)
    )
    assert "stack/majority" not in started
    for name, row in by_name(actual).items():
        assert row.scores["macro_f1"] == by_name(expected)[name].scores["macro_f1"]


def test_a_stacker_that_nobody_knows_is_named_before_anything_is_fitted(simulate, tmp_path):
    run = simulate().run(tmp_path, stackers=["soft-vote", "nueral"])
    with pytest.raises(StackingError, match=r"unknown stacker 'nueral'.*Did you mean 'neural'"):
        compare(run)
    assert not run.stacker_folder("soft-vote").exists()


def test_rows_without_speaker_are_reported(simulate, tmp_path):
    simulation = simulate()
    nameless = tuple(
        replace(row, speaker=None) if row.speaker == "s003" else row for row in simulation.corpus.utterances
    )
    simulation.corpus = replace(simulation.corpus, utterances=nameless)
    warnings = []
    run = simulation.run(tmp_path, **QUICK, stackers=["soft-vote"])
    comparison = compare(run, context=Context(listener=lambda event: warnings.append(event.message)))
    assert any("25 of 300 scored rows name no speaker" in message for message in warnings)
    assert comparison.speakers == 11 + 25


def test_learned_stackers_beat_the_vote_where_members_have_biases(simulate, tmp_path):
    simulation = simulate(seed=7, speakers=40, members=4, bias=2.5, skill=1.2)
    comparison = compare(simulation.run(tmp_path, stackers=["neural", "soup"], neural={"runs": 3}))
    rows = by_name(comparison)
    for name in ("neural", "soup"):
        assert rows[name].to_soft_vote["macro_f1"].value > 0
        assert rows[name].scores["macro_f1"].low > rows["best-single"].scores["macro_f1"].high
    assert rows["majority"].scores["uar"].value == 0.25
    assert rows["chance"].scores["macro_f1"].low < 0.25 < rows["chance"].scores["macro_f1"].high
