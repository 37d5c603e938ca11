"""What is wrong with a recipe is said once, whole and in our own words."""

import pytest
from pydantic import ValidationError

from sercache.recipe import Recipe
from sercache.validation import explain

SOUND = {
    "corpus": "corpus.csv",
    "output": "run",
    "features": {"speech": {"encoder": "logmel"}},
    "members": [{"name": "one", "features": ["speech"]}],
}


def explained(**changes):
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(SOUND | changes)
    return explain(caught.value, Recipe)


def test_all_problems_are_named_and_misspelt_keys_come_first():
    message = explained(folds={"count": 1}, foldz={}, seed="x", trainig={})
    places = [message.index(part) for part in ("'foldz'", "'trainig'", "seed: ", "folds.count: ")]
    assert places[:2] == sorted(places[:2])
    assert max(places[:2]) < min(places[2:])
    assert "more problem" not in message


def test_of_very_many_problems_five_are_named_and_the_rest_counted():
    assert explained(**{f"key{number}": 1 for number in range(9)}).endswith("; 4 more problems")
    assert explained(**{f"key{number}": 1 for number in range(6)}).endswith("; 1 more problem")


@pytest.mark.parametrize(
    ("changes", "suggestion"),
    [
        ({"folds": {"cuont": 3}}, "Did you mean 'folds.count'?"),
        ({"features": {"speech": {"encoder": "logmel", "dtipe": "auto"}}}, "'features.speech.dtype'"),
        ({"members": [{"name": "one", "features": ["speech"], "sed": 1}]}, "'members.0.seed'"),
        (
            {"members": [{"name": "one", "features": ["speech"], "learning_rate": 1}]},
            "Did you mean 'training.stage1.learning_rate' or 'training.stage2.learning_rate'",
        ),
        ({"patience": 3}, "'training.patience'"),
    ],
)
def test_a_suggested_key_is_a_whole_path_to_write_it_at(changes, suggestion):
    assert suggestion in explained(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"members": []}, "members: must not be empty"),
        ({"features": {}}, "features: must not be empty"),
        ({"features": ["a"]}, "features: must be a mapping of keys to values, not ['a']"),
        ({"members": "one"}, "members: must be a list, not 'one'"),
        ({"seed": 1.5}, "seed: must be a whole number, not 1.5"),
        ({"training": {"standardize": "perhaps"}}, "training.standardize: must be true or false"),
        ({"training": {"batch_size": 0}}, "training.batch_size: must be 1 or more, not 0"),
        ({"training": {"mixup": {"alpha": 0}}}, "training.mixup.alpha: must be above 0, not 0"),
        ({"training": {"precision": "half"}}, "must be auto, float32 or bfloat16, not 'half'"),
        ({"corpus": 7}, "corpus: must be a path, not 7"),
        ({"members": [{"name": "../one", "features": ["speech"]}]}, "members.0.name: must begin with"),
        (
            {"members": [{"name": "one", "features": ["speech"], "options": {"width": [1]}}]},
            "members.0.options.width: must be a number, a text, or true or false",
        ),
    ],
)
def test_values_are_judged_in_our_own_words(changes, words):
    message = explained(**changes)
    assert words in message
    assert "Input" not in message
    assert "validation" not in message
    assert "\n" not in message
