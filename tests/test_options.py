"""Settings given as ``KEY=VALUE``: a nested mapping, or one line that names the pair."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sercache.errors import RecipeError
from sercache.options import settings_of

NAMES = st.sampled_from(["stage1", "stage2", "epochs", "lora"])
KEYS = st.lists(NAMES, min_size=1, max_size=3).map(".".join)
VALUES = st.sampled_from(["3", "1e-3", "true", "null", "", "word", "[1, 2]", "{a: 1}", "2020-13-45", "a=b"])


def test_settings_nest_and_have_the_types_of_yaml():
    pairs = ["stage1.epochs=2", "stage1.encoder_learning_rate=1e-3", "lora=8", "layers=null", "name=a=b"]
    assert settings_of(pairs) == {
        "stage1": {"epochs": 2, "encoder_learning_rate": 0.001},
        "lora": 8,
        "layers": None,
        "name": "a=b",
    }


@pytest.mark.parametrize("pair", ["epochs", "=2", "stage1.=3", ".epochs=3", "a..b=1", "lora=[", " =1"])
def test_a_wrong_pair_is_named(pair):
    with pytest.raises(RecipeError, match="--set"):
        settings_of([pair], "--set")


@pytest.mark.parametrize("pairs", [["stage1=3", "stage1.epochs=2"], ["stage1.epochs=2", "stage1=3"]])
def test_a_key_with_a_value_has_no_keys_below_it_in_either_order(pairs):
    with pytest.raises(RecipeError, match="stage1"):
        settings_of(pairs)


def settings_or_message(pairs):
    try:
        return settings_of(pairs)
    except RecipeError as error:
        return str(error)


@given(st.lists(st.tuples(KEYS, VALUES), max_size=5))
def test_any_pairs_give_their_last_values_or_one_line(entries):
    settings = settings_or_message([f"{key}={value}" for key, value in entries])
    if isinstance(settings, str):
        assert "\n" not in settings
    elif entries:
        key, value = entries[-1]
        *sections, last = key.split(".")
        for section in sections:
            settings = settings[section]
        assert settings[last] == settings_of([f"{last}={value}"])[last]


@given(st.lists(st.text(), max_size=3))
def test_any_texts_give_settings_or_one_error(pairs):
    assert isinstance(settings_or_message(pairs), dict | str)
