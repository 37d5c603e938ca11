import dataclasses

import pytest

from sercache.errors import RecipeError
from sercache.files import write_atomically
from sercache.recipe import MemberRecipe, dump_recipe, load_recipe
from sercache.run import DerivedMember, Run, derived_members, save_derived
from support.run_builder import write_recipe


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run")
    write_atomically(run.recipe_path, dump_recipe(load_recipe(write_recipe(tmp_path))))
    return run


def derived(name="fusion-finetuned", **changes):
    member = MemberRecipe(name=name, features=["speech"])
    return dataclasses.replace(DerivedMember("finetuned", "fusion", member, {"layers": 2}), **changes)


def test_what_is_entered_is_found_by_kind(run):
    small = derived("small", kind="distilled", of="soup")
    save_derived(run, small)
    save_derived(run, derived())
    save_derived(run, derived())
    assert derived_members(run) == [derived(), small]
    assert derived_members(run, "distilled") == [small]


def test_a_name_stands_for_one_member(run):
    with pytest.raises(RecipeError, match="already has a member 'fusion'"):
        save_derived(run, derived("fusion"))
    save_derived(run, derived())
    with pytest.raises(RecipeError, match="made with other settings"):
        save_derived(run, derived(settings={"layers": 3}))


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"format": 2}'])
def test_a_damaged_description_is_one_line(run, content):
    save_derived(run, derived())
    run.derived_path("fusion-finetuned").write_text(content)
    with pytest.raises(RecipeError, match=r"member\.json"):
        derived_members(run)
