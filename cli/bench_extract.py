"""``sercache bench extract``."""

from typing import TYPE_CHECKING, Annotated

import typer

from .common_options import Json

if TYPE_CHECKING:
    from sercache.benchmarks.extraction import ExtractionBenchmark


def bench_extract(
    encoder: Annotated[
        list[str],
        typer.Option(help="A hub name, a folder, or random:wavlm-large (real size, no weights); repeatable."),
    ],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    clips: Annotated[int, typer.Option(min=8, help="How many clips are made for it.")] = 60,
    mean_seconds: Annotated[float, typer.Option(min=1.0, help="Their mean length.")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often each way is timed, in turns.")] = 3,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also print what the forward pass spends its time on.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Time the extraction against the bare forward pass, and against transformers as it comes.

    Example: sercache bench extract --encoder random:wavlm-base

    Example: sercache bench extract --device cuda --clips 2000 --encoder random:wavlm-large --encoder
    random:whisper-large-v3 --encoder random:roberta-large --profile
    """
    from sercache.benchmarks.extraction import benchmark_extraction, profile_extraction

    from .console import console, print_json, progress_listener

    results = []
    with progress_listener() as listener:
        for name in encoder:
            results.append(
                benchmark_extraction(
                    name,
                    device=device,
                    precision=precision,
                    clips=clips,
                    mean_seconds=mean_seconds,
                    rounds=rounds,
                    listener=listener,
                )
            )
    if as_json:
        print_json(results)
        return
    _show(results)
    if profile:
        for name in encoder:
            console.print(f"\n{name}", style="bold", highlight=False, markup=False)
            console.print(
                profile_extraction(name, device=device), highlight=False, markup=False, soft_wrap=True
            )


def _show(results: "list[ExtractionBenchmark]") -> None:
    from rich.table import Table

    from .console import console

    table = Table(box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    for result in results:
        table.add_column(result.encoder, justify="right", overflow="fold")
    rows = {
        "device, precision": [f"{one.device}, {one.precision}" for one in results],
        "audio hours per hour": [f"{one.hours * 3600 / one.whole_seconds:,.1f}" for one in results],
        "share of the bare forward pass": [f"{one.share_of_bare:.2f}" for one in results],
        "times as fast as transformers, plain": [f"{one.times_plain:.2f}" for one in results],
        "error against that": [f"{one.precision_error:.1e}" for one in results],
        "error by batching": [f"{one.batch_error:.1e}" for one in results],
        "TFLOP/s": [f"{one.flops / one.whole_seconds / 1e12:.3g}" for one in results],
        "share of a matrix product's": [f"{one.utilisation:.2f}" for one in results],
        "batch (samples or tokens)": [f"{one.batch_limit:,.0f}" or "1 clip" for one in results],
        "seconds: whole, bare, plain": [
            f"{one.whole_seconds:.1f}, {one.bare_seconds:.1f}, {one.plain_seconds:.1f}" for one in results
        ],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    console.print(table)
