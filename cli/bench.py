"""``sercache bench``: of the cache here, of the extraction in a file of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sercache.events import Context

from .bench_engine import bench_engine
from .bench_extract import bench_extract
from .bench_fit import bench_fit
from .bench_stack import bench_stack, bench_stack_simulation
from .bench_train import bench_train
from .common_options import Json

if TYPE_CHECKING:
    from sercache.benchmarks.cache_opening import Opening
    from sercache.benchmarks.cache_reading import Reading

app = typer.Typer(help="Measure what sercache costs on this machine.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure what sercache costs on this machine."""


app.command("extract")(bench_extract)
app.command("engine")(bench_engine)
app.command("fit")(bench_fit)
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
    import tempfile

    from sercache.benchmarks.cache_opening import measure_opening
    from sercache.benchmarks.cache_reading import measure_reading
    from sercache.benchmarks.synthetic import synthetic_feature_set
    from sercache.events import stop_flag

    from .cache_folders import open_feature_sets
    from .console import console, print_json, progress_listener

    measured = []
    with (
        tempfile.TemporaryDirectory(prefix="sercache-bench-") as folder,
        stop_flag() as should_stop,
        progress_listener() as listener,
    ):
        if path is None:
            path = Path(folder)
            synthetic_feature_set(
                path,
                utterances,
                mean_frames,
                dim,
                shards=shards,
                context=Context(listener=listener, should_stop=should_stop),
            )
        for feature_set in open_feature_sets(path):
            opening = measure_opening(feature_set.folder)
            reading = None
            if not open_only:
                reading = measure_reading(
                    feature_set,
                    limit_bytes=limit_mb * 1_000_000,
                    rounds=rounds,
                    context=Context(listener=listener, should_stop=should_stop),
                )
            measured.append({"folder": feature_set.folder, "opening": opening, "reading": reading})
            if as_json:
                continue
            console.print(feature_set.folder.name, style="bold", highlight=False, markup=False)
            _show_opening(opening)
            if reading is not None:
                _show_reading(reading)
    if as_json:
        print_json(measured)


def _show_opening(opening: "Opening") -> None:
    from .console import console

    memory = ""
    if opening.private_bytes is not None:
        memory = f", {opening.private_bytes / 1e6:.1f} MB of memory of its own"
    peak = ""
    if opening.peak_bytes is not None:
        peak = f"; {opening.peak_bytes / 1e6:.0f} MB of memory after all this"
    console.print(
        f"opened: {opening.utterances:,} utterances in {opening.shards:,} shards, "
        f"{opening.open_seconds * 1e3:.1f} ms to the first frame{memory}\n"
        f"looked up: {opening.lookup_seconds * 1e6:.1f} us an id, "
        f"{opening.batch_lookup_seconds * 1e6:.1f} us among many; all ids: {opening.list_seconds:.2f} s\n"
        f"read: {opening.batch_seconds * 1e3:.2f} ms a batch of 32 at random; verified: "
        f"{opening.verify_seconds * 1e3:.1f} ms a shard{peak}",
        highlight=False,
    )


def _show_reading(reading: "Reading") -> None:
    from rich.table import Table

    from .console import console

    console.print(
        f"batches of {reading.batch_size} from {reading.utterances:,} utterances, "
        f"{reading.payload_bytes / 1e6:,.0f} MB",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("in memory already")
    table.add_column("MB/s", justify="right")
    table.add_column("share of plain memory", justify="right")
    for warm in reading.warm:
        table.add_row(warm.way, f"{warm.bytes_per_second / 1e6:,.0f}", f"{warm.share_of_memory:.2f}")
    console.print(table)
    if not reading.cold:
        console.print("from disk: not measured, the files cannot be driven out of memory here")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("from disk")
    table.add_column("MB/s", justify="right")
    table.add_column("bytes read per byte of frames", justify="right")
    for cold in reading.cold:
        table.add_row(cold.way, f"{cold.bytes_per_second / 1e6:,.0f}", f"{cold.read_per_byte:.2f}")
    console.print(table)
