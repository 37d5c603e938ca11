"""What the report shows is what was measured, by other ways of computing it."""

import csv

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, f1_score

from sercache.posteriors import Posteriors
from sercache.reporting.calibration_section import reliability_bins
from sercache.reporting.classes_section import attributes_section, classes_section, confusion_of
from sercache.reporting.clips_section import confident_mistakes, most_ambiguous
from sercache.reporting.comparison_section import comparison_section
from sercache.reporting.map_section import in_the_plane
from sercache.reporting.members_section import correlation, disagreement
from sercache.reporting.subgroups_section import groupings, vote_entropy
from sercache.reporting.summary import headlines


def test_the_table_of_meta_levels_is_comparison_csv(facts):
    table = next(block for block in comparison_section(facts).blocks if block.kind == "table")
    with facts.run.comparison_path.open() as stream:
        written = {row["stacker"]: row for row in csv.DictReader(stream)}
    shown = {row[0].text: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert shown.keys() == written.keys()
    columns = {"UAR": "uar", "weighted F1": "weighted_f1", "log-loss": "log_loss", "JSD": "jsd", "ECE": "ece"}
    for name, row in written.items():
        assert shown[name]["macro-F1"].order == pytest.approx(float(row["macro_f1"]), abs=1e-5)
        for heading, column in columns.items():
            assert float(shown[name][heading].text) == pytest.approx(float(row[column]), abs=6e-4)


def test_confusion_matrices_are_those_of_scikit_learn_and_give_the_measured_macro_f1(facts):
    for stacker in (*facts.stackers, *facts.baselines):
        posteriors = Posteriors.load(facts.run.stacker_folder(stacker) / "posteriors.parquet")
        rows = facts.scored.rows
        known = rows.labels >= 0
        predicted = posteriors.class_probabilities.argmax(axis=1)
        expected = confusion_matrix(rows.labels[known], predicted[known], labels=range(4))
        np.testing.assert_array_equal(confusion_of(facts.scored, stacker), expected)
        f1 = f1_score(rows.labels[known], predicted[known], average="macro")
        assert f1 == pytest.approx(facts.metrics["rows"][stacker]["macro_f1_by_repeat"][0])


def test_f1_by_class_is_that_of_metrics_json(facts):
    figure = classes_section(facts).blocks[0].figures[0]
    for row, name in zip(figure.numbers.rows, facts.classes, strict=True):
        assert row[0].text == name
        for cell, stacker in zip(row[1:], figure.numbers.header[1:], strict=True):
            assert cell.order == facts.metrics["rows"][stacker]["scores"][f"f1:{name}"]["value"]


def test_reliability_is_that_of_scikit_learn(facts):
    scored = facts.scored
    mean, right, rows = reliability_bins(scored, "soft-vote")
    probabilities = scored.probabilities("soft-vote")[scored.known]
    is_right = probabilities.argmax(axis=1) == scored.rows.labels[scored.known]
    share, confidence = calibration_curve(is_right, probabilities.max(axis=1), n_bins=10)
    np.testing.assert_allclose(mean[rows > 0], confidence)
    np.testing.assert_allclose(right[rows > 0], share)
    assert rows.sum() == len(scored.known)


def test_disagreement_and_correlation_are_those_of_plain_loops(facts):
    scored = facts.scored
    posteriors, labels = scored.rows.inputs.class_probabilities, scored.rows.labels
    for first in range(3):
        for second in range(3):
            differ = [
                a.argmax() != b.argmax()
                for a, b in zip(posteriors[:, first], posteriors[:, second], strict=True)
            ]
            assert disagreement(scored)[first, second] == pytest.approx(np.mean(differ))
            pair = [
                [posteriors[row, member, labels[row]] for row in scored.known] for member in (first, second)
            ]
            assert correlation(scored)[first, second] == pytest.approx(np.corrcoef(pair)[0, 1])


def test_groups_part_all_rows_and_have_the_macro_f1_of_scikit_learn(facts):
    scored = facts.scored
    found = {grouping.name: grouping for grouping in groupings(facts)}
    assert list(found) == ["gender", "duration", "ambiguity", "speaker"]
    for grouping in found.values():
        assert sum(group.rows for group in grouping.groups) == len(scored.known)
    decisions = scored.decisions(facts.choice)
    for group in found["speaker"].groups:
        rows = [row for row in scored.known if scored.rows.speakers[row] == group.name]
        f1 = f1_score(scored.rows.labels[rows], decisions[rows], average="macro")
        assert group.score.value == pytest.approx(f1)
    scores = [group.score.value for group in found["speaker"].groups]
    assert scores == sorted(scores)
    women = next(group for group in found["gender"].groups if group.name == "f")
    assert women.speakers == 6
    assert women.score.low < women.score.value < women.score.high
    assert found["speaker"].worst.score.value == min(
        group.score.value for group in found["speaker"].groups if group.rows >= 20
    )


def test_mistakes_are_wrong_and_surest_first(facts):
    scored = facts.scored
    rows = confident_mistakes(scored, facts.choice)
    confidence = scored.probabilities(facts.choice)[rows].max(axis=1)
    assert len(rows) == 20
    assert (scored.decisions(facts.choice)[rows] != scored.rows.labels[rows]).all()
    assert (np.diff(confidence) <= 0).all()
    others = set(
        scored.known[scored.decisions(facts.choice)[scored.known] != scored.rows.labels[scored.known]]
    )
    rest = sorted(others - set(rows))
    assert scored.probabilities(facts.choice)[rest].max() <= confidence.min() + 1e-12


def test_the_most_ambiguous_clips_have_the_highest_entropy(facts):
    targets = facts.scored.rows.soft_targets
    expected = entropy(targets, axis=1) / np.log(4)
    np.testing.assert_allclose(vote_entropy(targets), expected, atol=1e-12)
    rows = most_ambiguous(facts.scored)
    assert expected[rows].min() >= np.sort(expected)[-20] - 1e-12


def test_attribute_captions_have_the_measured_ccc(facts):
    figure = attributes_section(facts).blocks[0].figures[0]
    score = facts.metrics["rows"][facts.choice]["scores"]["ccc:arousal"]["value"]
    assert figure.caption.startswith(f"CCC {score:.3f}")


def test_the_headline_is_the_recommended_one_with_its_interval(facts):
    use, good, weakest, *_ = headlines(facts, groupings(facts))
    score = facts.metrics["rows"][facts.metrics["choice"]]["scores"]["macro_f1"]
    assert use.answer == facts.metrics["choice"]
    assert good.answer == f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
    by_class = {name: facts.score(facts.choice, f"f1:{name}").value for name in facts.classes}
    assert weakest.answer.startswith(min(by_class, key=by_class.get))


def test_the_map_is_the_same_every_time_and_keeps_groups_apart():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, 150)
    vectors = 8 * np.eye(3)[group] @ rng.normal(size=(3, 12)) + rng.normal(size=(150, 12))
    places, method = in_the_plane(vectors, 5)
    again, _ = in_the_plane(vectors, 5)
    np.testing.assert_array_equal(places, again)
    assert method == "t-SNE"
    assert places.min() == 0
    assert places.max() == 1
    distances = np.linalg.norm(places[:, None] - places, axis=2) + 9 * np.eye(150)
    assert (group[distances.argmin(axis=1)] == group).mean() > 0.95
