from dataclasses import replace

import numpy as np
import pytest

from sercache.errors import StackingError
from sercache.stacking.joining import join, load_rows

CLASSES = ("Angry", "Sad", "Happy", "Neutral")


@pytest.fixture
def simulation(simulate):
    return simulate(rows=5)


@pytest.fixture
def heard():
    events = []

    def listener(event):
        events.append((event.kind, event.message))

    listener.events = events
    return listener


def changed(simulation, member, **changes):
    simulation.tables[member] = replace(simulation.tables[member], **changes)


def test_columns_are_matched_by_name_whatever_their_order(simulation):
    expected = simulation.rows()
    table = simulation.tables[1]
    turned = table.class_probabilities[:, [2, 0, 3, 1]]
    changed(simulation, 1, classes=tuple(CLASSES[i] for i in (2, 0, 3, 1)), class_probabilities=turned)
    actual = simulation.rows()
    assert actual.inputs.classes == CLASSES
    np.testing.assert_array_equal(actual.inputs.class_probabilities, expected.inputs.class_probabilities)


def test_rows_are_matched_by_id_whatever_their_order(simulation):
    expected = simulation.rows()
    simulation.tables[0] = simulation.tables[0].take(simulation.tables[0].ids[::-1])
    actual = simulation.rows()
    assert actual.inputs.ids == expected.inputs.ids
    np.testing.assert_array_equal(actual.inputs.class_probabilities, expected.inputs.class_probabilities)


def test_another_set_of_classes_is_an_error_that_names_both_sides(simulation):
    changed(simulation, 2, classes=("Angry", "Sad", "Happy", "Fear"))
    with pytest.raises(StackingError, match=r"'m2' predicts the classes .*Fear; the corpus has .*Neutral"):
        simulation.rows()


def test_another_set_of_attributes_is_an_error_that_names_both_sides(simulation):
    changed(simulation, 0, attributes=("valence",))
    with pytest.raises(StackingError, match="attributes valence; the corpus has arousal"):
        simulation.rows()


def test_members_of_different_folds_are_refused(simulation):
    changed(simulation, 1, fold_map_digest="other")
    with pytest.raises(StackingError, match="'m0' and 'm1' were trained on different folds"):
        simulation.rows()


def test_a_row_in_two_folds_is_refused(simulation):
    folds = simulation.tables[1].folds.copy()
    folds[3] += 1
    changed(simulation, 1, folds=folds)
    with pytest.raises(StackingError, match="utterance 'u00003' is in fold"):
        simulation.rows()


def test_in_sample_rows_are_refused_with_the_reason(simulation):
    origins = simulation.tables[0].origins.copy()
    origins[:4] = "in-sample"
    changed(simulation, 0, origins=origins)
    with pytest.raises(
        StackingError, match=r"'m0': 4 of 60 rows are in-sample.*trained on them.*--allow-in-sample"
    ):
        simulation.rows()
    rows = simulation.rows(allow_in_sample=True)
    assert (rows.origins[:4] == "in-sample").all()
    assert (rows.origins[4:] == "out-of-fold").all()


def test_rows_that_one_member_misses_are_left_out_for_all_and_reported(simulation, heard):
    simulation.tables[1] = simulation.tables[1].take(simulation.tables[1].ids[7:])
    rows = join(simulation.tables, simulation.corpus, listener=heard)
    assert rows.inputs.ids == simulation.corpus.ids[7:]
    assert rows.soft_targets.shape == (53, 4)
    assert ("warning", "member 'm1' misses 7 of 60 rows; they are left out for all members") in heard.events


def test_identical_and_constant_members_are_reported(simulation, heard):
    copied = simulation.tables[0].class_probabilities, simulation.tables[0].attribute_values
    changed(simulation, 1, class_probabilities=copied[0], attribute_values=copied[1])
    changed(simulation, 2, class_probabilities=np.tile([0.1, 0.7, 0.1, 0.1], (60, 1)))
    join(simulation.tables, simulation.corpus, listener=heard)
    assert heard.events == [
        ("warning", "members 'm0' and 'm1' are identical, bit for bit"),
        ("warning", "member 'm2' predicts 'Sad' for every row"),
    ]


def test_predictions_of_unknown_utterances_are_refused(simulation):
    corpus = simulation.corpus.select(simulation.corpus.ids[1:])
    with pytest.raises(
        StackingError, match="predicts 1 utterances that are not in the corpus, first 'u00000'"
    ):
        join(simulation.tables, corpus)


def test_members_without_a_common_row_and_no_members_are_refused(simulation):
    first, second = simulation.tables[0], simulation.tables[1]
    apart = [first.take(first.ids[:5]), second.take(second.ids[5:])]
    with pytest.raises(StackingError, match="no utterance was predicted by all 2 members"):
        join(apart, simulation.corpus)
    with pytest.raises(StackingError, match="no members"):
        join([], simulation.corpus)
    with pytest.raises(StackingError, match="member 'm0' occurs twice"):
        join([first, first], simulation.corpus)


def test_arranging_by_name_undoes_any_order(simulation):
    inputs = simulation.rows().inputs
    turned = inputs.arranged(inputs.members[::-1], CLASSES[::-1], inputs.attributes)
    np.testing.assert_array_equal(turned.class_probabilities[:, 0, 0], inputs.class_probabilities[:, 2, 3])
    back = turned.arranged(inputs.members, CLASSES, inputs.attributes)
    np.testing.assert_array_equal(back.class_probabilities, inputs.class_probabilities)
    with pytest.raises(
        StackingError, match=r"members do not match: the posteriors have m0, m1, m2; expected"
    ):
        inputs.arranged(("m0", "m1"), CLASSES, inputs.attributes)


def test_the_digest_sees_every_change(simulation):
    rows = simulation.rows()
    assert rows.digest() == simulation.rows().digest()
    probabilities = rows.inputs.class_probabilities.copy()
    probabilities[0, 0] = probabilities[0, 0][::-1]
    changes = [
        replace(rows, inputs=replace(rows.inputs, class_probabilities=probabilities)),
        replace(rows, labels=rows.labels[::-1]),
        replace(rows, folds=rows.folds + 1),
        replace(rows, soft_targets=rows.soft_targets[::-1]),
        rows.take(np.arange(59)),
    ]
    assert len({rows.digest(), *(other.digest() for other in changes)}) == 6


def test_rows_of_a_run_follow_its_recipe(simulation, tmp_path):
    run = simulation.run(tmp_path)
    rows = load_rows(run)
    expected = simulation.rows()
    assert rows.digest() == expected.digest()
    np.testing.assert_array_equal(rows.soft_targets, expected.soft_targets)


def test_of_a_run_that_is_not_finished_the_finished_members_are_joined(simulation, tmp_path):
    run = simulation.run(tmp_path)
    run.posteriors_path("m1").unlink()
    warnings = []
    rows = load_rows(run, listener=lambda event: warnings.append(event.message))
    assert rows.inputs.members == ("m0", "m2")
    assert any(
        "1 of 3 members are left out, as they have no posteriors yet: m1" in message for message in warnings
    )
    for member in ("m0", "m2"):
        run.posteriors_path(member).unlink()
    with pytest.raises(StackingError, match=r"no member has posteriors yet, .*train-ensemble finishes it"):
        load_rows(run)


def test_posteriors_of_other_folds_than_the_runs_are_refused(simulation, tmp_path):
    for member in range(3):
        changed(simulation, member, fold_map_digest="other")
    run = simulation.run(tmp_path)
    with pytest.raises(StackingError, match="come from other folds"):
        load_rows(run)
