"""``sercache bench train``."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sercache.benchmarks.ensemble_training import EnsembleBenchmark
    from sercache.benchmarks.training import TrainingBenchmark


def bench_train(
    utterances: Annotated[int, typer.Option(min=16, help="In an epoch.")] = 320,
    mean_frames: Annotated[str, typer.Option(help="Of each feature set.")] = "250,20",
    dims: Annotated[str, typer.Option(help="Features per frame of each feature set.")] = "768,768",
    width: Annotated[int, typer.Option(min=1, help="Of the DeepSER head; the paper's is 512.")] = 64,
    feedforward: Annotated[int, typer.Option(min=1, help="Of its layers; the paper's is 2048.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per batch.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="How often each way is timed, in turns.")] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    compile_head: Annotated[bool, typer.Option("--compile", help="Also time torch.compile.")] = False,
    ensemble: Annotated[
        bool, typer.Option(help="Instead: 6 members x 5 folds as planned, and one by one.")
    ] = False,
    folds: Annotated[int, typer.Option(min=2, help="Of the ensemble.")] = 5,
    epochs: Annotated[int, typer.Option(min=2, help="Of each training of the ensemble.")] = 4,
) -> None:
    """Time training against its arithmetic alone, and against the plain way; or a whole ensemble.

    Example: sercache bench train

    Example: sercache bench train --ensemble
    """
    from sercache.errors import SercacheError
    from sercache.interrupts import stop_flag

    from .console import progress_listener

    try:
        frames, sizes = ([int(each) for each in text.split(",")] for text in (mean_frames, dims))
    except ValueError:
        raise SercacheError("--mean-frames and --dims are whole numbers, such as 250,20") from None
    if len(frames) != len(sizes) or min(frames + sizes) < 1:
        raise SercacheError("--mean-frames and --dims need one number above 0 for each feature set")
    with stop_flag() as should_stop, progress_listener() as listener:
        if ensemble:
            from sercache.benchmarks.ensemble_training import benchmark_ensemble

            if len(sizes) != 2:
                raise SercacheError("the ensemble reads two feature sets: give two numbers each")
            compared = benchmark_ensemble(
                utterances=utterances,
                mean_frames=frames,
                dims=sizes,
                folds=folds,
                epochs=epochs,
                device=device,
                listener=listener,
                should_stop=should_stop,
            )
        else:
            from sercache.benchmarks.training import benchmark_training

            measured = benchmark_training(
                utterances=utterances,
                mean_frames=frames,
                dims=sizes,
                width=width,
                feedforward=feedforward,
                batch_size=batch_size,
                device=device,
                rounds=rounds,
                compile_head=compile_head,
                listener=listener,
                should_stop=should_stop,
            )
    if ensemble:
        _show_ensemble(compared)
    else:
        _show(measured)


def _show(measured: "TrainingBenchmark") -> None:
    from rich.table import Table

    from .console import console

    console.print(
        f"{measured.head}, {measured.parameters:,} weights, {measured.device}, {measured.threads} threads, "
        f"{measured.utterances} utterances, batches of {measured.batch_size}",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    for name in ("one epoch", "precision"):
        table.add_column(name)
    for name in ("padding", "first, s", "then, s", "steps/s", "share of the limit"):
        table.add_column(name, justify="right")
    limit = measured.limit.seconds
    for speed in (measured.limit, *measured.ways):
        table.add_row(
            speed.way,
            speed.precision,
            f"{speed.padding:.1%}",
            f"{speed.first_seconds:.2f}",
            f"{speed.seconds:.2f}",
            f"{speed.steps_per_second:.2f}",
            f"{limit / speed.seconds:.2f}",
        )
    console.print(table)


def _show_ensemble(compared: "EnsembleBenchmark") -> None:
    from .console import console

    ratio = compared.one_by_one_seconds / compared.planned_seconds
    console.print(
        f"{compared.members} members x {compared.folds} folds\n"
        f"as planned ({compared.plan}): {compared.planned_seconds:.1f} s\n"
        f"one by one, all threads: {compared.one_by_one_seconds:.1f} s, {ratio:.2f} times as long",
        highlight=False,
    )
