"""Simulated runs that have a linear baseline."""

from dataclasses import replace

import numpy as np

from sercache.recipe import MemberRecipe
from sercache.run import DerivedMember, save_derived

NAME = "linear-baseline"


def with_baseline(run, table):
    """Give a run a baseline that predicts what ``table`` has."""
    member = MemberRecipe(name=NAME, head="ridge", features=["logmel"])
    save_derived(run, DerivedMember("baseline", "the recipe", member))
    replace(table, member=NAME).save(run.posteriors_path(NAME))
    return run


def blurred(table, share):
    """Return a table whose classes are swapped on a share of the rows."""
    probabilities = table.class_probabilities.copy()
    swapped = np.random.default_rng(0).random(len(probabilities)) < share
    probabilities[swapped] = np.roll(probabilities[swapped], -1, axis=1)
    return replace(table, class_probabilities=probabilities)
