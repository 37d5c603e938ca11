"""``sercache distill``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sercache.events import Context

from .common_options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from sercache.evaluation.bootstrap import Difference, Estimate
    from sercache.experiments.distillation.report import Contestant, DistillationReport


def distill(
    run_path: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that was stacked.")],
    features: Annotated[
        list[str],
        typer.Option(
            "--features", "-f", metavar="NAME", help="A feature set to read; several: A,B, or come again."
        ),
    ],
    head: Annotated[str, typer.Option(help="Of the student.")] = "attentive-statistics",
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the head; may come again.")
    ] = None,
    training: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="As under training in a recipe: stage1.epochs=20."),
    ] = None,
    votes_share: Annotated[
        float, typer.Option(help="What the votes count in the student's targets; the rest is the teacher's.")
    ] = 0.3,
    teacher: Annotated[
        str | None, typer.Option(metavar="STACKER", help="Whom to learn from; else the recommended one.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the student; else distilled-<features>.")] = None,
    seed: Annotated[int, typer.Option(help="Of the student.")] = 0,
    control: Annotated[
        bool, typer.Option(help="Also train the same head on the votes alone, to compare.")
    ] = True,
    onnx: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Export the student: frames in, posteriors out.")
    ] = None,
    onnx_encoder: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Export the encoder too: waveform, filter banks or tokens in."),
    ] = None,
    as_json: Json = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes that train side by side; else one per core, on a GPU one in all."
        ),
    ] = None,
) -> None:
    """Teach one small head on one encoder what the whole ensemble says, and show what that keeps and costs.

    The student learns from the stacker's cross-fitted posteriors of the training rows, mixed with the votes,
    out of fold as every member does; it lies under members/ in the run. ONNX files are compared with torch
    before they are written; they want the extra onnx.

    Interrupt it as you like: the same command goes on. Other settings want another --name.

    Example: sercache distill runs/demo --features logmel --onnx student.onnx
    """
    from sercache.events import stop_flag
    from sercache.experiments.distillation.distill import run_distillation
    from sercache.experiments.distillation.export import check_exports, export_encoder_of, export_student
    from sercache.experiments.distillation.report import as_json as report_as_json
    from sercache.experiments.distillation.student import DistillationSettings, prepare_distillation
    from sercache.options import settings_of
    from sercache.run import Run

    from .console import console, print_json, progress_listener, say_next
    from .live_training import live_training

    settings = DistillationSettings(
        features=tuple(part.strip() for one in features for part in one.split(",") if part.strip()),
        head=head,
        options=settings_of(option or []),
        training=settings_of(training or []),
        name=name,
        teacher=teacher,
        votes_share=votes_share,
        seed=seed,
        has_control=control,
    )
    run = Run(run_path)
    check_exports(run, settings.features, head=onnx, encoder=onnx_encoder, training=settings.training)
    with stop_flag() as should_stop:
        with progress_listener() as listener:
            distillation = prepare_distillation(
                run, settings, context=Context(listener=listener, should_stop=should_stop)
            )
        folds = range(distillation.data.recipe.folds.count)
        names = [f"{member.name}/fold-{fold}" for member in distillation.trained for fold in folds]
        with live_training(names, should_stop) as listener:
            report = run_distillation(
                distillation,
                device=device,
                workers=workers,
                context=Context(listener=listener, should_stop=should_stop),
            )
    if as_json:
        print_json(report_as_json(report))
    else:
        _show(report)
    path = run.distillation_path(distillation.student.name)
    written = [(path, "this table, for programs"), (path.parent, "the student's fold models")]
    with progress_listener() as listener:
        if onnx is not None:
            export_student(distillation.data, distillation.student, onnx, listener)
            written.append((onnx, "the student, compared with torch"))
        if onnx_encoder is not None:
            export_encoder_of(distillation.data, distillation.student, onnx_encoder, listener)
            written.append((onnx_encoder, "its encoder, compared with torch"))
    if not as_json:
        for place, what in written:
            console.print(f"  {place}  [dim]{what}[/]", highlight=False, soft_wrap=True)
        say_next(f"sercache stack {run_path}")


def _show(report: "DistillationReport") -> None:
    from .console import console

    console.print(_table(report))
    where = "the test split" if report.judged_on == "held-out" else "folds in turn"
    measured = f"; encoding measured on {report.device}" if report.device else ""
    has_classes = _has_classes(report)
    labels = "votes" if has_classes else "ratings"
    loss = "Log-loss in nats, against the votes. " if has_classes else ""
    console.print(
        f"{report.judged_rows} rows of {report.speakers} speakers ({where}); {report.lessons} lessons, "
        f"{report.votes_share:.0%} {labels}. Intervals: 95 %, over speakers. {loss}Parameters: of all heads "
        f"and their fold models{measured}.",
        style="dim",
        highlight=False,
    )
    console.print()
    for sentence in report.verdict:
        is_warning = report.is_leaky and sentence == report.verdict[0]
        console.print(sentence, style="yellow" if is_warning else None, markup=False, highlight=False)
    console.print()


def _table(report: "DistillationReport") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("name", overflow="fold")
    for heading in (
        f"{report.primary.name}\n[95 %]",
        "student\nminus it",
        *(["log-loss\n[95 %]"] if _has_classes(report) else []),
        "param-\neters",
        "enco-\nders",
        "s per\nminute",
    ):
        table.add_column(heading, justify="right")
    differences = {
        "teacher": report.to_teacher,
        "control": report.to_control,
        "baseline": report.to_baseline,
    }
    for one in report.contestants:
        style = "bold" if one.role == "student" else ""
        table.add_row(*_cells(report, one, differences.get(one.role)), style=style)
    return table


def _has_classes(report: "DistillationReport") -> bool:
    return "log_loss" in report.contestants[0].scores


def _cells(report: "DistillationReport", one: "Contestant", difference: "Difference | None") -> list[str]:
    has_classes = _has_classes(report)
    return [
        {"control": "votes alone" if has_classes else "ratings alone", "best-single": "best single"}.get(
            one.role, one.role
        ),
        one.name,
        _with_interval(one.scores[report.primary.key]),
        "" if difference is None else _with_interval(difference, "+"),
        *([_with_interval(one.scores["log_loss"], decimals=2)] if has_classes else []),
        f"{one.parameters:,}",
        str(len(one.encoders)) if one.encoders else "",
        "" if one.seconds_per_minute is None else f"{one.seconds_per_minute:.2g}",
    ]


def _with_interval(scored: "Estimate | Difference", sign: str = "", decimals: int = 3) -> str:
    value = _short(scored.value, sign, decimals)
    if scored.low != scored.low:
        return value
    return f"{value} \\[{_short(scored.low, decimals=decimals)},{_short(scored.high, decimals=decimals)}]"


def _short(value: float, sign: str = "", decimals: int = 3) -> str:
    """Return a number without the zero before its point: .525, -.012, 1.200."""
    text = format(value, f"{sign}.{decimals}f")
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text
