"""The recipes in data/recipes are valid, and the page of recipes names each of them."""

from pathlib import Path

import pytest

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
    assert f"`{path.name}`" in (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")


def test_medusas_recipe_has_14_members_of_2_or_3_feature_sets():
    recipe = load_recipe(REPOSITORY / "data" / "recipes" / "medusa-msp-podcast.yaml")
    assert len(recipe.members) == 14
    assert {len(member.features) for member in recipe.members} == {2, 3}
