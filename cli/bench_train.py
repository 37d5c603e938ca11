"""``sercache bench train``."""

from typing import TYPE_CHECKING, Annotated

import typer

from .common_options import Json

if TYPE_CHECKING:
    from sercache.benchmarks.ensemble_training import EnsembleBenchmark
    from sercache.benchmarks.training import TrainingBenchmark

_RESIDENT = {"auto": None, "resident": True, "streamed": False}


def bench_train(
    utterances: Annotated[int, typer.Option(min=16, help="In an epoch.")] = 320,
    mean_frames: Annotated[str, typer.Option(help="Of each feature set.")] = "250,20",
    dims: Annotated[str, typer.Option(help="Features per frame of each feature set.")] = "768,768",
    width: Annotated[
        int | None, typer.Option(min=1, help="Of DeepSER heads: 64, of an ensemble 32; the paper's is 512.")
    ] = None,
    feedforward: Annotated[
        int | None, typer.Option(min=1, help="Of their layers: 256, of an ensemble 64; the paper's is 2048.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per batch.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    frames: Annotated[
        str | None,
        typer.Option(help="resident on the device, streamed from the cache, or auto, as training."),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="How often each way is timed, in turns; else 3.")
    ] = None,
    compile_head: Annotated[bool, typer.Option("--compile", help="Also time torch.compile.")] = False,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Instead: members x folds as planned, and one by one.")
    ] = False,
    members: Annotated[int | None, typer.Option(min=1, help="Of the ensemble; else 6.")] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Of the ensemble; else 5.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=2, help="Of each training of the ensemble; else 4.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time training against its arithmetic alone, and against the plain way; or a whole ensemble.

    Example: sercache bench train --frames streamed

    Example: sercache bench train --ensemble --members 6 --folds 5
    """
    from sercache.errors import SercacheError

    from .console import command_context, print_json

    try:
        frame_counts, sizes = ([int(each) for each in text.split(",")] for text in (mean_frames, dims))
    except ValueError:
        raise SercacheError("--mean-frames and --dims are whole numbers, such as 250,20") from None
    if len(frame_counts) != len(sizes) or min(frame_counts + sizes) < 1:
        raise SercacheError("--mean-frames and --dims need one number above 0 for each feature set")
    if frames not in (None, *_RESIDENT):
        raise SercacheError(f"--frames is {', '.join(_RESIDENT)}, not '{frames}'")
    only_there: dict[str, object] = {"--members": members, "--folds": folds, "--epochs": epochs}
    if ensemble:
        only_there = {"--rounds": rounds, "--compile": compile_head or None, "--frames": frames}
    for option, value in only_there.items():
        if value is not None:
            raise SercacheError(f"{option} {'does not go with' if ensemble else 'wants'} --ensemble")
    with command_context() as context:
        if ensemble:
            from sercache.benchmarks.ensemble_training import benchmark_ensemble

            if len(sizes) != 2:
                raise SercacheError("the ensemble reads two feature sets: give two numbers each")
            compared = benchmark_ensemble(
                utterances=utterances,
                mean_frames=frame_counts,
                dims=sizes,
                members=members or 6,
                width=width or 32,
                feedforward=feedforward or 64,
                batch_size=batch_size,
                folds=folds or 5,
                epochs=epochs or 4,
                device=device,
                context=context,
            )
        else:
            from sercache.benchmarks.training import benchmark_training

            measured = benchmark_training(
                utterances=utterances,
                mean_frames=frame_counts,
                dims=sizes,
                width=width or 64,
                feedforward=feedforward or 256,
                batch_size=batch_size,
                device=device,
                rounds=rounds or 3,
                compile_head=compile_head,
                resident=_RESIDENT[frames or "auto"],
                context=context,
            )
    if as_json:
        print_json(compared if ensemble else measured)
    elif ensemble:
        _show_ensemble(compared)
    else:
        _show(measured)


def _show(measured: "TrainingBenchmark") -> None:
    from rich.table import Table

    from .console import console

    console.print(
        f"{measured.head}, {measured.parameters:,} weights, {measured.device}, {measured.threads} threads, "
        f"{measured.utterances} utterances, batches of {measured.batch_size}, frames {measured.frames}",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    for name in ("one epoch", "precision"):
        table.add_column(name)
    for name in ("padding", "first, s", "then, s an epoch", "steps/s", "share of the limit"):
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
    trainings = compared.members * compared.folds * compared.epochs
    console.print(
        f"{compared.members} members x {compared.folds} folds x {compared.epochs} epochs, "
        f"frames {compared.frames}\n"
        f"as planned ({compared.plan}): {compared.planned_seconds:.1f} s, "
        f"{compared.planned_seconds / trainings:.3f} s an epoch of one head\n"
        f"one by one, all threads: {compared.one_by_one_seconds:.1f} s, "
        f"{compared.one_by_one_seconds / trainings:.3f} s an epoch, {ratio:.2f} times as long",
        highlight=False,
    )
