"""What holds for every stacker."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sercache.corpus import Attribute
from sercache.errors import StackingError
from sercache.evaluation.metrics import ccc, log_loss, macro_f1
from sercache.recipe import LightGBMRecipe, NeuralRecipe, StackingRecipe
from sercache.stacking.base import SavedStacker
from sercache.stacking.registry import STACKERS, load_stacker
from sercache.stacking.rows import StackingInputs

LEARNING = (
    "weighted",
    "greedy",
    "logistic",
    "neural",
    "soup",
    "lightgbm",
)
UNBIASING = ("logistic", "neural", "soup", "lightgbm")
EVERY = ("best-single", "hard-vote", "soft-vote", *LEARNING, "majority", "chance", "mean-rating")
QUICK = StackingRecipe(
    neural=NeuralRecipe(runs=3, epochs=15, patience=5), lightgbm=LightGBMRecipe(rounds=30, patience=5)
)

every_stacker = pytest.mark.parametrize("name", EVERY)


def fitted(name, rows, settings=QUICK, seed=0):
    stacker = STACKERS[name].from_recipe(settings, seed)
    stacker.fit(rows)
    return stacker


def assert_sane(prediction, inputs):
    assert prediction.class_probabilities.shape == (len(inputs), len(inputs.classes))
    assert prediction.attribute_values.shape == (len(inputs), len(inputs.attributes))
    np.testing.assert_allclose(prediction.class_probabilities.sum(axis=1), 1)
    assert (prediction.class_probabilities >= 0).all()
    assert np.isfinite(prediction.attribute_values).all()
    for index, attribute in enumerate(inputs.attributes):
        values = prediction.attribute_values[:, index]
        assert ((values >= attribute.low) & (values <= attribute.high)).all()


def test_all_are_registered():
    assert set(STACKERS) == set(EVERY)
    with pytest.raises(StackingError, match=r"unknown stacker 'lightgmb'.*Did you mean 'lightgbm'"):
        STACKERS["lightgmb"]


def test_built_in_stackers_carry_the_name_they_are_registered_under():
    assert {name: STACKERS[name].name for name in STACKERS} == {name: name for name in STACKERS}


def test_the_default_recipe_has_every_meta_level_and_no_baseline():
    assert sorted(StackingRecipe().stackers) == sorted(("best-single", "hard-vote", "soft-vote", *LEARNING))


@every_stacker
def test_parameters_default_to_those_of_the_default_recipe(name):
    assert vars(STACKERS[name]()) == vars(STACKERS[name].from_recipe(StackingRecipe(), 0))


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        (
            "neural",
            {"neural": {"hidden": 7, "runs": 9}, "inner_share": 0.3},
            {"hidden": 7, "inner_share": 0.3},
        ),
        ("soup", {"neural": {"hidden": 7, "runs": 9}}, {"hidden": 7, "runs": 9}),
        (
            "lightgbm",
            {"lightgbm": {"rounds": 11}, "balance_exponent": 0.2},
            {"rounds": 11, "balance_exponent": 0.2},
        ),
        ("logistic", {"inner_share": 0.3}, {"inner_share": 0.3, "seed": 5}),
    ],
)
def test_parameters_come_from_the_recipe(name, settings, expected):
    parameters = vars(STACKERS[name].from_recipe(StackingRecipe.model_validate(settings), 5))
    assert parameters["seed"] == 5
    assert expected.items() <= parameters.items()


def test_only_members_that_count_are_used(rows):
    for name in STACKERS:
        stacker = fitted(name, rows)
        used = stacker.members_used()
        assert set(used) <= set(rows.inputs.members)
        changed = rows.inputs.class_probabilities.copy()
        unused = [index for index, member in enumerate(rows.inputs.members) if member not in used]
        changed[:, unused] = [1, 0, 0, 0]
        inputs = replace(rows.inputs, class_probabilities=changed)
        np.testing.assert_array_equal(
            stacker.predict(inputs).class_probabilities, stacker.predict(rows.inputs).class_probabilities
        )
    assert len(fitted("best-single", rows).members_used()) == 1
    assert fitted("soft-vote", rows).members_used() == rows.inputs.members


@every_stacker
def test_a_saved_stacker_predicts_the_same(name, rows, tmp_path):
    stacker = fitted(name, rows)
    stacker.save(tmp_path)
    expected, actual = stacker.predict(rows.inputs), load_stacker(tmp_path).predict(rows.inputs)
    assert_sane(expected, rows.inputs)
    np.testing.assert_allclose(actual.class_probabilities, expected.class_probabilities, atol=1e-12)
    np.testing.assert_allclose(actual.attribute_values, expected.attribute_values, atol=1e-12)


@every_stacker
def test_members_and_classes_may_come_in_any_order(name, rows):
    stacker, inputs = fitted(name, rows), rows.inputs
    expected = stacker.predict(inputs)
    turned = inputs.arranged(inputs.members[::-1], inputs.classes[::-1], inputs.attributes)
    np.testing.assert_allclose(stacker.predict(turned).class_probabilities, expected.class_probabilities)
    without = replace(
        inputs,
        members=inputs.members[:2],
        class_probabilities=inputs.class_probabilities[:, :2],
        attribute_values=inputs.attribute_values[:, :2],
    )
    with pytest.raises(StackingError, match="members do not match"):
        stacker.predict(without)


@every_stacker
def test_a_row_is_predicted_the_same_alone_and_among_others(name, rows):
    stacker = fitted(name, rows)
    alone = stacker.predict(rows.inputs.take(np.array([7])))
    among = stacker.predict(rows.inputs)
    np.testing.assert_allclose(alone.class_probabilities[0], among.class_probabilities[7])
    np.testing.assert_allclose(alone.attribute_values[0], among.attribute_values[7])
    assert_sane(
        stacker.predict(rows.inputs.take(np.array([], dtype=np.int64))), rows.inputs.take(np.array([], int))
    )


@every_stacker
def test_the_same_seed_gives_the_same_stacker(name, rows):
    first, second = (fitted(name, rows).predict(rows.inputs) for _ in range(2))
    np.testing.assert_array_equal(first.class_probabilities, second.class_probabilities)
    np.testing.assert_array_equal(first.attribute_values, second.attribute_values)


def only(rows, **changes):
    return replace(rows, **changes)


def without_class(rows):
    return rows.where((rows.labels != 1) & ~(rows.soft_targets[:, 1] > 0))


def class_with_one_row(rows):
    lucky = np.flatnonzero(rows.labels == 1)[0]
    kept = rows.labels != 1
    kept[lucky] = True
    return rows.where(kept)


def only_one_class(rows):
    rows = rows.where(rows.labels == 2)
    return only(rows, soft_targets=np.tile([0.0, 0.0, 1.0, 0.0], (len(rows), 1)))


def one_member(rows):
    inputs = rows.inputs
    return only(
        rows,
        inputs=replace(
            inputs,
            members=inputs.members[:1],
            class_probabilities=inputs.class_probabilities[:, :1],
            attribute_values=inputs.attribute_values[:, :1],
        ),
    )


def constant_member(rows):
    probabilities = rows.inputs.class_probabilities.copy()
    probabilities[:, 0] = [1, 0, 0, 0]
    return only(rows, inputs=replace(rows.inputs, class_probabilities=probabilities))


def nobody_rated(rows):
    return only(rows, attribute_targets=np.full_like(rows.attribute_targets, np.nan))


def nobody_voted(rows):
    targets, labels = np.full_like(rows.soft_targets, np.nan), np.full_like(rows.labels, -3)
    return only(rows, soft_targets=targets, labels=labels)


def some_without_target(rows):
    targets = rows.soft_targets.copy()
    targets[::3] = np.nan
    values = rows.attribute_targets.copy()
    values[1::3] = np.nan
    return only(rows, soft_targets=targets, attribute_targets=values)


def one_speaker(rows):
    return rows.where(np.array(rows.speakers) == "s003")


def few_rows(rows):
    return rows.take(np.array([0, 30, 60, 90]))


@every_stacker
@pytest.mark.parametrize(
    "thin",
    [
        without_class,
        class_with_one_row,
        only_one_class,
        one_member,
        constant_member,
        nobody_rated,
        nobody_voted,
        some_without_target,
        one_speaker,
        few_rows,
    ],
    ids=lambda thin: thin.__name__,
)
def test_thin_data_gives_a_sane_prediction(name, thin, rows, tmp_path):
    thinned = thin(rows)
    stacker = fitted(name, thinned)
    assert_sane(stacker.predict(thinned.inputs), thinned.inputs)
    stacker.save(tmp_path)
    assert_sane(load_stacker(tmp_path).predict(thinned.inputs), thinned.inputs)


@every_stacker
def test_a_corpus_without_attributes_will_do(name, simulate):
    rows = simulate(attributes=False).rows()
    assert_sane(fitted(name, rows).predict(rows.inputs), rows.inputs)


@pytest.mark.parametrize("name", UNBIASING)
def test_known_biases_are_learned_and_the_vote_is_beaten_on_new_speakers(name, simulate):
    rows = simulate(seed=1, speakers=40, members=4, bias=2.5, skill=1.2).rows()
    fit, fresh = rows.take(np.arange(700)), rows.take(np.arange(700, 1000))
    settings = StackingRecipe(lightgbm=LightGBMRecipe(learning_rate=0.1))

    def score(stacker):
        scored = fresh.labels >= 0
        predicted = fitted(stacker, fit, settings).predict(fresh.inputs).class_probabilities[scored].argmax(1)
        return macro_f1(fresh.labels[scored], predicted, 4)

    assert score(name) > score("best-single") + 0.1
    if name != "lightgbm":
        assert score(name) > score("soft-vote")
    assert score(name) > score("hard-vote")


@pytest.mark.parametrize("name", LEARNING)
def test_a_useless_member_is_not_listened_to(name, simulate):
    simulation = simulate(seed=2, speakers=40, members=3)
    for member in (1, 2):
        rng = np.random.default_rng(member)
        simulation.tables[member] = replace(
            simulation.tables[member],
            class_probabilities=rng.dirichlet(np.full(4, 0.2), len(simulation.corpus)),
            attribute_values=rng.uniform(1, 7, (len(simulation.corpus), 1)),
        )
    rows = simulation.rows()
    fit, fresh = rows.take(np.arange(700)), rows.take(np.arange(700, 1000))
    learned, voted = (
        fitted(kind, fit, StackingRecipe()).predict(fresh.inputs) for kind in (name, "soft-vote")
    )
    assert log_loss(fresh.soft_targets, learned.class_probabilities) < log_loss(
        fresh.soft_targets, voted.class_probabilities
    )
    truth = fresh.attribute_targets[:, 0]
    assert ccc(truth, learned.attribute_values[:, 0]) > ccc(truth, voted.attribute_values[:, 0]) + 0.1


@every_stacker
def test_a_damaged_file_is_refused_before_it_is_parsed(name, rows, tmp_path):
    fitted(name, rows).save(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        if path.name != "stacker.json":
            path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
            with pytest.raises(StackingError, match=f"{path.name}: damaged"):
                load_stacker(tmp_path)
        path.write_bytes(b"{")
        with pytest.raises(StackingError):
            load_stacker(tmp_path)
        path.unlink()
        with pytest.raises(StackingError, match="cannot read the stacker"):
            load_stacker(tmp_path)
        path.write_bytes(content)


def test_files_of_format_2_stay_readable(tmp_path):
    """Descriptions as they were first written; a later version must read them or raise its format."""
    common = {
        "format": 2,
        "members": ["a", "b"],
        "classes": ["x", "y"],
        "attributes": [{"name": "arousal", "low": 1.0, "high": 7.0}],
        "extras": [],
        "extra_means": [],
        "extra_deviations": [],
        "sha256": {},
    }
    learned = {
        "best-single": {"member": "b"},
        "soft-vote": {},
        "weighted": {"classes": [0.25, 0.75], "attributes": [[0.5, 0.5]]},
        "majority": {"probabilities": [0.9, 0.1], "attributes": [3.0]},
    }
    inputs = StackingInputs(
        ("u",), ("a", "b"), ("x", "y"), (Attribute("arousal", 1.0, 7.0),),
        np.array([[[0.8, 0.2], [0.4, 0.6]]]), np.array([[[2.0], [6.0]]]), (), np.empty((1, 0)),
    )  # fmt: skip
    expected = {
        "best-single": ([0.4, 0.6], 6.0),
        "soft-vote": ([0.6, 0.4], 4.0),
        "weighted": ([0.5, 0.5], 4.0),
        "majority": ([0.9, 0.1], 3.0),
    }
    for name, content in learned.items():
        (tmp_path / "stacker.json").write_text(json.dumps(common | {"stacker": name, "learned": content}))
        prediction = load_stacker(tmp_path).predict(inputs)
        np.testing.assert_allclose(prediction.class_probabilities[0], expected[name][0])
        np.testing.assert_allclose(prediction.attribute_values[0], expected[name][1])


def test_a_stacker_of_another_kind_is_refused(rows, tmp_path):
    fitted("soft-vote", rows).save(tmp_path)
    with pytest.raises(StackingError, match="holds a 'soft-vote', not a 'neural'"):
        SavedStacker.read(tmp_path, "neural")


def test_a_description_cannot_reach_outside_its_folder(rows, tmp_path):
    folder = tmp_path / "stacker"
    fitted("soft-vote", rows).save(folder)
    (tmp_path / "secret").write_text("x")
    path = folder / "stacker.json"
    path.write_text(path.read_text().replace('"sha256": {}', '"sha256": {"../secret": "0"}'))
    with pytest.raises(StackingError, match="cannot read the stacker"):
        load_stacker(folder)
