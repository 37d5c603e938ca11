"""``sercache distill``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import command_context, progress_listener
from .live import fold_names, training_context
from .options import Device, Json, Workers, split_names
from .rendering import (
    Column,
    Row,
    interval,
    numbers,
    print_json,
    print_line,
    print_next,
    print_note,
    print_paths,
    print_table,
    print_text,
)

if TYPE_CHECKING:
    from sercache.experiments.distillation.report import DistillationReport


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
    device: Device = "auto",
    workers: Workers = None,
) -> None:
    """Train a small head on one encoder on what the whole ensemble predicts; show what it keeps and costs.

    The student learns from the stacker's cross-fitted posteriors of the training rows, mixed with the votes,
    out of fold as every member does; it lies under members/ in the run. ONNX files are compared with torch
    before they are written; they want the extra onnx.

    Interrupt it as you like: the same command goes on. Other settings want another --name.

    Example: sercache distill runs/demo --features logmel --onnx student.onnx
    """
    from sercache.experiments.distillation.distill import run_distillation
    from sercache.experiments.distillation.export import check_exports, export_encoder_of, export_student
    from sercache.experiments.distillation.report import as_json as report_as_json
    from sercache.experiments.distillation.student import DistillationSettings, prepare_distillation
    from sercache.options import settings_of
    from sercache.run import Run

    settings = DistillationSettings(
        features=tuple(split_names(*features)),
        head=head,
        options=settings_of(option or (), "--option"),
        training=settings_of(training or (), "--training"),
        name=name,
        teacher=teacher,
        votes_share=votes_share,
        seed=seed,
        has_control=control,
    )
    run = Run(run_path)
    check_exports(run, settings.features, head=onnx, encoder=onnx_encoder, training=settings.training)
    with command_context() as context:
        distillation = prepare_distillation(run, settings, context=context)
    with training_context(fold_names(distillation.trained, distillation.data.recipe.folds.count)) as context:
        report = run_distillation(distillation, device=device, workers=workers, context=context)
    if as_json:
        print_json(report_as_json(report))
    else:
        _print_report(report)
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
        print_paths(written)
        print_next(f"sercache stack {run_path}")


def _print_report(report: "DistillationReport") -> None:
    has_classes = "log_loss" in report.contestants[0].scores
    headings = [
        f"{report.primary.name}\n[95 %]",
        "student\nminus it",
        *(["log-loss\n[95 %]"] if has_classes else []),
        "param-\neters",
        "enco-\nders",
        "s per\nminute",
    ]
    differences = {
        "teacher": report.to_teacher,
        "control": report.to_control,
        "baseline": report.to_baseline,
    }
    labels = "votes" if has_classes else "ratings"
    roles = {"control": f"{labels} alone", "best-single": "best single"}
    rows = [
        Row(
            (
                roles.get(model.role, model.role),
                model.name,
                interval(model.scores[report.primary.key]),
                interval(differences.get(model.role), "+"),
                *([interval(model.scores["log_loss"], decimals=2)] if has_classes else []),
                f"{model.parameters:,}",
                str(len(model.encoders)) if model.encoders else "",
                "" if model.seconds_per_minute is None else f"{model.seconds_per_minute:.2g}",
            ),
            "bold" if model.role == "student" else "",
        )
        for model in report.contestants
    ]
    print_table([Column(no_wrap=True), "name", *numbers(*headings)], rows, is_dense=True)
    where = "the test split" if report.judged_on == "held-out" else "folds in turn"
    measured = f"; encoding measured on {report.device}" if report.device else ""
    loss = "Log-loss in nats, against the votes. " if has_classes else ""
    print_note(
        f"{report.judged_rows} rows of {report.speakers} speakers ({where}); {report.lessons} lessons, "
        f"{report.votes_share:.0%} {labels}. Intervals: 95 %, over speakers. {loss}Parameters: of all heads "
        f"and their fold models{measured}."
    )
    print_line()
    for sentence in report.verdict:
        is_warning = report.is_leaky and sentence == report.verdict[0]
        print_text(sentence, "yellow" if is_warning else "")
    print_line()
