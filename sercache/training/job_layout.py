"""Which folds and members train together, and in how many processes: decided by measuring.

What is measured is what a row costs: gathering its frames, and a training step on them. Heads that take
turns share the gathering; heads that train apart spread better over processes. The layout is the one that
would end first. The result of a training does not depend on it, so it may be another one tomorrow.
"""

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sercache.devices import usable_cores
from sercache.recipe import MemberRecipe
from sercache.training.batches import FrameSource
from sercache.training.data import TrainingData, split_ids
from sercache.training.epoch import precision_of
from sercache.training.member import FoldJob
from sercache.training.objective import Targets, objective_of

_MEASURED_ROWS = 4
_QUICK_SECONDS = 0.5
"""A first step that is slower than this is not repeated: what it costs to warm up is lost in it."""

_WORTH_SHARING = 0.97
"""Groups must end this much earlier than single jobs: they divide worse among processes in the end."""


@dataclass(frozen=True, slots=True)
class RowCost:
    """Seconds that a training row costs.

    Attributes:
        step: forward, backward and its share of an optimiser step.
        gather: to gather its frames, by feature set.
    """

    step: float
    gather: dict[str, float]


@dataclass(frozen=True, slots=True)
class JobLayout:
    """What trains where.

    Attributes:
        groups: jobs that take turns in one task; the longest first.
        workers: processes; None is as many as a cluster has room for.
        threads: of torch, in each process; 0 trains in this one, with the threads that it has.
        seconds: what it should take if no early stopping cut it short.
        is_closed_form: whether heads are fitted without epochs.
    """

    groups: tuple[tuple[FoldJob, ...], ...]
    workers: int | None
    threads: int
    seconds: float
    is_closed_form: bool = False

    @property
    def description(self) -> str:
        """One line for people."""
        jobs = sum(map(len, self.groups))
        trainings = "1 training" if jobs == 1 else f"{jobs} trainings"
        where = "one process" if self.workers == 1 else f"{self.workers or 'many'} processes"
        if self.is_closed_form:
            return f"{jobs} closed-form fits, in {where}"
        how = (
            "each by itself"
            if len(self.groups) == jobs
            else f"in {len(self.groups)} groups that share batches"
        )
        return f"{trainings}, {how}, in {where}"


def layout_for_training(
    data: TrainingData, members: Sequence[MemberRecipe], jobs: Sequence[FoldJob], workers: int | None
) -> JobLayout:
    """Measure each member on a few rows, and return the layout that should end first.

    Args:
        data: the run.
        members: all that are asked for.
        jobs: what is left to train of them.
        workers: processes; None is one per core, and 1 on a GPU.
    """
    if not jobs:
        return JobLayout((), 1, 0, 0.0)
    all_jobs = len(members) * data.recipe.folds.count
    on_cpu = jobs[0].device == "cpu"
    if workers is None:
        workers = min(usable_cores(), all_jobs) if on_cpu else 1
    # Threads follow from what is asked for and not from what is left: a resumed run must give the same bits.
    threads = max(1, usable_cores() // workers) if workers > 1 else 0
    by_name = {member.name: member for member in members}
    if len(jobs) == 1:
        return JobLayout((tuple(jobs),), workers, threads, 0.0)
    left = [by_name[name] for name in dict.fromkeys(job.member for job in jobs)]
    costs = _measured(data, left, jobs[0].device)
    return choose_layout(jobs, by_name, costs, lambda member: _row_visits(data, member), workers, threads)


def layout_for_closed_form(jobs: Sequence[FoldJob], workers: int | None) -> JobLayout:
    """Return the layout of fits without epochs: a member's folds together, as they read the same table."""
    grouped: dict[str, list[FoldJob]] = defaultdict(list)
    for job in jobs:
        grouped[job.member].append(job)
    groups = tuple(map(tuple, grouped.values()))
    wanted = usable_cores() if workers is None and jobs[0].device == "cpu" else workers or 1
    workers = min(wanted, len(groups))
    return JobLayout(groups, workers, max(1, usable_cores() // workers) if workers > 1 else 0, 0.0, True)


def layout_for_cluster(jobs: Sequence[FoldJob], workers: int | None) -> JobLayout:
    """Return the layout for a cluster: every job a task of its own, so that little is lost with a machine.

    A core each, as on one machine that has no more cores than jobs: the results are the same bits.
    """
    return JobLayout(tuple((job,) for job in jobs), workers, 1, math.nan)


def choose_layout(
    jobs: Sequence[FoldJob],
    members: dict[str, MemberRecipe],
    costs: dict[str, RowCost],
    row_visits: Callable[[MemberRecipe], float],
    workers: int,
    threads: int,
) -> JobLayout:
    """Return the layout that ends first: single jobs, or groups that share batches.

    Args:
        jobs: what is left to train.
        members: by name.
        costs: of a row, by member.
        row_visits: how many rows a fold of a member sees in all its epochs.
        workers: processes.
        threads: of each.
    """

    def seconds(group: Sequence[FoldJob]) -> float:
        gathered: dict[str, float] = {}
        total = 0.0
        for job in group:
            cost, visits = costs[job.member], row_visits(members[job.member])
            total += visits * cost.step
            for name, row_seconds in cost.gather.items():
                gathered[name] = max(gathered.get(name, 0.0), visits * row_seconds)
        return total + sum(gathered.values())

    def by(key: Callable[[FoldJob], Hashable]) -> list[tuple[FoldJob, ...]]:
        grouped: dict[Hashable, list[FoldJob]] = defaultdict(list)
        for job in jobs:
            grouped[key(job)].append(job)
        return sorted(map(tuple, grouped.values()), key=seconds, reverse=True)

    apart = by(lambda job: job)
    layouts = [
        by(lambda job: (job.fold, tuple(members[job.member].features))),
        by(lambda job: job.fold),
    ]
    best, least = apart, _makespan([seconds(group) for group in apart], workers)
    threshold = _WORTH_SHARING * least
    for layout in layouts:
        ends = _makespan([seconds(group) for group in layout], workers)
        if ends < min(threshold, least):
            best, least = layout, ends
    return JobLayout(tuple(best), min(workers, len(best)), threads, least)


def _makespan(seconds: Sequence[float], workers: int) -> float:
    """Return when the last process ends, if each takes the longest task that is left."""
    ends = np.zeros(workers)
    for task_seconds in seconds:
        ends[ends.argmin()] += task_seconds
    return float(ends.max())


def _row_visits(data: TrainingData, member: MemberRecipe) -> float:
    settings = data.recipe.training_of(member)
    folds = data.recipe.folds.count
    rows = data.rows.select(split_ids(data.corpus, "train"))
    share = (folds - 1) / folds
    counts = np.bincount(rows.consensus[rows.consensus >= 0], minlength=1)
    classes = np.count_nonzero(counts) + settings.no_agreement_share
    balanced = min(len(rows), float(counts[counts > 0].min(initial=len(rows)) * classes))
    if not data.corpus.classes:
        balanced = float(len(rows))  # there is nothing to balance: stage 2 takes all rows
    return share * (len(rows) * settings.stage1.epochs + balanced * settings.stage2.epochs)


def _measured(data: TrainingData, members: Sequence[MemberRecipe], device: str) -> dict[str, RowCost]:
    source = data.frames(device, members)
    train = split_ids(data.corpus, "train")
    lengths = source.select(train).lengths
    middle = np.argsort(lengths, kind="stable")[len(train) // 2 :][: 2 * _MEASURED_ROWS]
    ids = [train[row] for row in middle]
    stays_in_memory = (
        sum(feature_set.size_bytes for feature_set in data.feature_sets.values()) < _memory_bytes() / 2
    )
    gathering: dict[str, float] = {}
    steps: dict[Hashable, float] = {}
    costs = {}
    for member in members:
        for name in member.features:
            if name not in gathering:
                sample = source.select(ids, [data.feature_sets[name]])
                gathering[name] = _gather_seconds(sample, stays_in_memory)
        alike = (member.head, tuple(member.features), repr(sorted(member.options.items())))
        if alike not in steps:
            sample = source.select(ids[:_MEASURED_ROWS], data.sets_of(member))
            steps[alike] = _step_seconds(data, member, sample)
        costs[member.name] = RowCost(steps[alike], {name: gathering[name] for name in member.features})
    return costs


def _gather_seconds(source: FrameSource, stays_in_memory: bool) -> float:
    """Return what a row costs to gather: again, or for the first time where memory will not hold them all."""
    first, second = np.array_split(np.arange(len(source.ids)), 2)
    if not len(second):
        return 0.0
    source.batch(first)
    seconds = _seconds_of(lambda: source.batch(second), source.device)
    if stays_in_memory:
        seconds = _seconds_of(lambda: source.batch(first), source.device)
    return seconds / max(1, len(first))


def _step_seconds(data: TrainingData, member: MemberRecipe, source: FrameSource) -> float:
    """Return what a training step costs, by row."""
    settings = data.recipe.training_of(member)
    head = data.build_head(member, 0).to(source.device).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-9, fused=True)
    objective = objective_of(settings)
    inputs = source.batch(np.arange(len(source.ids)))
    rows = data.rows_of(member).select(source.ids).targets(source.device)
    targets = Targets(rows.soft.nan_to_num(nan=0.0), rows.attributes)
    precision = precision_of(settings, source.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(source.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            output = head(inputs)
        objective(output, targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    with torch.random.fork_rng(devices=[source.device] if source.device.type == "cuda" else []):
        try:
            seconds = _seconds_of(step, source.device)
            if seconds < _QUICK_SECONDS:
                seconds = min(_seconds_of(step, source.device) for _ in range(2))
        except torch.OutOfMemoryError:  # its training reports it; the others go on
            return math.inf
    return seconds / len(source.ids)


def _seconds_of(function: Callable[[], object], device: torch.device) -> float:
    _wait_for(device)
    started = time.perf_counter()
    function()
    _wait_for(device)
    return time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # no such question on this system
        return 8 << 30
