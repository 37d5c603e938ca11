"""The report of a corpus as one HTML file, in the shell of a run's report."""

from pathlib import Path

from sercache._version import __version__
from sercache.corpus.findings import Finding
from sercache.corpus.report import CorpusReport
from sercache.corpus.summary import Distribution
from sercache.corpus.utterance import NO_AGREEMENT, OTHER
from sercache.files import write_atomically
from sercache.reporting.blocks import (
    Block,
    Cell,
    Figure,
    Figures,
    Headline,
    Heat,
    Heats,
    Page,
    Prose,
    Section,
    Table,
    count,
    number,
    render,
    shown,
)
from sercache.reporting.drawing import ACCENT, INK, Canvas

_NAMES = {NO_AGREEMENT: "X (no agreement)", OTHER: "O (other)"}
_LEAKS = {
    "speaker": "speakers",
    "audio": "recordings",
    "span": "overlapping stretches",
    "text": "texts",
    "sentence": "of the texts: sentences of four words or more",
}


def write_corpus_page(report: CorpusReport, path: Path) -> Path:
    """Write the page; return where it lies.

    Raises:
        ReportError: a library is missing.
    """
    write_atomically(path, render(corpus_page(report)))
    return path


def corpus_page(report: CorpusReport) -> Page:
    """Return everything that the page shows."""
    total = report.summary.total
    hours = f", {total.hours:.2f} hours" if total.timed else ""
    has_classes = bool(report.class_names) or not report.attributes
    labels = _classes(report) if has_classes else _attributes(report)
    sections = (labels, _agreement(report), _lengths(report), _speakers(report), _leaks(report))
    labelled = (
        f"{len(report.class_names)} classes"
        if has_classes
        else f"{len(report.attributes)} attribute{'s' if len(report.attributes) > 1 else ''}, no classes"
    )
    return Page(
        title=shown(report.path.stem, 60),
        subtitle=f"A corpus before any model: {total.utterances:,} utterances of {total.speakers:,} speakers"
        f"{hours}, {labelled}",
        headlines=_headlines(report),
        verdict=tuple(_sentence(finding) for finding in report.findings if finding.gravity == "note"),
        cautions=tuple(_sentence(finding) for finding in report.findings if finding.gravity != "note"),
        sections=tuple(section for section in sections if section is not None),
        footer=f"Made by sercache {__version__}. One file, no network.",
    )


def _sentence(finding: Finding) -> str:
    return shown(f"{finding.message[:1].upper()}{finding.message[1:]}.", 400)


def _headlines(report: CorpusReport) -> tuple[Headline, ...]:
    leaks = [finding for finding in report.findings if finding.gravity == "leak"]
    parts = "splits" if report.boundary == "splits" else "speakers"
    return (
        *(_class_headlines(report) if report.class_names else _attribute_headlines(report)),
        Headline(
            f"Do {parts} share what they must not?",
            "Yes" if leaks else "No",
            f"{len(leaks)} kinds of leaks" if leaks else "no recordings, stretches or speakers",
            is_accented=bool(leaks),
        ),
    )


def _class_headlines(report: CorpusReport) -> tuple[Headline, ...]:
    counts = {name: report.summary.total.classes[name] for name in report.class_names}
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    agreement = report.agreement
    is_known = agreement is not None and agreement.pairable
    return (
        Headline(
            "How far do raters agree?",
            f"alpha {agreement.alpha:.3f}" if agreement is not None and is_known else "Not known",
            f"all of them in {agreement.unanimous:.0%} of the utterances"
            if agreement is not None and is_known
            else "no utterance has several votes",
        ),
        Headline(
            "Which class is rarest?",
            shown(least),
            f"{counts[least]:,} utterances; {shown(most)} has {counts[most]:,}",
        ),
    )


def _attribute_headlines(report: CorpusReport) -> tuple[Headline, ...]:
    rated = {
        attribute.name: attribute.values.count
        for attribute in report.attributes
        if attribute.values is not None
    }
    if not rated:
        return ()
    counted = "; ".join(f"{shown(name)} {count:,}" for name, count in rated.items())
    return (Headline("How much is rated?", f"{max(rated.values()):,} utterances", counted),)


def _attributes(report: CorpusReport) -> Section:
    rows = tuple(
        (
            Cell(shown(attribute.name, 60)),
            number(attribute.low, 1),
            number(attribute.high, 1),
            count(0 if attribute.values is None else attribute.values.count),
            number(None if attribute.values is None else attribute.values.mean, 2),
            number(None if attribute.values is None else attribute.deviation, 2),
            number(None if attribute.values is None else attribute.values.median, 2),
        )
        for attribute in report.attributes
    )
    header = ("attribute", "lowest", "highest", "rated utterances", "mean", "deviation", "median")
    figures = [
        _histogram(shown(attribute.name, 60), attribute.values, "rating")
        for attribute in report.attributes
        if attribute.values is not None and len(attribute.values.counts) > 1
    ]
    blocks: list[Block] = [Figures(tuple(figures), "medium")] if figures else []
    blocks.append(Table("Ratings of every attribute", header, rows))
    return Section("attributes", "Attributes", "What can be learned: the corpus has no classes.", blocks)


def _classes(report: CorpusReport) -> Section:
    summary = report.summary
    splits = {name: part for name, part in summary.splits.items() if len(summary.splits) > 1}
    rates = (
        {by_class.name: by_class for by_class in report.agreement.classes}
        if report.agreement is not None
        else {}
    )
    is_known = report.agreement is not None and report.agreement.pairable > 0
    rows, bars = [], []
    for name, utterances in summary.total.classes.items():
        is_class = name in report.class_names
        if not (utterances or is_class):
            continue
        rate = rates.get(name)
        label = shown(_NAMES.get(name, name), 60)
        share = 100 * utterances / summary.total.utterances
        bars.append((label, utterances))
        rows.append(
            (
                Cell(label, tone="" if is_class else "dim"),
                count(utterances),
                number(share, 1),
                *(count(part.classes[name]) for part in splits.values()),
                count(report.speakers.by_class[name]) if is_class else Cell("", is_number=True),
                number(None if rate is None else 100 * rate.vote_share, 1),
                *((number(None if rate is None else rate.alpha),) if is_known else ()),
            )
        )
    header = (
        "class",
        "utterances",
        "%",
        *splits,
        "speakers",
        "% of votes",
        *(("alpha",) if is_known else ()),
    )
    caption = "Utterances by consensus" + ("; alpha: this class against all others" if is_known else "")
    table = Table(caption, header, tuple(rows))
    title = "Utterances of every class"
    described = "; ".join(f"{name} {utterances:,}" for name, utterances in bars)
    svg = _bars(title, described, bars)
    figure = Figure(svg, title, f"A bar per class: {described}.", table)
    return Section("classes", "Classes", "The plurality of the votes decides.", [Figures((figure,)), table])


def _agreement(report: CorpusReport) -> Section | None:
    agreement = report.agreement
    if agreement is None or not agreement.pairable:
        return None
    names = [by_class.name for by_class in agreement.classes]
    cells = []
    for by_class in agreement.classes:
        shares = dict(by_class.taken_for) | {by_class.name: by_class.again}
        cells.append(
            tuple(
                (share, f"{share:.0%}" if share else "", "") for share in (shares.get(n, 0.0) for n in names)
            )
        )
    labels = tuple(shown(_NAMES.get(name, name), 14) for name in names)
    heat = Heat(
        "What another rater says",
        "one rater \\ another",
        labels,
        labels,
        tuple(cells),
        "of the same utterance, where one rater says what the row says",
    )
    lead = (
        f"Krippendorff's alpha is {agreement.alpha:.3f} (nominal, {agreement.pairable:,} utterances with "
        f"several votes). {agreement.unanimous:.0%} are unanimous; in "
        f"{agreement.no_agreement:.0%} no class leads."
    )
    blocks: list[Block] = [Heats((heat,))]
    if agreement.entropy is not None and len(agreement.entropy.counts) > 1:
        blocks.append(Figures((_histogram("Entropy of the votes", agreement.entropy, "0 to 1"),)))
        blocks.append(Prose("Entropy: 0 where all agree, 1 where votes spread evenly over all classes."))
    return Section("agreement", "Agreement", lead, blocks)


def _lengths(report: CorpusReport) -> Section | None:
    spreads = (("Durations", report.seconds, "seconds"), ("Words", report.words, "words"))
    figures = [
        _histogram(title, spread, unit)
        for title, spread, unit in spreads
        if spread and len(spread.counts) > 1
    ]
    if not figures:
        return None
    seconds = report.seconds
    lead = "" if seconds is None else (
        f"Half of the utterances have {seconds.quantiles['25 %']:.1f} to {seconds.quantiles['75 %']:.1f} s, "
        f"the longest {seconds.quantiles['most']:.1f} s."
    )  # fmt: skip
    return Section("lengths", "Lengths", lead, [Figures(tuple(figures))])


def _speakers(report: CorpusReport) -> Section | None:
    speakers = report.speakers
    if speakers.rows is None or speakers.classes is None:
        return None
    quantiles = tuple(
        (Cell(what), *(number(value, 0) for value in spread.quantiles.values()))
        for what, spread in (("utterances", speakers.rows), ("classes", speakers.classes))
        if report.class_names or what != "classes"
    )
    header = ("of a speaker", *speakers.rows.quantiles)
    most = tuple((Cell(shown(name, 60)), count(rows)) for name, rows in speakers.largest)
    lead = f"{speakers.count:,} speakers" + (
        f"; {speakers.anonymous:,} utterances name none." if speakers.anonymous else "."
    )
    return Section(
        "speakers",
        "Speakers",
        lead,
        [
            Table(
                f"Utterances{' and classes' if report.class_names else ''} of a speaker",
                header,
                quantiles,
                is_sortable=False,
            ),
            Table("Who speaks most", ("speaker", "utterances"), most),
        ],
    )


def _leaks(report: CorpusReport) -> Section:
    parts = "splits" if report.boundary == "splits" else "speakers, whom folds keep apart"
    if not report.leaks:
        lead = f"Nothing is shared between {parts}."
        return Section("leaks", "Leaks", lead, [])
    rows = tuple(
        (
            Cell(_LEAKS[leak.kind], tone="" if leak.kind in ("text", "sentence") else "bad"),
            Cell(" and ".join(leak.between)),
            count(leak.shared),
            Cell(" and ".join(f"{row:,}" for row in leak.rows), is_number=True),
            Cell("; ".join(shown(example, 60) for example in leak.examples)),
        )
        for leak in report.leaks
    )
    header = ("shared", "between", "how many", "utterances", "such as")
    table = Table(f"What is shared between {parts}", header, rows, is_sortable=False)
    lead = "Recordings are compared by their bytes, texts without case and marks."
    return Section("leaks", "Leaks", lead, [table])


def _bars(title: str, described: str, bars: list[tuple[str, int]]) -> str:
    with Canvas(520, 50 + 26 * len(bars)) as canvas:
        axes = canvas.axes
        axes.barh(range(len(bars)), [size for _, size in bars], color=ACCENT, height=0.6)
        axes.set_yticks(range(len(bars)), [shown(name, 18) for name, _ in bars])
        for text in axes.get_yticklabels():
            text.set_color(INK)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set_xlabel("utterances")
    return canvas.svg(title, f"A bar per class: {described}.")


def _histogram(title: str, spread: Distribution, unit: str) -> Figure:
    bins = [f"{low:g} to {high:.4g}" for low, high in zip(spread.edges, spread.edges[1:], strict=False)]
    numbers = Table(
        title,
        (unit, "utterances"),
        tuple((Cell(name), count(size)) for name, size in zip(bins, spread.counts, strict=True)),
        is_sortable=False,
    )
    quantiles = ", ".join(f"{name} {value:.3g}" for name, value in spread.quantiles.items())
    description = f"A histogram of {spread.count:,} utterances: {quantiles}."
    with Canvas(380, 220) as canvas:
        axes = canvas.axes
        # The last bin may be the whole tail: it is drawn as wide as the others.
        axes.bar(range(len(bins)), spread.counts, width=0.9, color=ACCENT, align="edge")
        ticks = range(0, len(bins), max(1, len(bins) // 5))
        axes.set_xticks(list(ticks), [f"{spread.edges[tick]:g}" for tick in ticks])
        axes.grid(False, axis="x")
        axes.set_xlabel(unit)
        axes.set_ylabel("utterances")
    return Figure(canvas.svg(title, description), title, description, numbers)
