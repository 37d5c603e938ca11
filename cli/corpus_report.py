"""``sercache corpus report``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common_options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from sercache.corpus.report import CorpusReport
    from sercache.corpus.summary import Distribution

_BAR = 30
_MOST_TAKEN_FOR = 2
_LONGEST_EXAMPLES = 44
_STYLES = {"leak": "bold red", "warning": "yellow", "note": "dim"}


def corpus_report(
    manifest: Annotated[Path, typer.Argument(metavar="CORPUS", help="The manifest, .csv or .parquet.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write an HTML page.")] = None,
    as_json: Json = False,
) -> None:
    """Look at a corpus before any model: classes, agreement, durations, speakers, and leaks between splits.

    Agreement is Krippendorff's alpha over the votes. Leaks are speakers, recordings (by their bytes),
    overlapping stretches and texts that splits share; where there are no splits, that speakers share.

    Example: sercache corpus report corpus.csv -o corpus.html
    """
    from sercache.corpus.manifest import read_corpus
    from sercache.corpus.report import as_json as report_as_json
    from sercache.corpus.report import report_corpus

    from .console import command_context, console, print_json, say_next

    corpus = read_corpus(manifest)
    with command_context() as context:
        report = report_corpus(manifest, corpus, context=context)
    if output is not None:
        from sercache.reporting.corpus_page import write_corpus_page

        write_corpus_page(report, output)
    if as_json:
        print_json(report_as_json(report))
        return
    _show(report)
    if output is not None:
        console.print(f"  {output}  [dim]the same in pictures[/]", highlight=False, soft_wrap=True)
    say_next(f"sercache init {report.path}")


def _show(report: "CorpusReport") -> None:
    from .console import console, say

    total = report.summary.total
    hours = f", {total.hours:.2f} h" if total.timed else ""
    if 0 < total.timed < total.utterances:
        hours += f" (of {total.timed:,} whose duration is known)"
    say(
        f"{report.path.name}: {total.utterances:,} utterances, {total.speakers:,} speakers{hours}",
        style="bold",
    )
    console.print()
    has_classes = bool(report.class_names) or not report.attributes
    console.print(_classes(report) if has_classes else _attributes(report))
    if report.agreement is not None and report.agreement.pairable:
        say(
            "Alpha: this class against all others. Again: another rater of the same utterance says so, too.",
            style="dim",
        )
    console.print()
    console.print(_facts(report))
    if report.seconds is not None and len(report.seconds.counts) > 1:
        console.print()
        console.print(_histogram(report.seconds))
    if report.leaks:
        console.print()
        console.print(_leaks(report))
    console.print()
    for finding in report.findings:
        say(f"{finding.gravity}: {finding.message}", style=_STYLES[finding.gravity])
    if not report.findings:
        say("Nothing stands in the way of a training.")


def _classes(report: "CorpusReport") -> "Table":
    from rich.table import Table

    splits = {name: part for name, part in report.summary.splits.items() if len(report.summary.splits) > 1}
    agreement = report.agreement
    rates = {one.name: one for one in agreement.classes} if agreement is not None else {}
    told = agreement is not None and agreement.pairable > 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class")
    for heading in ("utterances", "share", *splits, "speakers", "of votes"):
        table.add_column(heading, justify="right")
    if told:
        for heading in ("alpha", "again"):
            table.add_column(heading, justify="right")
        table.add_column("else taken for")
    total = report.summary.total
    names = {"X": "X (no agreement)", "O": "O (other)"}
    for name, count in total.classes.items():
        is_class = name in report.class_names
        rate = rates.get(name)
        if not (count or is_class or rate):
            continue
        cells = [names.get(name, name), f"{count:,}", f"{count / total.utterances:.1%}"]
        cells += [f"{part.classes[name]:,}" for part in splits.values()]
        cells += [f"{report.speakers.by_class[name]:,}" if is_class else ""]
        cells += ["" if rate is None else f"{rate.vote_share:.1%}"]
        if told and rate is not None:
            mixed = ", ".join(f"{other} {share:.0%}" for other, share in rate.taken_for[:_MOST_TAKEN_FOR])
            cells += [_figure(rate.alpha), "" if rate.again != rate.again else f"{rate.again:.0%}", mixed]
        table.add_row(*cells, style="" if is_class else "dim")
    return table


def _attributes(report: "CorpusReport") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("attribute")
    for heading in ("scale", "rated", "mean", "deviation"):
        table.add_column(heading, justify="right")
    table.add_column("values")
    for one in report.attributes:
        described = [escape(one.name), f"{one.low:g} to {one.high:g}"]
        if one.values is None:
            table.add_row(*described, "0", "", "", "nobody rated it", style="dim")
        else:
            figures = [f"{one.values.count:,}", f"{one.values.mean:.2f}", f"{one.deviation:.2f}"]
            table.add_row(*described, *figures, _quantiles(one.values, 1))
    return table


def _facts(report: "CorpusReport") -> "Table":
    """Numbers that are one a corpus, and quantiles."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("", style="bold")
    table.add_column("", overflow="fold")
    agreement, speakers = report.agreement, report.speakers
    if agreement is not None:
        if agreement.pairable:
            table.add_row(
                "Krippendorff's alpha",
                f"{_figure(agreement.alpha)} (nominal, {agreement.pairable:,} utterances with several votes)",
            )
            table.add_row(
                "agreement",
                f"unanimous {agreement.unanimous:.1%}, majority {agreement.majority:.1%}, "
                f"no class leads {agreement.no_agreement:.1%}, O leads {agreement.other:.1%}",
            )
        table.add_row("votes an utterance", _quantiles(agreement.votes))
        if agreement.entropy is not None:
            table.add_row("entropy of votes (0 to 1)", _quantiles(agreement.entropy, 2))
    if report.seconds is not None:
        table.add_row("seconds", _quantiles(report.seconds, 1))
    if report.words is not None:
        table.add_row("words", _quantiles(report.words))
    if speakers.rows is not None and speakers.classes is not None:
        table.add_row("utterances a speaker", _quantiles(speakers.rows))
        if report.class_names:
            table.add_row("classes a speaker", _quantiles(speakers.classes))
        most = ", ".join(f"speaker {name} ({rows:,})" for name, rows in speakers.largest[:3])
        table.add_row("most from", most)
    return table


def _histogram(spread: "Distribution") -> "Table":
    from rich.table import Table

    table = Table(
        box=None,
        pad_edge=False,
        show_header=False,
        title="Durations",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("", justify="right")
    table.add_column("", min_width=_BAR)
    table.add_column("", justify="right")
    highest = max(spread.counts)
    for low, high, count in zip(spread.edges, spread.edges[1:], spread.counts, strict=False):
        bar = "█" * max(round(_BAR * count / highest), 1 if count else 0)
        table.add_row(f"{low:g} to {high:.3g} s", f"[cyan]{bar}", f"{count:,}")
    return table


def _leaks(report: "CorpusReport") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("shared", no_wrap=True)
    table.add_column("between", no_wrap=True)
    for heading in ("how many", "utterances"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("such as", overflow="ellipsis", no_wrap=True, max_width=_LONGEST_EXAMPLES)
    nouns = {"audio": "recordings", "span": "overlaps", "speaker": "speakers", "text": "texts"}
    for leak in report.leaks:
        table.add_row(
            nouns.get(leak.kind, "sentences"),
            " and ".join(leak.between),
            f"{leak.shared:,}",
            " and ".join(f"{rows:,}" for rows in leak.rows),
            escape("; ".join(leak.examples)),
            style="" if leak.kind in ("text", "sentence") else "red",
        )
    return table


def _quantiles(spread: "Distribution", decimals: int = 0) -> str:
    quantiles = spread.quantiles
    shown = {name: f"{value:,.{decimals}f}" for name, value in quantiles.items()}
    if quantiles["least"] == quantiles["most"]:
        return shown["median"]
    return (
        f"median {shown['median']}, half {shown['25 %']} to {shown['75 %']}, "
        f"90 % {shown['5 %']} to {shown['95 %']}, all {shown['least']} to {shown['most']}"
    )


def _figure(value: float) -> str:
    return "" if value != value else f"{value:.3f}"
