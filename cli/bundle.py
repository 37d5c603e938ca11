"""``sercache bundle``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import command_context
from .options import Json
from .rendering import plural, print_json, print_line, print_next, print_table

if TYPE_CHECKING:
    from sercache.bundle.export import BundleReport


def bundle(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, finished by sercache stack.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle's folder.")],
    stacker: Annotated[
        str | None, typer.Option(help="Which stacker goes in; else the one that the comparison recommends.")
    ] = None,
    distilled: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A small head of sercache distill goes in instead of a stacker."),
    ] = None,
    include_encoders: Annotated[
        bool | None,
        typer.Option(
            "--include-encoders/--no-encoders",
            help="Whether the encoders' weights go in; else those that only lie in a local folder.",
        ),
    ] = None,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit", help="One model per member that learns from all folds, instead of its fold models."
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="Of the refit: auto, cpu, cuda, ...")] = "auto",
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle that is there.")] = False,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to this repository of the hub, too.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: for your eyes only.")] = False,
    as_json: Json = False,
) -> None:
    """Put what predicts a new recording into one folder: heads, stacker, calibration, encoders, model card.

    Members that the stacker gives no weight stay out. Every file has its digest in bundle.json.

    Example: sercache bundle runs/demo -o demo-bundle

    Example: sercache bundle runs/demo -o small --distilled distilled-speech --refit
    """
    from sercache.bundle.export import export_bundle
    from sercache.bundle.hub import push_bundle
    from sercache.run import Run

    with command_context() as context:
        report = export_bundle(
            Run(run),
            output,
            stacker=stacker,
            student=distilled,
            include_encoders=include_encoders,
            refit=refit,
            device=device,
            replace=replace,
            context=context,
        )
        address = push_bundle(report.folder, push, private=private) if push is not None else None
    if as_json:
        print_json({"report": report, "address": address})
        return
    _print_report(report, output)
    if address is not None:
        print_line(f"Uploaded to {address}")


def _print_report(report: "BundleReport", output: Path) -> None:
    description = report.description
    rows = []
    for name, feature in description.features.items():
        licence = feature.card.license or ("Apache-2.0" if feature.origin == "embedded" else "not stated")
        where = {
            "embedded": "part of sercache",
            "hub": "loaded from the hub",
            "included": "in the bundle",
            "local": "to be named with --encoder",
            "random": "random",
        }[feature.origin]
        rows.append((name, feature.recipe.encoder, where, licence))
    print_table(["feature set", "encoder", "its weights", "licence"], rows)
    unread = len(description.unread_members)
    without = f" ({unread} more have no weight and stay out)" if unread else ""
    print_line(
        f"{output}: stacker '{description.stacker}' over {plural(len(description.members), 'member')}"
        f"{without}, {report.size_bytes / 1e6:,.1f} MB"
    )
    print_next(f"sercache predict {output} recording.wav")
