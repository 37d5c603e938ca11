"""``sercache doctor``."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .common_options import Json

if TYPE_CHECKING:
    from sercache.devices import Finding


def doctor(as_json: Json = False) -> None:
    """Print versions, devices, free disk, and what is missing.

    Exits with code 2 if something is missing that sercache cannot work without.

    Example: sercache doctor
    """
    from sercache.devices import diagnose

    from .console import print_json

    findings = diagnose(Path())
    if as_json:
        print_json(findings)
    else:
        _show(findings)
    if any(finding.is_blocking for finding in findings):
        raise typer.Exit(2)


def _show(findings: "list[Finding]") -> None:
    from rich.table import Table

    from .console import console

    table = Table(box=None, pad_edge=False)
    for heading in ("", "what", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    topic = ""
    for finding in findings:
        first = finding.topic if finding.topic != topic else ""
        topic = finding.topic
        style = "red" if finding.is_blocking else "yellow" if finding.advice else ""
        table.add_row(f"[bold]{first}", finding.name, finding.value, finding.advice, style=style)
    console.print(table)
    blocking = sum(finding.is_blocking for finding in findings)
    console.print(f"\n{blocking} things to mend." if blocking else "\nNothing is missing.")
