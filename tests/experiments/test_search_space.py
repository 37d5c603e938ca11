import pytest

from sercache.errors import RecipeError
from sercache.experiments.search_space import Dimension, check_space, default_space, load_space, with_settings
from sercache.experiments.tuning_design import design_tuning
from sercache.heads.registry import HEADS
from support.run_builder import make_run

LINEAR = {"name": "linear", "head": "mean-linear", "features": ["speech"]}
FUSION = {"name": "fusion", "features": ["speech", "words"], "options": {"width": 8, "feedforward": 8}}


@pytest.mark.parametrize("head", list(HEADS))
def test_the_built_in_space_fits_every_head_and_holds_its_present_settings(tmp_path, head):
    recipe = make_run(tmp_path, members=[{"name": "one", "head": head, "features": ["speech", "words"]}])
    member = recipe.members[0]
    space = default_space(recipe, member, has_attributes=True)
    check_space(recipe, member, space, [1, 1])
    assert {"training.stage1.learning_rate", "training.stage2.learning_rate"} < set(space)
    settings = recipe.training_of(member)
    assert space["training.stage1.learning_rate"].low <= settings.stage1.learning_rate
    assert settings.batch_size in space["training.batch_size"].choices


def test_the_built_in_space_keeps_widths_that_the_heads_divide(tmp_path):
    options = {"width": 192, "attention_heads": 3}
    recipe = make_run(tmp_path, members=[{**FUSION, "options": options}])
    member = recipe.members[0]
    space = default_space(recipe, member, has_attributes=True)
    assert space["options.width"].choices == [96, 192, 384]
    check_space(recipe, member, space, [1, 1])


def test_how_layers_are_summed_can_be_searched_where_there_are_several(tmp_path):
    recipe = make_run(tmp_path, members=[LINEAR])
    member = recipe.members[0]
    space = {"options.layer_sum": Dimension(choices=["weighted", "gated"])}
    check_space(recipe, member, space, [3])
    with pytest.raises(RecipeError, match="feature sets of several layers"):
        check_space(recipe, member, space, [1])


def test_the_built_in_space_leaves_out_what_cannot_matter(tmp_path):
    training = {"stage2": {"epochs": 0}, "weight_decay": 0}
    recipe = make_run(tmp_path, training=training, members=[FUSION])
    space = default_space(recipe, recipe.members[0], has_attributes=False)
    assert not {"training.stage2.learning_rate", "training.attribute_weight", "training.weight_decay"} & set(
        space
    )
    assert space["options.width"].choices == [4, 8, 16]


@pytest.mark.parametrize(
    ("key", "dimension", "message"),
    [
        ("training.stage1.learning_rte", {"low": 1, "high": 2},
         r"'training.stage1.learning_rte' = .*unknown key .*Did you mean 'stage1.learning_rate'\?"),
        ("options.deviatoin", {"choices": [True, False]},
         r"head 'mean-linear' has no option 'deviatoin' .*Did you mean 'deviation'\?"),
        ("options.width", {"choices": [8, 16]}, "head 'mean-linear' has no option 'width'"),
        ("trainig.batch_size", {"choices": [8, 16]},
         r"unknown key 'trainig.batch_size' .*Did you mean 'training.batch_size'\?"),
        ("seed", {"choices": [1, 2]}, "unknown key 'seed'"),
        ("training.batch_size", {"low": 8, "high": 64}, "a whole number, not .*has a step"),
        ("training.mixup.probability", {"low": 0, "high": 2}, "must be 1 or less"),
        ("training.stage1", {"choices": [1, 2]}, "training: stage1"),
        ("training.batch_size.small", {"choices": [1, 2]}, "batch_size: must be a whole number"),
        ("options.deviation", {"choices": [True, 3]}, "must be true or false, not 3"),
    ],
)  # fmt: skip
def test_a_space_that_does_not_fit_is_one_line_before_anything_is_written(tmp_path, key, dimension, message):
    recipe = make_run(tmp_path, members=[LINEAR])
    with pytest.raises(RecipeError, match=message) as caught:
        design_tuning(recipe, space={key: Dimension(**dimension)})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run-tuning").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "training.batch_size: {lo: 4, high: 8}",
            r"batch_size: unknown key 'lo'. Did you mean 'low'\?",
        ),
        ("training.patience: {low: 4, high: 15, step: 4}", "high 15 is not low 4 plus some steps of 4"),
        ("training.patience: {low: 8, high: 4}", "low 8 is not below high 4"),
        ("training.patience: {low: 8}", "give low and high, or choices"),
        ("training.patience: {low: 8, high: 9, choices: [8]}", "give either choices, or low and high"),
        ("training.patience: {choices: [8, 8]}", "two or more, all different"),
        ("training.patience: {low: 0, high: 9, log: true}", "must begin above 0"),
        ("training.patience: {low: 1, high: 9, log: true, step: 2}", "no step but 1"),
        ("training.patience: [1, 2]", r"give \{low: \.\.\., high: \.\.\.\} or"),
        ("training.patience: {low: few, high: 9}", "low: must be a number, not 'few'"),
        ("a: b: c", "not valid YAML"),
        ("[]", "a search space is a mapping"),
    ],
)
def test_a_bad_space_file_is_one_line_with_the_key(tmp_path, content, message):
    path = tmp_path / "space.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=message) as caught:
        load_space(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_space_file_is_read(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(
        "training.stage1.learning_rate: {low: 1e-5, high: 1.0e-2, log: true}\n"
        "training.patience: {low: 1, high: 64, log: true, step: 1}\n"
        "options.width: {choices: [32, 64]}\n"
    )
    space = load_space(path)
    assert space["training.stage1.learning_rate"] == Dimension(low=1e-5, high=1e-2, log=True)
    assert space["training.patience"].is_whole
    assert space["options.width"].choices == [32, 64]
    with pytest.raises(RecipeError, match="cannot read the search space"):
        load_space(tmp_path / "absent.yaml")


def test_settings_go_over_the_members_own_and_leave_the_rest(tmp_path):
    recipe = make_run(tmp_path, members=[{**LINEAR, "training": {"stage1": {"epochs": 2}, "patience": 3}}])
    member = recipe.members[0]
    changed = with_settings(member, {"training.stage1.learning_rate": 0.5, "targets.hard": True})
    assert changed.training == {"stage1": {"epochs": 2, "learning_rate": 0.5}, "patience": 3}
    assert changed.targets == {"hard": True}
    assert member.training == {"stage1": {"epochs": 2}, "patience": 3}
