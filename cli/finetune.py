"""``sercache finetune``."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .live import finetuning_context
from .options import Device, Json
from .rendering import Row, numbers, print_json, print_next, print_note, print_table

if TYPE_CHECKING:
    from sercache.training.finetuning.finetune import FinetuningReport

_EXIT_INTERRUPTED = 130


def finetune(
    run_path: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, made by sercache train-ensemble.")
    ],
    member: Annotated[str, typer.Option("--member", "-m", help="Whose heads to start from.")],
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--features",
            "-f",
            help="A feature set whose encoder is trained; may be given several times. Else all that can be; "
            "the others come from the cache.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the new member; else MEMBER-finetuned.")] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Top layers to train; else 4, with --lora all.")
    ] = None,
    lora: Annotated[
        int | None, typer.Option(min=0, help="Rank of LoRA; 0 trains the layers' own weights.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows of a step, over all devices.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Longest clip to learn from.")] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Less memory for a third more time.",
        ),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any key of the recipe's section finetuning, such as stage1.epochs=2.",
        ),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a member's encoders further, together with its heads, into one more member of the run.

    Every fold starts from that fold's head, as it was trained from the cache, and keeps its best epoch; the
    start counts as one, so it never gets worse on the rows that stop training. Settings come from the
    recipe's section finetuning; options override them. Interrupt it as you like: the same command goes on
    after the last finished step. sercache stack then takes the new member with the others, and tests what
    fine-tuning was worth.

    On several GPUs: torchrun --nproc-per-node 4 -m sercache.cli.main finetune RUN -m NAME

    Example: sercache finetune runs/demo --member fusion --features wavlm --layers 4
    """
    from sercache.errors import Interrupted
    from sercache.options import settings_of
    from sercache.run import Run
    from sercache.training.finetuning.finetune import finetune_member
    from sercache.training.finetuning.processes import Processes

    given = {
        "layers": layers,
        "lora": lora,
        "batch_size": batch_size,
        "max_seconds": max_seconds,
        "gradient_checkpointing": gradient_checkpointing,
        "precision": precision,
    }
    changes = settings_of(settings or (), "--set") | {
        key: value for key, value in given.items() if value is not None
    }
    run = Run(run_path)
    rows = run.recipe().finetuning_with(changes).batch_size
    processes = Processes.join(device)
    try:
        with finetuning_context(rows) as context:
            report = finetune_member(
                run,
                member,
                processes,
                features=features or (),
                name=name,
                changes=changes,
                context=context,
            )
    except Interrupted:
        if processes.is_first:
            raise
        raise typer.Exit(_EXIT_INTERRUPTED) from None  # the first process prints it for all
    finally:
        processes.leave()
    if processes.is_first and as_json:
        print_json(report)
    elif processes.is_first:
        _print_report(report)


def _print_report(report: "FinetuningReport") -> None:
    headings = {"macro_f1": "macro-F1", "uar": "UAR"}
    if math.isnan(report.before.macro_f1):  # attributes alone
        headings = {"mean_ccc": "mean CCC"}
    rows = [
        Row((name, f"{score.rows:,}", *(f"{getattr(score, key):.3f}" for key in headings)))
        for name, score in ((report.derived.of, report.before), (report.derived.name, report.after))
    ]
    gained = (getattr(report.after, key) - getattr(report.before, key) for key in headings)
    rows.append(Row(("difference", "", *(f"{value:+.3f}" for value in gained)), "dim"))
    print_table(["member", *numbers("rows", *headings.values())], rows)
    lora = report.settings.lora
    for trained in report.encoders:
        layers = f"LoRA of rank {lora} in {trained.layers} layers" if lora else f"top {trained.layers} layers"
        print_note(
            f"{trained.feature}: {layers} of {trained.encoder}, {trained.parameters:,} numbers trained"
        )
    if report.cached:
        print_note(f"from the cache, as before: {', '.join(report.cached)}")
    print_note(
        "Out-of-fold: each row was predicted by models that were not trained on its speaker. sercache stack "
        "tests whether the difference is more than chance."
    )
    print_next(f"sercache stack {report.run.root}")
