"""``sercache finetune``."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sercache.events import Context

from .common_options import Json

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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    as_json: Json = False,
) -> None:
    """Train a member's encoders further, together with its heads, into one more member of the run.

    Every fold starts from that fold's head, as it was trained from the cache, and keeps its best epoch; the
    start counts as one, so it never gets worse on the rows that stop training. Settings come from the
    recipe's section finetuning; options override them. Interrupt it as you like: the same command goes on
    after the last finished step. sercache stack then takes the new member with the others, and says what
    fine-tuning was worth.

    On several GPUs: torchrun --nproc-per-node 4 -m sercache.cli.main finetune RUN -m NAME

    Example: sercache finetune runs/demo --member fusion --features wavlm --layers 4
    """
    from sercache.errors import Interrupted
    from sercache.events import stop_flag
    from sercache.run import Run
    from sercache.training.finetuning.finetune import finetune_member
    from sercache.training.finetuning.processes import Processes

    from .console import print_json
    from .live_finetuning import live_finetuning

    given = {
        "layers": layers,
        "lora": lora,
        "batch_size": batch_size,
        "max_seconds": max_seconds,
        "gradient_checkpointing": gradient_checkpointing,
        "precision": precision,
    }
    changes = nested_settings(settings or ()) | {
        key: value for key, value in given.items() if value is not None
    }
    run = Run(run_path)
    rows = run.recipe().finetuning_with(changes).batch_size
    processes = Processes.join(device)
    try:
        with stop_flag() as should_stop, live_finetuning(rows) as listener:
            report = finetune_member(
                run,
                member,
                processes,
                features=features or (),
                name=name,
                changes=changes,
                context=Context(listener=listener, should_stop=should_stop),
            )
    except Interrupted:
        if processes.is_first:
            raise
        raise typer.Exit(_EXIT_INTERRUPTED) from None  # the first process says it for all
    finally:
        processes.leave()
    if processes.is_first and as_json:
        print_json(report)
    elif processes.is_first:
        _show(report)


def nested_settings(settings: "list[str] | tuple[()]") -> dict[str, Any]:
    """Return the values of ``--set`` as the recipe has them: ``stage1.epochs=2`` is nested.

    >>> nested_settings(["stage1.epochs=2", "lora=8"])
    {'stage1': {'epochs': 2}, 'lora': 8}

    Raises:
        RecipeError: a setting is not ``KEY=VALUE``.
    """
    import yaml

    from sercache.errors import RecipeError

    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        *sections, last = key.strip().split(".")
        if not equals or not last:
            raise RecipeError(f"--set {setting}: write KEY=VALUE, such as stage1.epochs=2")
        place = changes
        for section in sections:
            place = place.setdefault(section, {})
        try:
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RecipeError(f"--set {setting}: '{value}' is not a value") from None
    return changes


def _show(report: "FinetuningReport") -> None:
    from rich.table import Table

    from .console import console, say_next

    table = Table(box=None, pad_edge=False)
    table.add_column("member", overflow="fold")
    headings = {"macro_f1": "macro-F1", "uar": "UAR"}
    if math.isnan(report.before.macro_f1):  # attributes alone
        headings = {"mean_ccc": "mean CCC"}
    for heading in ("rows", *headings.values()):
        table.add_column(heading, justify="right")
    for name, score in ((report.derived.of, report.before), (report.derived.name, report.after)):
        table.add_row(name, f"{score.rows:,}", *(f"{getattr(score, key):.3f}" for key in headings))
    gained = [getattr(report.after, key) - getattr(report.before, key) for key in headings]
    table.add_row("difference", "", *(f"{value:+.3f}" for value in gained), style="dim")
    console.print(table)
    lora = report.settings.lora
    for one in report.encoders:
        how = f"LoRA of rank {lora} in {one.layers} layers" if lora else f"the top {one.layers} layers"
        console.print(
            f"{one.feature}: {how} of {one.encoder}, {one.parameters:,} numbers trained", style="dim",
            highlight=False, markup=False,
        )  # fmt: skip
    if report.cached:
        console.print(f"from the cache, as before: {', '.join(report.cached)}", style="dim", highlight=False)
    console.print(
        "Out-of-fold: each row was predicted by models that never heard its speaker. Whether the difference "
        "is more than chance, sercache stack says.",
        style="dim",
    )
    say_next(f"sercache stack {report.run.root}")
