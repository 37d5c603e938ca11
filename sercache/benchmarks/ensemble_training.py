"""How fast a whole ensemble trains: as planned, against one training after the other."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sercache.benchmarks.training import where_frames_are
from sercache.benchmarks.training_run import synthetic_run
from sercache.devices import resolve_device
from sercache.events import QUIET, Context, Event
from sercache.training.ensemble import lay_out, train_ensemble
from sercache.training.member import FoldJob, train_folds

MEMBERS: Sequence[Mapping[str, Any]] = (
    {"name": "deepser-both", "features": ["set0", "set1"]},
    {"name": "deepser-speech", "features": ["set0"]},
    {"name": "statistics-both", "head": "attentive-statistics", "features": ["set0", "set1"]},
    {"name": "statistics-speech", "head": "attentive-statistics", "features": ["set0"]},
    {"name": "linear-both", "head": "mean-linear", "features": ["set0", "set1"]},
    {"name": "linear-speech", "head": "mean-linear", "features": ["set0"]},
)
"""Kinds of members over two feature sets, from heavy to light."""


@dataclass(frozen=True, slots=True)
class EnsembleBenchmark:
    """An ensemble trained twice.

    Attributes:
        members: how many.
        folds: how many.
        epochs: of each training.
        plan: what the planner chose.
        frames: where they are, from :func:`sercache.benchmarks.training.where_frames_are`.
        planned_seconds: with it, measuring and the processes' start included.
        one_by_one_seconds: one training after the other in one process that stays warm, with all threads.
    """

    members: int
    folds: int
    epochs: int
    plan: str
    frames: str
    planned_seconds: float
    one_by_one_seconds: float


def benchmark_ensemble(
    *,
    utterances: int = 400,
    mean_frames: Sequence[int] = (250, 20),
    dims: Sequence[int] = (768, 768),
    members: int = len(MEMBERS),
    width: int = 32,
    feedforward: int = 64,
    batch_size: int = 32,
    folds: int = 5,
    epochs: int = 4,
    device: str = "auto",
    context: Context = QUIET,
) -> EnsembleBenchmark:
    """Train members on every fold, from random features: as planned, and one by one.

    Args:
        utterances: of the corpus.
        mean_frames: of the two feature sets.
        dims: D of each.
        members: how many; the kinds come one after the other, beyond six with other seeds.
        width: of the DeepSER heads, d.
        feedforward: inner width of their encoder layers.
        batch_size: rows per batch.
        folds: how many.
        epochs: of each training, half of them in stage 2; none stops early.
        device: ``auto``, or a device as torch names it.
        context: receives events, and can stop the work.

    Raises:
        Interrupted: ``context.should_stop`` returned True.
    """
    chosen = _members(members, {"width": width, "feedforward": feedforward})
    training = {
        "batch_size": batch_size,
        "stage1": {"epochs": -(-epochs // 2)},
        "stage2": {"epochs": epochs // 2},
        "patience": max(1, epochs),
    }
    seconds, plans, frames = {}, [], ""
    for way in ("planned", "one by one"):
        with TemporaryDirectory(prefix="sercache-bench-") as folder:
            recipe = synthetic_run(
                Path(folder),
                utterances=utterances,
                mean_frames=mean_frames,
                dims=dims,
                members=chosen,
                folds=folds,
                training=training,
                context=Context(should_stop=context.should_stop),
            )
            context.listener(Event("note", way, message=f"{members} members x {folds} folds, {way}"))
            started = time.perf_counter()
            if way == "planned":
                report = train_ensemble(
                    recipe,
                    device=device,
                    with_baseline=False,
                    context=context,
                )
                plans.append(report.plan)
            else:
                data = lay_out(recipe)
                frames = where_frames_are(data.frames(resolve_device(device)))
                for member in recipe.members:
                    for fold in range(folds):
                        job = FoldJob(data.run.root, member.name, fold, resolve_device(device))
                        train_folds([job], context=context)
            seconds[way] = time.perf_counter() - started
    return EnsembleBenchmark(
        members, folds, epochs, plans[0], frames, seconds["planned"], seconds["one by one"]
    )


def _members(count: int, deepser: Mapping[str, int]) -> list[Mapping[str, Any]]:
    chosen: list[Mapping[str, Any]] = []
    for number in range(count):
        turn, kind = divmod(number, len(MEMBERS))
        member = dict(MEMBERS[kind])
        if "head" not in member:
            member["options"] = dict(deepser)
        if turn:
            member |= {"name": f"{member['name']}-{turn + 1}", "seed": turn}
        chosen.append(member)
    return chosen
