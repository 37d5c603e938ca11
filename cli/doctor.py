"""``sercache doctor``."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .options import Json
from .rendering import Column, Row, plural, print_json, print_line, print_table

if TYPE_CHECKING:
    from sercache.devices import Finding


def doctor(as_json: Json = False) -> None:
    """Print versions, devices, free disk, and what is missing.

    Exits with code 2 if something is missing that sercache cannot work without.

    Example: sercache doctor
    """
    from sercache.devices import diagnose

    findings = diagnose(Path())
    if as_json:
        print_json(findings)
    else:
        _print_findings(findings)
    if any(finding.is_blocking for finding in findings):
        raise typer.Exit(2)


def _print_findings(findings: "list[Finding]") -> None:
    rows = []
    topic = ""
    for finding in findings:
        first = finding.topic if finding.topic != topic else ""
        topic = finding.topic
        style = "red" if finding.is_blocking else "yellow" if finding.advice else ""
        rows.append(Row((first, finding.name, finding.value, finding.advice), style))
    print_table([Column(style="bold"), "what", "found", "what to do"], rows)
    blocking = sum(finding.is_blocking for finding in findings)
    print_line(f"\n{plural(blocking, 'thing')} to repair." if blocking else "\nNothing is missing.")
