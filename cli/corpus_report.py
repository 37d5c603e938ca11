"""``sercache corpus report``."""

from typing import TYPE_CHECKING

from .console import command_context
from .options import Json, Manifest, Page
from .rendering import (
    Column,
    Row,
    numbers,
    print_heading,
    print_json,
    print_line,
    print_next,
    print_paths,
    print_table,
)

if TYPE_CHECKING:
    from sercache.corpus.report import CorpusReport
    from sercache.corpus.summary import Distribution

_BAR = 30
_MOST_TAKEN_FOR = 2
_LONGEST_EXAMPLES = 44
_STYLES = {"leak": "bold red", "warning": "yellow", "note": "dim"}


def corpus_report(
    manifest: Manifest,
    output: Page = None,
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

    corpus = read_corpus(manifest)
    with command_context() as context:
        report = report_corpus(manifest, corpus, context=context)
    if output is not None:
        from sercache.reporting.corpus_page import write_corpus_page

        write_corpus_page(report, output)
    if as_json:
        print_json(report_as_json(report))
        return
    _print_report(report)
    if output is not None:
        print_paths([(output, "the same in pictures")])
    print_next(f"sercache init {report.path}")


def _print_report(report: "CorpusReport") -> None:
    total = report.summary.total
    hours = f", {total.hours:.2f} h" if total.timed else ""
    if 0 < total.timed < total.utterances:
        hours += f" (of {total.timed:,} whose duration is known)"
    print_heading(f"{report.path.name}: {total.utterances:,} utterances, {total.speakers:,} speakers{hours}")
    print_line()
    if report.class_names or not report.attributes:
        _print_classes(report)
    else:
        _print_attributes(report)
    if report.agreement is not None and report.agreement.pairable:
        print_line(
            "Alpha: this class against all others. Again: another rater of the same utterance chose it, too.",
            style="dim",
        )
    print_line()
    print_table([Column(style="bold"), ""], _facts(report), has_headings=False)
    if report.seconds is not None and len(report.seconds.counts) > 1:
        print_line()
        _print_histogram(report.seconds)
    if report.leaks:
        print_line()
        _print_leaks(report)
    print_line()
    for finding in report.findings:
        print_line(f"{finding.gravity}: {finding.message}", style=_STYLES[finding.gravity])
    if not report.findings:
        print_line("Nothing stands in the way of a training.")


def _print_classes(report: "CorpusReport") -> None:
    splits = {name: part for name, part in report.summary.splits.items() if len(report.summary.splits) > 1}
    agreement = report.agreement
    rates = {rate.name: rate for rate in agreement.classes} if agreement is not None else {}
    has_alpha = agreement is not None and agreement.pairable > 0
    columns = [Column("class"), *numbers("utterances", "share", *splits, "speakers", "of votes")]
    columns += [*numbers("alpha", "again"), Column("else taken for")] if has_alpha else []
    total = report.summary.total
    names = {"X": "X (no agreement)", "O": "O (other)"}
    rows = []
    for name, count in total.classes.items():
        is_class = name in report.class_names
        rate = rates.get(name)
        if not (count or is_class or rate):
            continue
        cells = [names.get(name, name), f"{count:,}", f"{count / total.utterances:.1%}"]
        cells += [f"{part.classes[name]:,}" for part in splits.values()]
        cells += [f"{report.speakers.by_class[name]:,}" if is_class else ""]
        cells += ["" if rate is None else f"{rate.vote_share:.1%}"]
        if has_alpha and rate is not None:
            mixed = ", ".join(f"{other} {share:.0%}" for other, share in rate.taken_for[:_MOST_TAKEN_FOR])
            cells += [_figure(rate.alpha), "" if rate.again != rate.again else f"{rate.again:.0%}", mixed]
        rows.append(Row(cells, "" if is_class else "dim"))
    print_table(columns, rows)


def _print_attributes(report: "CorpusReport") -> None:
    rows = []
    for attribute in report.attributes:
        scale, values = f"{attribute.low:g} to {attribute.high:g}", attribute.values
        if values is None:
            rows.append(Row((attribute.name, scale, "0", "", "", "nobody rated it"), "dim"))
        else:
            figures = (f"{values.count:,}", f"{values.mean:.2f}", f"{attribute.deviation:.2f}")
            rows.append(Row((attribute.name, scale, *figures, _quantiles(values, 1))))
    print_table(["attribute", *numbers("scale", "rated", "mean", "deviation"), "values"], rows)


def _facts(report: "CorpusReport") -> list[tuple[str, str]]:
    """Return the figures that a corpus has once, and quantiles."""
    facts = []
    agreement, speakers = report.agreement, report.speakers
    if agreement is not None:
        if agreement.pairable:
            alpha = _figure(agreement.alpha)
            counted = f"{agreement.pairable:,} utterances with several votes"
            facts.append(("Krippendorff's alpha", f"{alpha} (nominal, {counted})"))
            shares = (
                f"unanimous {agreement.unanimous:.1%}, majority {agreement.majority:.1%}, "
                f"no class leads {agreement.no_agreement:.1%}, O leads {agreement.other:.1%}"
            )
            facts.append(("agreement", shares))
        facts.append(("votes an utterance", _quantiles(agreement.votes)))
        if agreement.entropy is not None:
            facts.append(("entropy of votes (0 to 1)", _quantiles(agreement.entropy, 2)))
    if report.seconds is not None:
        facts.append(("seconds", _quantiles(report.seconds, 1)))
    if report.words is not None:
        facts.append(("words", _quantiles(report.words)))
    if speakers.rows is not None and speakers.classes is not None:
        facts.append(("utterances a speaker", _quantiles(speakers.rows)))
        if report.class_names:
            facts.append(("classes a speaker", _quantiles(speakers.classes)))
        most = ", ".join(f"speaker {name} ({rows:,})" for name, rows in speakers.largest[:3])
        facts.append(("most from", most))
    return facts


def _print_histogram(durations: "Distribution") -> None:
    highest = max(durations.counts)
    rows = []
    for low, high, count in zip(durations.edges, durations.edges[1:], durations.counts, strict=False):
        bar = "█" * max(round(_BAR * count / highest), 1 if count else 0)
        rows.append((f"{low:g} to {high:.3g} s", bar, f"{count:,}"))
    columns = [Column(is_number=True), Column(min_width=_BAR, style="cyan"), Column(is_number=True)]
    print_table(columns, rows, title="Durations", has_headings=False)


def _print_leaks(report: "CorpusReport") -> None:
    nouns = {"audio": "recordings", "span": "overlaps", "speaker": "speakers", "text": "texts"}
    rows = [
        Row(
            (
                nouns.get(leak.kind, "sentences"),
                " and ".join(leak.between),
                f"{leak.shared:,}",
                " and ".join(f"{rows:,}" for rows in leak.rows),
                "; ".join(leak.examples),
            ),
            "" if leak.kind in ("text", "sentence") else "red",
        )
        for leak in report.leaks
    ]
    columns = [
        Column("shared", no_wrap=True, overflow="ellipsis"),
        Column("between", no_wrap=True, overflow="ellipsis"),
        *numbers("how many", "utterances", no_wrap=True),
        Column("such as", overflow="ellipsis", no_wrap=True, max_width=_LONGEST_EXAMPLES),
    ]
    print_table(columns, rows)


def _quantiles(values: "Distribution", decimals: int = 0) -> str:
    quantiles = values.quantiles
    shown = {name: f"{value:,.{decimals}f}" for name, value in quantiles.items()}
    if quantiles["least"] == quantiles["most"]:
        return shown["median"]
    return (
        f"median {shown['median']}, half {shown['25 %']} to {shown['75 %']}, "
        f"90 % {shown['5 %']} to {shown['95 %']}, all {shown['least']} to {shown['most']}"
    )


def _figure(value: float) -> str:
    return "" if value != value else f"{value:.3f}"
