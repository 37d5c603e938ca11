"""The report on a corpus before any model: its content, the agreement of its raters, its leaks."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sercache.corpus.agreement import Agreement, agreement_of
from sercache.corpus.findings import Finding, attribute_findings, class_findings, findings_of
from sercache.corpus.leaks import Boundary, Leak, boundary_of, find_leaks
from sercache.corpus.summary import CorpusSummary, Distribution, corpus_seconds, distribution_of, summarize
from sercache.corpus.targets import consensus
from sercache.corpus.utterance import Corpus
from sercache.events import QUIET, Context
from sercache.files import without_nan


@dataclass(frozen=True)
class SpeakerReport:
    """The speakers of a corpus.

    Attributes:
        count: known speakers.
        anonymous: utterances that name none.
        rows: utterances per known speaker; None where no speaker is known.
        classes: classes per known speaker, by consensus.
        largest: the speakers with the most utterances, and how many.
        by_class: how many speakers every class has.
    """

    count: int
    anonymous: int
    rows: Distribution | None
    classes: Distribution | None
    largest: tuple[tuple[str, int], ...]
    by_class: Mapping[str, int]


@dataclass(frozen=True)
class AttributeReport:
    """The ratings of an attribute.

    Attributes:
        name: of the attribute.
        low: lowest value of its scale.
        high: highest value of its scale.
        values: of the rated utterances; None where nobody rated.
        deviation: standard deviation of these; NaN where nobody rated.
    """

    name: str
    low: float
    high: float
    values: Distribution | None
    deviation: float


@dataclass(frozen=True)
class CorpusReport:
    """Everything that is reported on a corpus before any model.

    Attributes:
        path: of the manifest.
        class_names: in the corpus's order.
        summary: utterances, speakers, hours and classes, in all and by split.
        agreement: of the raters; None where nobody voted.
        seconds: length of utterances; None where no duration is known.
        words: their number of words; None where there are no texts.
        speakers: their number, and their utterances and classes.
        boundary: what separates training rows from evaluated ones.
        leaks: what is on both sides of it.
        findings: what to know before a training, the gravest first.
        attributes: how each is rated.
    """

    path: Path
    class_names: tuple[str, ...]
    summary: CorpusSummary
    agreement: Agreement | None
    seconds: Distribution | None
    words: Distribution | None
    speakers: SpeakerReport
    boundary: Boundary
    leaks: tuple[Leak, ...]
    findings: tuple[Finding, ...]
    attributes: tuple[AttributeReport, ...] = ()


def report_corpus(path: Path, corpus: Corpus, *, context: Context = QUIET) -> CorpusReport:
    """Report on a corpus, from its labels, its recordings' headers, and the bytes of recordings of one size.

    Args:
        path: of the manifest, which the report names.
        corpus: the manifest's corpus.
        context: receives events, and says when to stop.

    Raises:
        Interrupted: ``context.should_stop`` returned True.
    """
    seconds = corpus_seconds(corpus, context=context)
    summary = summarize(corpus, seconds=seconds)
    agreement = agreement_of(corpus)
    speakers = _speakers(corpus)
    boundary = boundary_of(corpus)
    leaks = find_leaks(corpus, context=context)
    spread = distribution_of(seconds)
    words = [len(row.text.split()) for row in corpus.utterances if row.text is not None]
    attributes = _attributes(corpus)
    if corpus.attributes and not corpus.classes:
        labels = attribute_findings(
            {attribute.name: attribute.values for attribute in attributes}, len(corpus)
        )
    else:
        labels = class_findings(summary, agreement, speakers.by_class, corpus.classes)
    findings = findings_of(summary, spread, boundary, leaks, labels)
    return CorpusReport(
        path=path,
        class_names=corpus.classes,
        summary=summary,
        agreement=agreement,
        seconds=spread,
        words=distribution_of(words),
        speakers=speakers,
        boundary=boundary,
        leaks=leaks,
        findings=findings,
        attributes=attributes,
    )


def as_json(report: CorpusReport) -> dict[str, Any]:
    """Return the report as JSON values; null where a figure is not defined."""
    speakers = {("" if name is None else name): rows for name, rows in report.summary.speakers.items()}
    content = asdict(report)
    content["summary"]["speakers"] = speakers
    plain: dict[str, Any] = without_nan(content)
    return plain


def _attributes(corpus: Corpus) -> tuple[AttributeReport, ...]:
    reports = []
    for attribute, values in zip(corpus.attributes, corpus.attribute_values.T, strict=True):
        rated = values[~np.isnan(values)]
        deviation = float(rated.std()) if len(rated) else float("nan")
        spread = distribution_of(rated)
        reports.append(AttributeReport(attribute.name, attribute.low, attribute.high, spread, deviation))
    return tuple(reports)


def _speakers(corpus: Corpus) -> SpeakerReport:
    labels = consensus(corpus).tolist()
    rows: Counter[str] = Counter()
    classes_of: dict[str, set[int]] = {}
    for row, label in zip(corpus.utterances, labels, strict=True):
        if row.speaker is not None:
            rows[row.speaker] += 1
            classes_of.setdefault(row.speaker, set()).update({label} if label >= 0 else ())
    return SpeakerReport(
        count=len(rows),
        anonymous=sum(row.speaker is None for row in corpus.utterances),
        rows=distribution_of(list(rows.values())),
        classes=distribution_of([len(classes) for classes in classes_of.values()]),
        largest=tuple(rows.most_common(5)),
        by_class={
            name: sum(index in classes for classes in classes_of.values())
            for index, name in enumerate(corpus.classes)
        },
    )
