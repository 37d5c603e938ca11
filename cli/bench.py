"""``sercache bench``: of caches, engines and closed-form fits here, of models and stackers elsewhere."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .bench_models import bench_extract, bench_train
from .bench_stack import bench_stack, bench_stack_simulation
from .console import command_context
from .options import Json, split_names
from .rendering import numbers, print_heading, print_json, print_table, print_text

if TYPE_CHECKING:
    from sercache.benchmarks.cache_opening import Opening
    from sercache.benchmarks.cache_reading import Reading

app = typer.Typer(help="Measure what sercache costs on this machine.", no_args_is_help=True)

_FIT_GOALS = ("2 s", "300 s and 3 GB")
"""For fits of few and of many rows, on two idle cores."""
_FEW_ROWS = 1500
_ENGINE_GOAL = 1.1


@app.callback()
def bench() -> None:
    """Measure what sercache costs on this machine."""


app.command("extract")(bench_extract)
app.command("train")(bench_train)
app.command("stack")(bench_stack)
app.command("stack-simulation")(bench_stack_simulation)


@app.command("cache")
def measure_cache(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER", help="Of a feature set, or of a cache; random features where none is given."
        ),
    ] = None,
    utterances: Annotated[int, typer.Option(min=1, help="Of random features: how many.")] = 2000,
    mean_frames: Annotated[int, typer.Option(min=1, help="Of random features: frames of each.")] = 250,
    dim: Annotated[int, typer.Option(min=1, help="Of random features: width of a frame.")] = 768,
    shards: Annotated[int, typer.Option(min=1, help="Of random features: in at least so many files.")] = 1,
    limit_mb: Annotated[int, typer.Option(min=1, help="Read no more than this; a sample of more.")] = 1024,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is read.")] = 7,
    open_only: Annotated[
        bool,
        typer.Option("--open-only", help="Only open it, and look and read here and there."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Open a feature set and fill training batches from it, against other ways to keep the same frames.

    Example: sercache bench cache cache/logmel-0123456789ab

    Example: sercache bench cache --utterances 1000000 --shards 1000 --mean-frames 2 --dim 4 --open-only
    """
    from sercache.benchmarks.cache_opening import measure_opening
    from sercache.benchmarks.cache_reading import measure_reading
    from sercache.benchmarks.synthetic import synthetic_feature_set
    from sercache.cache.store import open_feature_sets

    measured = []
    with tempfile.TemporaryDirectory(prefix="sercache-bench-") as folder, command_context() as context:
        if path is None:
            path = Path(folder)
            synthetic_feature_set(path, utterances, mean_frames, dim, shards=shards, context=context)
        for feature_set in open_feature_sets(path):
            opening = measure_opening(feature_set.folder)
            reading = None
            if not open_only:
                reading = measure_reading(
                    feature_set, limit_bytes=limit_mb * 1_000_000, rounds=rounds, context=context
                )
            measured.append({"folder": feature_set.folder, "opening": opening, "reading": reading})
            if as_json:
                continue
            print_heading(feature_set.folder.name)
            _print_opening(opening)
            if reading is not None:
                _print_reading(reading)
    if as_json:
        print_json(measured)


def _print_opening(opening: "Opening") -> None:
    memory = ""
    if opening.private_bytes is not None:
        memory = f", {opening.private_bytes / 1e6:.1f} MB of memory of its own"
    peak = ""
    if opening.peak_bytes is not None:
        peak = f"; {opening.peak_bytes / 1e6:.0f} MB of memory after all this"
    print_text(
        f"opened: {opening.utterances:,} utterances in {opening.shards:,} shards, "
        f"{opening.open_seconds * 1e3:.1f} ms to the first frame{memory}\n"
        f"looked up: {opening.lookup_seconds * 1e6:.1f} us an id, "
        f"{opening.batch_lookup_seconds * 1e6:.1f} us among many; all ids: {opening.list_seconds:.2f} s\n"
        f"read: {opening.batch_seconds * 1e3:.2f} ms a batch of 32 at random; verified: "
        f"{opening.verify_seconds * 1e3:.1f} ms a shard{peak}"
    )


def _print_reading(reading: "Reading") -> None:
    print_text(
        f"batches of {reading.batch_size} from {reading.utterances:,} utterances, "
        f"{reading.payload_bytes / 1e6:,.0f} MB"
    )
    rows = [
        (warm.way, f"{warm.bytes_per_second / 1e6:,.0f}", f"{warm.share_of_memory:.2f}")
        for warm in reading.warm
    ]
    print_table(["in memory already", *numbers("MB/s", "share of plain memory")], rows)
    if not reading.cold:
        print_text("from disk: not measured, the files cannot be driven out of memory here")
        return
    rows = [
        (cold.way, f"{cold.bytes_per_second / 1e6:,.0f}", f"{cold.read_per_byte:.2f}")
        for cold in reading.cold
    ]
    print_table(["from disk", *numbers("MB/s", "bytes read per byte of frames")], rows)


@app.command("engine")
def bench_engine(
    engines: Annotated[str, typer.Option(metavar="A,B", help="The engines to compare.")] = "processes,ray",
    tasks: Annotated[int, typer.Option(min=1, help="How many.")] = 6,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long each takes.")] = 10.0,
    processes: Annotated[int, typer.Option(min=1, help="Side by side.")] = 2,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; without, Ray is started here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run tasks of a known length on several engines, and measure what these add.

    Example: sercache bench engine --tasks 6 --seconds 10
    """
    from sercache.benchmarks.engines import measure_engines

    with command_context() as context:
        timings = measure_engines(
            split_names(engines),
            tasks=tasks,
            task_seconds=seconds,
            workers=processes,
            address=address,
            context=context,
        )
    if as_json:
        print_json(timings)
        return
    rows = [
        (timing.name, f"{timing.start_seconds:.1f}", f"{timing.seconds:.1f}", f"{timing.ratio:.3f}")
        for timing in timings
    ]
    headings = numbers("start s", "tasks s", "to the work alone")
    title = f"{tasks} tasks of {seconds:g} s, {processes} processes"
    print_table(["engine", *headings], rows, title=title)
    for timing in timings[1:]:
        print_text(
            f"{timing.name} takes {timing.seconds / timings[0].seconds:.3f} times as long as "
            f"{timings[0].name}; the goal is {_ENGINE_GOAL:g} for tasks of 10 s."
        )


@app.command("fit")
def bench_fit(
    rows: Annotated[int, typer.Option(min=100, help="Training clips.")] = 1000,
    numbers_of_clip: Annotated[
        int, typer.Option("--numbers", min=14, help="Pooled numbers of each clip.")
    ] = 14_000,
    heads: Annotated[str, typer.Option(metavar="A,B", help="Closed-form heads.")] = "ridge,logistic",
    rival: Annotated[
        bool, typer.Option("--rival/--no-rival", help="Also scikit-learn's grid search; of few rows only.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Fit closed-form heads on made-up pooled statistics, as one fold of a run is fitted.

    Example: sercache bench fit --rows 1000 --numbers 14000

    Example: sercache bench fit --rows 100000 --numbers 7000 --heads ridge --no-rival
    """
    from sercache.benchmarks.closed_form import measure_fits

    with command_context() as context:
        timings = measure_fits(
            rows,
            numbers_of_clip,
            heads=tuple(split_names(heads)),
            rival=rival and rows <= 2 * _FEW_ROWS,
            context=context,
        )
    if as_json:
        print_json(timings)
        return
    rows_of_table = [
        (
            timing.name,
            f"{timing.seconds:.2f}",
            "" if timing.macro_f1 != timing.macro_f1 else f"{timing.macro_f1:.3f}",
            f"{timing.peak_bytes / 1e9:.2f}",
        )
        for timing in timings
    ]
    headings = numbers("seconds", "macro-F1, speakers left out", "peak memory GB")
    print_table(
        ["fit", *headings], rows_of_table, title=f"{rows:,} rows of {numbers_of_clip:,} pooled numbers"
    )
    goal = _FIT_GOALS[rows > _FEW_ROWS]
    print_text(f"The goal for a fit of this size is {goal} on two idle cores.")
