import pytest
import yaml

from sercache.errors import RecipeError
from sercache.recipe import Recipe, TrainingRecipe, dump_recipe, load_recipe
from sercache.run import Run
from sercache.stacking.registry import check_recipe_names

SMALLEST = """
corpus: corpus.csv
features:
  speech: {encoder: logmel}
members:
  - {name: one, features: [speech]}
"""


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_recipe_and_the_output_has_its_name(tmp_path):
    recipe = load_recipe(write(tmp_path, SMALLEST))
    assert recipe.corpus == tmp_path / "corpus.csv"
    assert recipe.cache == tmp_path / "cache"
    assert recipe.output == tmp_path / "runs" / "recipe"


def test_defaults_are_the_papers():
    training = TrainingRecipe()
    assert (training.batch_size, training.accumulate, training.patience) == (32, 2, 8)
    assert (training.class_weight, training.attribute_weight) == (1.5, 0.4)
    assert (training.stage1.learning_rate, training.stage2.learning_rate) == (1e-5, 1e-6)
    assert training.mixup.alpha == 0.2
    assert training.balance_exponent == 0.5
    assert (training.schedule, training.warmup_epochs) == ("constant", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("foldz: {count: 3}", r"unknown key 'foldz'\. Did you mean 'folds'\?"),
        ("folds: {cuont: 3}", r"unknown key 'folds\.cuont'\. Did you mean 'folds\.count'\?"),
        (
            "training: {warmup_epochs: 5, stage2: {epochs: 0}}",
            r"training: .*warmup_epochs \(5\) is more than stage1\.epochs \(4\)",
        ),
        ("training: {schedule: linear}", r"training\.schedule: must be constant or cosine, not 'linear'"),
        ("folds: {count: 1}", r"folds\.count: must be 2 or more, not 1"),
        (
            "training: {stage1: {epochs: 3, learning_rat: 1}}",
            r"learning_rat'\. Did you mean 'training\.stage1\.learning_rate'\?",
        ),
    ],
)
def test_a_wrong_key_is_named_with_its_place_and_the_nearest_one(tmp_path, change, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, SMALLEST + change))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("corpus: [", "not valid YAML"),
        ("features: [\n", "line 2, column 1"),
        ("- a list", "is not a recipe"),
        ("", "is not a recipe.*sercache init"),
        ("features: {}", "key 'corpus' is missing"),
        (SMALLEST.replace("[speech]", "[text]"), "'one' reads feature set 'text'.*there are: speech"),
        (SMALLEST.replace("name: one", "name: ../one"), r"members\.0\.name"),
        (SMALLEST + "  - {name: one, features: [speech]}", "member name 'one' occurs twice"),
        (SMALLEST.replace("name: one", "name: one, training: {patiense: 3}"),
         "member 'one', training: unknown key 'patiense'. Did you mean 'patience'"),
        (SMALLEST + "training: {stage1: {epochs: 0}, stage2: {epochs: 0}}", "are both 0"),
        ("corpus: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)  # fmt: skip
def test_every_bad_recipe_is_one_clear_line(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"nowhere\.yaml does not exist"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_a_members_own_training_settings_go_over_the_recipes(tmp_path):
    text = SMALLEST.replace("name: one", "name: one, training: {stage1: {epochs: 9}, patience: 3}")
    recipe = load_recipe(write(tmp_path, text + "training: {batch_size: 8, patience: 5}"))
    training = recipe.training_of(recipe.members[0])
    assert (training.batch_size, training.patience, training.stage1.epochs) == (8, 3, 9)
    assert training.stage1.learning_rate == 1e-5


def test_a_members_own_targets_go_over_the_recipes(tmp_path):
    text = SMALLEST.replace("name: one", "name: one, targets: {hard: true}")
    recipe = load_recipe(write(tmp_path, text + "targets: {other: spread}"))
    targets = recipe.targets_of(recipe.members[0])
    assert (targets.hard, targets.other) == (True, "spread")


def test_a_members_wrong_target_setting_names_the_member(tmp_path):
    text = SMALLEST.replace("name: one", "name: one, targets: {hart: true}")
    with pytest.raises(RecipeError, match=r"member 'one', targets: unknown key 'hart'\. Did you mean 'hard'"):
        load_recipe(write(tmp_path, text))


def test_a_dumped_recipe_loads_as_itself(tmp_path):
    recipe = load_recipe(write(tmp_path, SMALLEST))
    again = Recipe.model_validate(yaml.safe_load(dump_recipe(recipe)))
    assert again == recipe


def test_a_run_folder_refuses_another_recipe_and_says_what_differs(tmp_path):
    recipe = load_recipe(write(tmp_path, SMALLEST))
    run = Run(recipe.output)
    run.start(recipe, {"corpus_digest": "a"})
    run.start(recipe, {"corpus_digest": "a"})
    assert run.recipe().members == recipe.members
    other = recipe.model_copy(update={"folds": recipe.folds.model_copy(update={"count": 3})})
    with pytest.raises(RecipeError, match=r"another recipe \(folds\.count\)"):
        run.start(other, {"corpus_digest": "a"})
    other = recipe.model_copy(update={"members": [recipe.members[0].model_copy(update={"seed": 7})]})
    with pytest.raises(RecipeError, match=r"another recipe \(members\.one\.seed\)"):
        run.start(other, {"corpus_digest": "a"})
    with pytest.raises(RecipeError, match="another corpus_digest"):
        run.start(recipe, {"corpus_digest": "b"})


def test_a_recipe_that_is_not_there_names_the_nearest(tmp_path):
    write(tmp_path, SMALLEST)
    with pytest.raises(RecipeError, match=r"recipe\.yml does not exist\. Did you mean 'recipe.yaml'\?"):
        load_recipe(tmp_path / "recipe.yml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("features: [speech], head: deepsr", "member 'one': unknown head 'deepsr'.*Did you mean 'deepser'"),
        ("features: [speech], training: {class_loss: foca}", "member 'one'.*Did you mean 'focal'"),
        ("features: [speech], training: {class_weighting: x}", "member 'one': unknown class weighting 'x'"),
    ],
)
def test_names_of_heads_losses_and_weightings_are_looked_up_before_anything_is_extracted(
    tmp_path, change, message
):
    check_recipe_names(load_recipe(write(tmp_path, SMALLEST)))
    with pytest.raises(RecipeError, match=message):
        check_recipe_names(load_recipe(write(tmp_path, SMALLEST.replace("features: [speech]", change))))


@pytest.mark.parametrize("section", ["stackers: [soft-voet]", "calibration: temperture"])
def test_names_of_the_meta_level_are_looked_up_too(tmp_path, section):
    with pytest.raises(RecipeError, match=r"stacking: unknown .*Did you mean"):
        check_recipe_names(load_recipe(write(tmp_path, f"{SMALLEST}stacking: {{{section}}}\n")))


def test_a_run_that_is_a_file_or_misspelt_is_named(tmp_path):
    recipe = write(tmp_path, SMALLEST)
    with pytest.raises(RecipeError, match=r"is not a run but a file.*train-ensemble"):
        Run(recipe).recipe()
    (tmp_path / "runs").mkdir()
    with pytest.raises(RecipeError, match=r"rus does not exist\. Did you mean 'runs'"):
        Run(tmp_path / "rus").recipe()


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"is not a run.*train-ensemble"):
        Run(tmp_path).recipe()


def test_a_preset_stands_under_the_keys_beside_it(tmp_path):
    content = {
        "corpus": "c.csv",
        "features": {"a": {"encoder": "logmel"}},
        "training": {"stage1": {"epochs": 9, "learning_rate": 0.1}},
        "members": [
            {"name": "small", "features": ["a"]},
            {"name": "paper", "features": ["a"], "training": {"preset": "medusa", "patience": 3}},
        ],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    recipe = load_recipe(path)
    small, paper = (recipe.training_of(member) for member in recipe.members)
    assert (small.stage1.epochs, small.patience) == (9, 8)
    assert (paper.stage1.epochs, paper.stage1.learning_rate, paper.patience) == (4, 1e-5, 3)
    content["training"] = {"preset": "medua"}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError, match=r"training: .*unknown preset 'medua' \(known: medusa\)"):
        load_recipe(path)
    content["training"] = {"preset": "medusa", "patience": 2}
    path.write_text(yaml.safe_dump(content))
    assert load_recipe(path).training.patience == 2
