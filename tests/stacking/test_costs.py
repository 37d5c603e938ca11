"""What members cost: encoders that several read count once, and extraction says how long they took."""

import pytest

from sercache.cache.store import Cache
from sercache.cache.usage import EncodingSpeed, add_speed, read_speeds
from sercache.recipe import MemberRecipe
from sercache.run import DerivedMember
from sercache.stacking.costs import MemberCosts, member_costs
from support.run_builder import make_run


def test_an_encoder_that_several_members_read_counts_once():
    costs = MemberCosts(
        {"a": frozenset({"x"}), "b": frozenset({"x", "y"}), "c": frozenset({"z"})},
        {"x": 2.0, "y": 3.0, "z": None},
        "cpu",
    )
    assert costs.of(["a"]).seconds_per_minute == 2.0
    assert costs.of(["a", "b"]).seconds_per_minute == 5.0
    assert costs.of(["a", "b"]).encoders == ("x", "y")
    assert costs.of(["a", "c"]).seconds_per_minute is None
    assert costs.of(["a", "c"]).encoders == ("x", "z")


def test_a_recipes_costs_are_those_that_its_cache_has_measured(tmp_path):
    recipe = make_run(tmp_path)
    sets = {name: Cache(recipe.cache).find(recipe.features[name]) for name in ("speech", "words")}
    costs = member_costs(recipe)
    assert set(costs.encoders) == {member.name for member in recipe.members}
    assert costs.of(["fusion"]).seconds_per_minute is None
    add_speed(sets["speech"].folder, "cpu", EncodingSpeed(120.0, 4.0))
    add_speed(sets["speech"].folder, "cpu", EncodingSpeed(120.0, 8.0))
    add_speed(sets["speech"].folder, "cuda", EncodingSpeed(120.0, 1.0))
    add_speed(sets["words"].folder, "cpu", EncodingSpeed(60.0, 1.0))
    costs = member_costs(recipe)
    assert costs.device == "cpu"  # the one that both were measured on
    assert costs.of(["linear"]).seconds_per_minute == pytest.approx(3.0)
    assert costs.of(["linear", "fusion"]).seconds_per_minute == pytest.approx(4.0)
    assert len(costs.of(["linear", "fusion"]).encoders) == 2


def test_a_fine_tuned_encoder_is_one_of_its_own_and_runs_once_per_fold(tmp_path):
    recipe = make_run(tmp_path)
    for name, seconds in (("speech", 4.0), ("words", 1.0)):
        feature_set = Cache(recipe.cache).find(recipe.features[name])
        add_speed(feature_set.folder, "cpu", EncodingSpeed(60.0, seconds))
    member = MemberRecipe(name="fusion-finetuned", features=["speech", "words"])
    finetuned = DerivedMember("finetuned", "fusion", member, {"features": ["speech"]})
    costs = member_costs(recipe, [finetuned])
    assert costs.of(["fusion-finetuned"]).encoders == ("speech (fusion-finetuned)", "words")
    assert costs.of(["fusion-finetuned"]).seconds_per_minute == pytest.approx(3 * 4.0 + 1.0)
    assert costs.of(["fusion", "fusion-finetuned"]).seconds_per_minute == pytest.approx(4.0 + 1.0 + 12.0)


def test_a_cache_that_is_gone_has_no_costs(tmp_path):
    recipe = make_run(tmp_path)
    assert member_costs(recipe.model_copy(update={"cache": tmp_path / "gone"})) is None


def test_speeds_add_up_by_device_and_a_damaged_file_is_as_if_there_were_none(tmp_path):
    assert read_speeds(tmp_path) == {}
    add_speed(tmp_path, "cpu", EncodingSpeed(60.0, 2.0))
    add_speed(tmp_path, "cuda", EncodingSpeed(30.0, 0.5))
    add_speed(tmp_path, "cpu", EncodingSpeed(60.0, 4.0))
    speeds = read_speeds(tmp_path)
    assert speeds == {"cpu": EncodingSpeed(120.0, 6.0), "cuda": EncodingSpeed(30.0, 0.5)}
    assert speeds["cpu"].seconds_per_minute == 3.0
    for content in ("[]", "{", '{"cpu": {}}', '{"cpu": 3}'):
        (tmp_path / "speed.json").write_text(content)
        assert read_speeds(tmp_path) == {}
    add_speed(tmp_path, "cpu", EncodingSpeed(60.0, 2.0))
    assert read_speeds(tmp_path)["cpu"].encode_seconds == 2.0
