"""The layout that a plan chooses, from costs that are given; what is measured only has to be positive."""

from itertools import permutations, product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sercache.recipe import MemberRecipe
from sercache.training import job_layout
from sercache.training.data import open_run
from sercache.training.ensemble import train_ensemble
from sercache.training.job_layout import RowCost, choose_layout, layout_for_training
from sercache.training.member import FoldJob
from support.run_builder import make_run

MEMBERS = {
    name: MemberRecipe(name=name, features=features)
    for name, features in {"a": ["x"], "b": ["x"], "c": ["x", "y"], "d": ["y"]}.items()
}


def jobs(names="abcd", folds=3):
    return [FoldJob(Path("run"), name, fold, "cpu") for fold in range(folds) for name in names]


def costs(step, gather):
    return {name: RowCost(step, dict.fromkeys(member.features, gather)) for name, member in MEMBERS.items()}


def test_heads_share_batches_where_gathering_is_what_costs():
    plan = choose_layout(jobs(), MEMBERS, costs(1e-6, 1e-3), lambda member: 100.0, 1, 0)
    assert [{job.fold for job in group} for group in plan.groups] == [{0}, {1}, {2}]
    assert plan.seconds == pytest.approx(3 * (4 * 1e-4 + 2 * 0.1))
    assert plan.description == "12 trainings, in 3 groups that share batches, in one process"


def test_heads_train_apart_where_computing_is_what_costs():
    plan = choose_layout(jobs(), MEMBERS, costs(1e-3, 1e-6), lambda member: 100.0, 2, 1)
    assert plan.groups
    assert all(len(group) == 1 for group in plan.groups)
    assert plan.seconds == pytest.approx(6 * (0.1 + 1e-4 * 1.25), rel=1e-2)
    assert plan.description == "12 trainings, each by itself, in 2 processes"


def test_sharing_must_pay_for_dividing_worse():
    """Two folds keep two of four processes busy; apart, all four work."""
    plan = choose_layout(jobs("ab", folds=2), MEMBERS, costs(1e-3, 3e-4), lambda member: 100.0, 4, 1)
    assert plan.groups
    assert all(len(group) == 1 for group in plan.groups)


@given(
    step=st.floats(1e-6, 1e-2),
    gather=st.floats(1e-6, 1e-2),
    workers=st.integers(1, 5),
    names=st.sampled_from(["a", "ab", "ac", "abcd"]),
    folds=st.integers(1, 4),
)
def test_every_job_is_planned_once_and_never_worse_than_one_by_one(step, gather, workers, names, folds):
    plan = choose_layout(jobs(names, folds), MEMBERS, costs(step, gather), lambda member: 10.0, workers, 1)
    assert sorted(job.name for group in plan.groups for job in group) == sorted(
        job.name for job in jobs(names, folds)
    )
    assert 1 <= plan.workers <= workers
    alone = sum(10 * (step + gather * len(MEMBERS[job.member].features)) for job in jobs(names, folds))
    assert plan.seconds <= alone * (1 + 1e-9)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 3))
def test_the_last_process_ends_within_a_third_of_the_best_possible(seconds, workers):
    """Graham (1969): longest first is at most 4/3 - 1/(3 m) of the optimum."""
    best = min(
        max(sum(s for s, w in zip(seconds, where, strict=True) if w == worker) for worker in range(workers))
        for where in product(range(workers), repeat=len(seconds))
    )
    ends = job_layout._makespan(sorted(seconds, reverse=True), workers)
    assert best <= ends <= best * (4 / 3 - 1 / (3 * workers)) + 1e-9
    assert all(
        job_layout._makespan(order, 1) == sum(seconds)
        for order in permutations(seconds[:3])
        if len(seconds) <= 3
    )


def test_a_real_plan_measures_every_member_and_leaves_the_generators_alone(tmp_path):
    recipe = make_run(tmp_path)
    data = open_run(train_ensemble(recipe, workers=1).run.root)
    left = [
        FoldJob(data.run.root, member.name, fold, "cpu") for fold in range(3) for member in recipe.members
    ]
    before = torch.random.get_rng_state()
    plan = layout_for_training(data, recipe.members, left, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert plan.seconds > 0
    assert sum(map(len, plan.groups)) == 6
    measured = job_layout._measured(data, recipe.members, "cpu")
    assert set(measured["fusion"].gather) == {"speech", "words"}
    assert measured["fusion"].step > measured["linear"].step > 0


def test_a_member_that_does_not_fit_the_device_is_planned_and_does_not_end_the_others(tmp_path, monkeypatch):
    recipe = make_run(tmp_path)
    data = open_run(train_ensemble(recipe, workers=1).run.root)
    jobs = [
        FoldJob(data.run.root, member.name, fold, "cpu") for fold in range(3) for member in recipe.members
    ]

    def no_room(function, device):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(job_layout, "_gather_seconds", lambda *_: 0.0)
    monkeypatch.setattr(job_layout, "_seconds_of", no_room)
    assert sum(map(len, layout_for_training(data, recipe.members, jobs, 1).groups)) == len(jobs)


def test_nothing_left_is_nothing_planned(tmp_path):
    assert layout_for_training(None, [], [], None).groups == ()
