"""``sercache report``."""

from pathlib import Path
from typing import Annotated

import typer

from .console import command_context, print_warning
from .rendering import print_paths


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder that sercache stack has finished.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the page goes; else RUN/report.html.")
    ] = None,
    embed_audio: Annotated[
        bool,
        typer.Option(
            "--embed-audio",
            help="Put the listed clips' sound into the page; mind the corpus's licence when you pass it on.",
        ),
    ] = False,
) -> None:
    """Write one HTML file with all results of a run: no network, for a browser, a phone or paper.

    What was run, which meta-level to use and how sure that is, class by class, for whom it works, a map of
    the utterances, and the clips to listen to. Clips play where the recordings lie beside the page.

    sercache stack writes it too. Works for folders of stacked predictions as well.

    Example: sercache report runs/demo
    """
    from sercache.reporting.report import write_report
    from sercache.run import Run

    with command_context() as context:
        path = write_report(
            Run(run),
            output,
            embed_audio=embed_audio,
            context=context,
        )
    print_paths([(path, "open it in a browser")])


def report_after_stacking(run: Path) -> Path | None:
    """Write a run's report; where that cannot be done, print why in a line: the run is finished anyway."""
    from sercache.errors import Interrupted, SercacheError
    from sercache.reporting.report import write_report
    from sercache.run import Run

    try:
        with command_context() as context:
            return write_report(Run(run), context=context)
    except Interrupted:
        raise
    except SercacheError as error:
        print_warning(f"No report was written: {error}")
        return None
