"""Curves are those of a plain loop, and their orders never see the rows that they are scored on."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from sercache.evaluation.metrics import macro_f1
from sercache.stacking.costs import MemberCosts
from sercache.stacking.curves import as_csv, as_json, by_score, ensemble_curves, greedy
from sercache.stacking.splits import make_splits


def curves_of(rows, **options):
    splits = make_splits(rows)
    rounds = [(turn.fit, turn.scored) for turn in splits.folds_in_turn()]
    return ensemble_curves(rounds, fitting=splits.fitting, samples=200, permutations=20, **options)


def with_members(rows, *probabilities):
    """Add members that say this."""
    inputs = rows.inputs
    every = np.concatenate([inputs.class_probabilities, np.stack(probabilities, axis=1)], axis=1)
    names = (*inputs.members, *(f"extra{index}" for index in range(len(probabilities))))
    attributes = np.concatenate(
        [inputs.attribute_values, inputs.attribute_values[:, : len(probabilities)]], axis=1
    )
    return replace(
        rows,
        inputs=replace(inputs, members=names, class_probabilities=every, attribute_values=attributes),
    )


def plain_curve(rows, order_of):
    """Score the votes of 1 to M members, row by row and fold by fold."""
    members = len(rows.inputs.members)
    scored = rows.labels >= 0
    scores = []
    for size in range(1, members + 1):
        predicted = np.full(len(rows), -1)
        for fold in np.unique(rows.folds):
            order = order_of(rows.where(rows.folds != fold))[:size]
            in_fold = rows.folds == fold
            predicted[in_fold] = (
                rows.inputs.class_probabilities[in_fold][:, list(order)].mean(axis=1).argmax(axis=1)
            )
        scores.append(macro_f1(rows.labels[scored], predicted[scored], 4))
    return scores


@pytest.mark.parametrize(("name", "order_of"), [("best", by_score), ("greedy", greedy)])
def test_curves_are_those_of_a_plain_loop(simulate, name, order_of):
    rows = simulate(members=5, bias=1.0, noise=2.0).rows()
    points = curves_of(rows).of(name)
    assert [point.size for point in points] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose([point.score.value for point in points], plain_curve(rows, order_of))
    assert points[-1].to_all.value == 0
    assert points[-1].kept_gain == pytest.approx(1)


def test_greedy_takes_in_each_step_the_member_that_helps_most(simulate):
    rows = simulate(members=4, noise=2.0).rows()
    scored = rows.where(rows.labels >= 0)
    probabilities, chosen = scored.inputs.class_probabilities, []
    for _ in range(4):
        left = [member for member in range(4) if member not in chosen]
        chosen.append(
            max(
                left,
                key=lambda member: macro_f1(
                    scored.labels, probabilities[:, [*chosen, member]].sum(axis=1).argmax(axis=1), 4
                ),
            )
        )
    assert greedy(rows) == tuple(chosen)


def test_an_order_is_decided_without_the_rows_that_it_is_scored_on(simulate):
    rows = simulate(members=4, noise=2.0, test_speakers=4).rows()
    splits = make_splits(rows)
    turned = replace(splits.held_out, labels=(splits.held_out.labels + 1) % 4)
    first, second = (
        ensemble_curves([(splits.fitting, scored)], fitting=splits.fitting, samples=100, permutations=5)
        for scored in (splits.held_out, turned)
    )
    assert [point.members for point in first.points] == [point.members for point in second.points]
    assert first.points[0].score != second.points[0].score


def test_a_member_that_harms_the_vote_is_named(simulate):
    rows = simulate(members=3, noise=1.5, speakers=30).rows()
    wrong = np.roll(np.eye(4)[np.maximum(rows.labels, 0)], 1, axis=1) * 0.96 + 0.01
    curves = curves_of(with_members(rows, wrong))
    assert curves.without["extra0"].is_clear
    assert curves.without["extra0"].value > 0.05
    assert "The soft vote is better without extra0" in curves.verdict[1]
    assert curves.of("greedy")[-1].members[-1] == "extra0"


def test_a_few_members_that_give_the_gain_of_all_are_named_with_their_cost(simulate):
    rows = simulate(members=3, noise=2.0, speakers=30).rows()
    copies = [rows.inputs.class_probabilities[:, 0]] * 3
    rows = with_members(rows, *copies)
    encoders = {
        name: frozenset({"big"} if name.startswith("extra") else {"small"}) for name in rows.inputs.members
    }
    costs = MemberCosts(encoders, {"big": 9.0, "small": 1.0}, "cpu")
    curves = curves_of(rows, costs=costs)
    thrifty = curves.of("thrifty")
    assert set(thrifty[2].members) == {"m0", "m1", "m2"}
    assert thrifty[2].cost.encoders == ("small",)
    assert thrifty[-1].cost.seconds_per_minute == 10.0
    assert "of 6 members" in curves.verdict[0]
    assert "1 of 2 encoders and 10% of the cost (1 s for a minute of speech)" in curves.verdict[0]


def test_where_all_gain_nothing_there_is_no_share(simulate):
    rows = simulate(members=1, skill=4.0, noise=0.5, speakers=20).rows()
    noise = np.random.default_rng(0).dirichlet(np.ones(4) * 0.05, (len(rows), 3))
    curves = curves_of(with_members(rows, *noise.transpose(1, 0, 2)[:3]))
    assert np.isnan([point.kept_gain for point in curves.points]).all()
    assert "gains nothing over the best single one" in curves.verdict[0]


def test_random_orders_lie_between_one_and_all(simulate):
    curves = curves_of(simulate(members=5, noise=2.5, speakers=30).rows())
    values = [point.score.value for point in curves.of("random")]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(curves.of("best")[-1].score.value)
    for point in curves.of("random"):
        assert point.score.low - 1e-9 <= point.score.value <= point.score.high + 1e-9


def test_one_member_has_a_curve_of_one_point_and_nothing_to_say(simulate):
    curves = curves_of(simulate(members=1).rows())
    assert len(curves.points) == 3
    assert curves.without == {}
    assert curves.verdict == ()


def test_files_hold_every_point(simulate):
    curves = curves_of(simulate(members=3).rows())
    lines = list(csv.DictReader(io.StringIO(as_csv(curves))))
    assert [(line["order"], line["size"]) for line in lines] == [
        (order, str(size)) for order in ("best", "greedy", "random") for size in (1, 2, 3)
    ]
    assert "nan" not in str(as_json(curves)).lower()
