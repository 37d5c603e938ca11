"""The recipes in data/recipes are valid, and the page of recipes names each of them."""

from pathlib import Path

import pytest

from sercache.encoders.registry import ENCODERS
from sercache.heads.registry import HEADS
from sercache.recipe import load_recipe
from sercache.stacking.registry import STACKERS

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = sorted((REPOSITORY / "data" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_is_on_the_page(path):
    recipe = load_recipe(path)
    assert all(member.head in HEADS for member in recipe.members)
    assert all(name in STACKERS for name in recipe.stacking.stackers)
    assert f"`{path.name}`" in (REPOSITORY / "docs" / "how-to" / "recipes.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_begins_with_closed_forms_and_names_nothing_that_users_do_not_have(path):
    recipe = load_recipe(path)
    is_closed_form = [HEADS[member.head].is_closed_form for member in recipe.members]
    assert is_closed_form == sorted(is_closed_form, reverse=True)
    assert is_closed_form[0] or "ablation" in path.stem
    assert ".." not in path.read_text(encoding="utf-8").replace("...", "")
    assert recipe.features
    for feature in recipe.features.values():
        assert not Path(feature.encoder).is_absolute()
        assert feature.encoder in ENCODERS or feature.encoder.count("/") == 1


def test_medusas_recipe_has_14_members_of_2_or_3_feature_sets_beside_the_closed_forms():
    recipe = load_recipe(REPOSITORY / "data" / "recipes" / "medusa-msp-podcast.yaml")
    neural = [member for member in recipe.members if member.head == "deepser"]
    assert len(neural) == 14
    assert {len(member.features) for member in neural} == {2, 3}
