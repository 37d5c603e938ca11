"""The report of a run: one HTML file that tells the whole story."""

from collections.abc import Callable
from pathlib import Path

from sercache._version import __version__
from sercache.errors import Interrupted
from sercache.events import QUIET, Context, Event
from sercache.files import write_atomically
from sercache.reporting.blocks import Page, Section, render, shown
from sercache.reporting.calibration_section import calibration_section
from sercache.reporting.classes_section import attributes_section, classes_section
from sercache.reporting.clips_section import AudioLinks, clips_section
from sercache.reporting.comparison_section import comparison_section
from sercache.reporting.facts import Facts, read_facts
from sercache.reporting.map_section import map_section
from sercache.reporting.members_section import members_section
from sercache.reporting.provenance_section import (
    failures_of,
    feature_sets,
    provenance_section,
    troubles_section,
)
from sercache.reporting.sizes_section import sizes_section
from sercache.reporting.subgroups_section import groupings, subgroups_section
from sercache.reporting.summary import cautions, headlines
from sercache.reporting.training_section import training_section
from sercache.run import Run

_TASK = "report"


def write_report(
    run: Run,
    output: Path | None = None,
    *,
    embed_audio: bool = False,
    context: Context = QUIET,
) -> Path:
    """Write the report of a run that ``sercache stack`` has finished; return where it lies.

    Args:
        run: its folder; or a folder where others' predictions were stacked.
        output: where the page goes; None: ``report.html`` in the run.
        embed_audio: put the sound of the listed clips into the page. Without, it plays them where they lie.
        context: receives events, and is asked whether to stop.

    Raises:
        ReportError: nothing was stacked yet, or a library is missing.
        Interrupted: ``context.should_stop`` returned True; nothing was written.
    """
    path = output if output is not None else run.report_path
    page = make_page(run, AudioLinks(path.parent, embed_audio), context)
    write_atomically(path, render(page))
    return path


def make_page(run: Run, links: AudioLinks, context: Context = QUIET) -> Page:
    """Compute everything that the report shows; see :func:`write_report`."""
    context.listener(Event("start", _TASK))
    facts = read_facts(run, context.listener)
    found = groupings(facts)
    sets = feature_sets(facts)
    failures = failures_of(sets)
    makers: tuple[Callable[[], Section | None], ...] = (
        lambda: provenance_section(facts, sets),
        lambda: comparison_section(facts),
        lambda: classes_section(facts) if facts.classes else None,
        lambda: calibration_section(facts),
        lambda: attributes_section(facts),
        lambda: training_section(facts),
        lambda: sizes_section(facts),
        lambda: members_section(facts),
        lambda: subgroups_section(facts, found),
        lambda: map_section(facts, context),
        lambda: clips_section(facts, links),
        lambda: troubles_section(facts, failures),
    )
    sections: list[Section] = []
    for done, make in enumerate(makers, start=1):
        if context.should_stop():
            raise Interrupted("stopped while the report was made; nothing was written")
        section = make()
        if section is not None:
            sections.append(section)
        context.listener(Event("advance", _TASK, done=done, total=len(makers)))
    context.listener(Event("finish", _TASK))
    return Page(
        title=shown(run.root.resolve().name, 60),
        subtitle=_subtitle(facts),
        headlines=headlines(facts, found),
        verdict=tuple(facts.metrics["verdict"][:1]),
        cautions=cautions(facts, found, failures),
        sections=tuple(sections),
        footer=f"Made by sercache {__version__}. One file, no network.",
    )


def _subtitle(facts: Facts) -> str:
    members = len(facts.metrics["members"])
    labels = f"{len(facts.classes)} classes"
    if not facts.classes:
        labels = f"{len(facts.attributes)} attribute{'s' if len(facts.attributes) > 1 else ''}"
    return (
        f"Speech emotion recognition, {labels}: {members} member"
        f"{'s' if members > 1 else ''}, {len(facts.stackers)} meta-levels"
    )
