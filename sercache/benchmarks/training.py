"""How fast a head trains: against the same arithmetic on batches in memory, and against the plain way."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from sercache.benchmarks.plain_training import NpyFiles, PlainDeepSER, plain_batches
from sercache.benchmarks.training_run import ATTRIBUTES, CLASSES, synthetic_run
from sercache.devices import resolve_device, usable_cores
from sercache.events import QUIET, Context, Event
from sercache.heads import deepser
from sercache.heads.protocol import Head, HeadInput, HeadOutput
from sercache.heads.registry import parameter_count
from sercache.heads.sequences import Padded, arrange
from sercache.recipe import TrainingRecipe
from sercache.training.batches import FrameSource
from sercache.training.cached_frames import CachedFrames
from sercache.training.data import TrainingData, split_ids
from sercache.training.ensemble import lay_out
from sercache.training.epoch import precision_of
from sercache.training.loop import Training
from sercache.training.objective import Targets, objective_of
from sercache.training.rows import epoch_batches

_STOP_ROWS = 8


@dataclass(frozen=True, slots=True)
class TrainingSpeed:
    """One way to train.

    Attributes:
        way: what it is called.
        precision: of its products.
        first_seconds: of the first epoch, in which a compiler compiles.
        seconds: of an epoch, the median of the others.
        steps_per_second: batches.
        padding: share of the computed frames that are padding.
    """

    way: str
    precision: str
    first_seconds: float
    seconds: float
    steps_per_second: float
    padding: float


@dataclass(frozen=True, slots=True)
class TrainingBenchmark:
    """One head on one device.

    Attributes:
        head: its name.
        parameters: how many.
        device: where it ran.
        threads: of torch.
        utterances: in an epoch.
        batch_size: rows per batch.
        frames: where they lie: ``resident`` on the device, ``streamed`` from the cache, or which is which.
        limit: forward, backward and optimiser on batches in memory, as sercache computes them.
        ways: sercache's training loop first, the plain way last.
    """

    head: str
    parameters: int
    device: str
    threads: int
    utterances: int
    batch_size: int
    frames: str
    limit: TrainingSpeed
    ways: tuple[TrainingSpeed, ...]


def benchmark_training(
    *,
    utterances: int = 320,
    mean_frames: Sequence[int] = (250, 20),
    dims: Sequence[int] = (768, 768),
    width: int = 64,
    feedforward: int = 256,
    batch_size: int = 32,
    device: str = "auto",
    rounds: int = 3,
    compile_head: bool = False,
    resident: bool | None = None,
    context: Context = QUIET,
) -> TrainingBenchmark:
    """Train a DeepSER head for an epoch in several ways, in turns, on random features.

    Args:
        utterances: in an epoch.
        mean_frames: of each feature set.
        dims: D of each feature set.
        width: of the head, d.
        feedforward: inner width of its encoder layers.
        batch_size: rows per batch.
        device: ``auto``, or a device as torch names it.
        rounds: epochs of each way.
        compile_head: also ``torch.compile``; its first epoch, which compiles, is a way of its own.
        resident: whether frames are kept on the device; None as training does: on a GPU those that fit.
        context: receives events, and can stop the work.

    Raises:
        Interrupted: ``context.should_stop`` returned True while features were written.
    """
    torch_device = torch.device(resolve_device(device))
    member = {
        "name": "head",
        "features": [f"set{number}" for number in range(len(dims))],
        "options": {"width": width, "feedforward": feedforward},
    }
    with TemporaryDirectory(prefix="sercache-bench-") as folder:
        recipe = synthetic_run(
            Path(folder),
            utterances=utterances,
            mean_frames=mean_frames,
            dims=dims,
            members=[member],
            folds=2,
            training={
                "batch_size": batch_size,
                "accumulate": 1,
                "stage1": {"epochs": 1},
                "stage2": {"epochs": 0},
            },
            context=context,
        )
        bench = _Bench(lay_out(recipe), recipe.training, torch_device, Path(folder), resident)
        ways = bench.ways(width, feedforward, compile_head)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        task = "training"
        total = rounds * len(ways)
        for number in range(total):
            name = list(ways)[number % len(ways)]
            if context.should_stop():
                break
            context.listener(Event("advance", task, number, total, values={"way": name}))
            seconds[name].append(_timed(ways[name].epoch, torch_device))
        context.listener(Event("finish", task, total, total))
    speeds = []
    for name, way in ways.items():
        first, *others = seconds[name] or [float("nan")]
        median = statistics.median(others or [first])
        steps = -(-utterances // batch_size)
        speeds.append(TrainingSpeed(name, way.precision, first, median, steps / median, way.padding))
    head = bench.fresh_head()
    return TrainingBenchmark(
        "deepser",
        parameter_count(head),
        str(torch_device),
        torch.get_num_threads(),
        utterances,
        batch_size,
        where_frames_are(bench.source),
        speeds[0],
        tuple(speeds[1:]),
    )


def where_frames_are(source: FrameSource) -> str:
    """Return ``resident``, ``streamed``, or which feature sets are resident where it is not all or none."""
    if len(set(source.is_on_device)) == 1:
        return "resident" if source.is_on_device[0] else "streamed"
    pairs = zip(source.feature_sets, source.is_on_device, strict=True)
    kept = [feature_set.spec.encoder for feature_set, is_kept in pairs if is_kept]
    return f"resident: {', '.join(kept)}; streamed: the rest"


@dataclass(frozen=True, slots=True)
class _Way:
    precision: str
    padding: float
    epoch: Callable[[], None]


class _Bench:
    """One head's rows and batches, and an epoch over them in each way."""

    def __init__(
        self,
        data: TrainingData,
        settings: TrainingRecipe,
        device: torch.device,
        folder: Path,
        resident: bool | None,
    ) -> None:
        self.data = data
        self.settings = settings
        self.device = device
        self.folder = folder
        self.member = data.recipe.members[0]
        sets = list(data.feature_sets.values())
        self.source = FrameSource(sets, sorted(data.corpus.ids), device, resident)
        self.ids = split_ids(data.corpus, "train")
        self.targets = data.rows.targets(device)
        self.objective = objective_of(settings)
        self.precision = precision_of(settings, device)
        self.batches = epoch_batches(
            self.source.lengths, self.source.ranks(0), settings.batch_size, np.random.default_rng(0)
        )
        self.trained = 0
        self._inputs: list[list[HeadInput]] = []

    def fresh_head(self) -> Head:
        return self.data.build_head(self.member, 0).to(self.device)

    def ways(self, width: int, feedforward: int, compile_head: bool) -> dict[str, _Way]:
        packed = self.device.type == "cpu"
        packed_padding = 0.0 if packed else self._padding(self.batches)
        ways = {
            "the arithmetic alone": _Way(self.precision, packed_padding, self._in_memory(self.precision)),
            "sercache": _Way(self.precision, packed_padding, self._sercache),
        }
        if self.precision == "bfloat16":
            ways["the arithmetic alone, float32"] = _Way(
                "float32", packed_padding, self._in_memory("float32")
            )
        if packed:
            ways["... padded and masked"] = _Way(
                self.precision, self._padding(self.batches), self._in_memory(self.precision, layout=Padded)
            )
        if compile_head:
            ways["... padded, torch.compile"] = _Way(
                self.precision,
                self._padding(self.batches),
                self._in_memory(self.precision, layout=Padded, compile_head=True),
            )
        shuffled = np.random.default_rng(1).permutation(len(self.ids))
        size = self.settings.batch_size
        random_batches = [shuffled[first : first + size] for first in range(0, len(shuffled), size)]
        ways["the plain way"] = _Way(
            "float32", self._padding(random_batches), self._plain(width, feedforward)
        )
        return ways

    def _padding(self, batches: Sequence[Any]) -> float:
        """Return the share of padding where every feature set is padded to the longest of a batch."""
        counts = self.source.frame_counts
        computed = sum(len(rows) * int(counts[rows].max(axis=0).sum()) for rows in batches)
        return 1 - int(counts.sum()) / computed

    def _in_memory(
        self, precision: str, layout: Callable[..., Any] = arrange, compile_head: bool = False
    ) -> Callable[[], None]:
        head = self.fresh_head().train()
        forward: Callable[[Sequence[HeadInput]], HeadOutput] = head
        if compile_head:
            forward = torch.compile(head, dynamic=True)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-5, fused=True)

        def epoch() -> None:
            deepser.arrange = layout  # type: ignore[attr-defined]
            try:
                for rows, inputs in zip(self.batches, self._held(), strict=True):
                    optimizer.zero_grad(set_to_none=True)
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                        output = forward(inputs)
                    self.objective(output, self._targets(rows)).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
            finally:
                deepser.arrange = arrange  # type: ignore[attr-defined]

        return epoch

    def _held(self) -> list[list[HeadInput]]:
        self._inputs = self._inputs or list(self.source.batches(self.batches))
        return self._inputs

    def _targets(self, rows: Any) -> Targets:
        indices = torch.as_tensor(rows, device=self.device)
        return Targets(self.targets.soft[indices], self.targets.attributes[indices])

    def _sercache(self) -> None:
        """An epoch of the real loop: gathering, MixUp, clipping, judging a few rows, and saving."""
        stop = self.ids[:_STOP_ROWS]
        self.trained += 1
        head = self.data.build_head(self.member, 0)
        training = Training(
            CachedFrames(head, self.source.select(self.ids), self.source.select(stop), self.settings),
            self.data.rows.select(self.ids),
            self.data.rows.select(stop),
            self.settings,
            seed=0,
            stream_seed=0,
            state_path=self.folder / f"state-{self.trained}",
        )
        training.run()

    def _plain(self, width: int, feedforward: int) -> Callable[[], None]:
        files_folder = self.folder / "npy"
        files_folder.mkdir()
        files = NpyFiles(files_folder, self.source.feature_sets, self.ids)
        dims = [feature_set.dim for feature_set in self.source.feature_sets]
        model = PlainDeepSER(dims, len(CLASSES), len(ATTRIBUTES), width, feedforward).to(self.device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        workers = min(2, usable_cores())

        def epoch() -> None:
            for rows, inputs in plain_batches(files, self.settings.batch_size, workers, 0):
                moved = [
                    HeadInput(features.frames.to(self.device), features.mask.to(self.device))
                    for features in inputs
                ]
                targets = Targets(self.targets.soft[rows], self.targets.attributes[rows])
                optimizer.zero_grad()
                self.objective(HeadOutput(*model(moved)), targets).backward()  # type: ignore[no-untyped-call]
                optimizer.step()

        return epoch


def _timed(epoch: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    epoch()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
