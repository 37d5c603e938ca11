"""``sercache bench extract`` and ``sercache bench train``."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from .console import command_context, progress_listener
from .options import Device, Json, refuse_options
from .rendering import numbers, print_heading, print_json, print_line, print_table, print_text

if TYPE_CHECKING:
    from sercache.benchmarks.ensemble_training import EnsembleBenchmark
    from sercache.benchmarks.extraction import ExtractionBenchmark
    from sercache.benchmarks.training import TrainingBenchmark

_RESIDENT = {"auto": None, "resident": True, "streamed": False}


def bench_extract(
    encoder: Annotated[
        list[str],
        typer.Option(help="A hub name, a folder, or random:wavlm-large (real size, no weights); repeatable."),
    ],
    device: Device = "auto",
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
    _print_extraction(results)
    if profile:
        for name in encoder:
            print_heading(f"\n{name}")
            print_line(profile_extraction(name, device=device))


def _print_extraction(results: "list[ExtractionBenchmark]") -> None:
    figures: dict[str, Callable[[ExtractionBenchmark], str]] = {
        "device, precision": lambda result: f"{result.device}, {result.precision}",
        "audio hours per hour": lambda result: f"{result.hours * 3600 / result.whole_seconds:,.1f}",
        "share of the bare forward pass": lambda result: f"{result.share_of_bare:.2f}",
        "times as fast as transformers, plain": lambda result: f"{result.times_plain:.2f}",
        "error against that": lambda result: f"{result.precision_error:.1e}",
        "error by batching": lambda result: f"{result.batch_error:.1e}",
        "TFLOP/s": lambda result: f"{result.flops / result.whole_seconds / 1e12:.3g}",
        "share of a matrix product's": lambda result: f"{result.utilisation:.2f}",
        "batch (samples or tokens)": lambda result: f"{result.batch_limit:,.0f}",
        "seconds: whole, bare, plain": lambda result: (
            f"{result.whole_seconds:.1f}, {result.bare_seconds:.1f}, {result.plain_seconds:.1f}"
        ),
    }
    rows = [(name, *map(figure, results)) for name, figure in figures.items()]
    print_table(["", *numbers(*(result.encoder for result in results))], rows)


def bench_train(
    typer_context: typer.Context,
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
    device: Device = "auto",
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

    try:
        frame_counts, sizes = ([int(number) for number in text.split(",")] for text in (mean_frames, dims))
    except ValueError:
        raise SercacheError("--mean-frames and --dims are whole numbers, such as 250,20") from None
    if len(frame_counts) != len(sizes) or min(frame_counts + sizes) < 1:
        raise SercacheError("--mean-frames and --dims need one number above 0 for each feature set")
    if frames not in (None, *_RESIDENT):
        raise SercacheError(f"--frames is {', '.join(_RESIDENT)}, not '{frames}'")
    if ensemble:
        refuse_options(typer_context, ["rounds", "compile_head", "frames"], "does not go with --ensemble")
    else:
        refuse_options(typer_context, ["members", "folds", "epochs"], "goes with --ensemble")
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
        _print_ensemble(compared)
    else:
        _print_training(measured)


def _print_training(measured: "TrainingBenchmark") -> None:
    print_text(
        f"{measured.head}, {measured.parameters:,} weights, {measured.device}, {measured.threads} threads, "
        f"{measured.utterances} utterances, batches of {measured.batch_size}, frames {measured.frames}"
    )
    limit = measured.limit.seconds
    rows = [
        (
            speed.way,
            speed.precision,
            f"{speed.padding:.1%}",
            f"{speed.first_seconds:.2f}",
            f"{speed.seconds:.2f}",
            f"{speed.steps_per_second:.2f}",
            f"{limit / speed.seconds:.2f}",
        )
        for speed in (measured.limit, *measured.ways)
    ]
    headings = numbers("padding", "first, s", "then, s an epoch", "steps/s", "share of the limit")
    print_table(["one epoch", "precision", *headings], rows)


def _print_ensemble(compared: "EnsembleBenchmark") -> None:
    ratio = compared.one_by_one_seconds / compared.planned_seconds
    trainings = compared.members * compared.folds * compared.epochs
    print_text(
        f"{compared.members} members x {compared.folds} folds x {compared.epochs} epochs, "
        f"frames {compared.frames}\n"
        f"as planned ({compared.plan}): {compared.planned_seconds:.1f} s, "
        f"{compared.planned_seconds / trainings:.3f} s an epoch of one head\n"
        f"one by one, all threads: {compared.one_by_one_seconds:.1f} s, "
        f"{compared.one_by_one_seconds / trainings:.3f} s an epoch, {ratio:.2f} times as long"
    )
