"""``sercache audit``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Json
from .rendering import (
    Column,
    decimal,
    interval,
    numbers,
    print_json,
    print_line,
    print_note,
    print_paths,
    print_table,
    print_text,
)

if TYPE_CHECKING:
    from sercache.evaluation.bootstrap import Estimate
    from sercache.stacking.external.audit import AuditReport

_LONGEST_NAME = 18
_SHORT_SPLITS = {"development": "dev", "no split": "none"}


def audit(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Predictions, CSV or Parquet; the last one is the manifest."),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write everything as JSON.")] = None,
    as_json: Json = False,
    seed: Annotated[int, typer.Option(help="Of the bootstrap and of the balanced draws.")] = 0,
) -> None:
    """Recompute every metric of files of predictions, and look for what makes metrics untrue.

    Scores each split of the corpus as it is, and on draws with as many rows of each class, as the test sets
    of challenges are drawn. Looks for utterances that are missing or unknown, speakers of the training split,
    shifted rows, permuted classes, one class for all, identical files and predictions of rows that were
    trained on. Exits with code 2 if it finds errors.

    A file has an id or FileName, and a column of probabilities per class or one called Prediction.

    Example: sercache audit predictions.csv corpus.csv
    """
    from sercache.corpus.manifest import read_corpus
    from sercache.errors import StackingError
    from sercache.files import write_json
    from sercache.stacking.external import audit as auditing
    from sercache.stacking.external.reading import member_names, read_predictions

    from .corpus import EXIT_PROBLEMS

    *files, labels = paths
    if not files:
        raise StackingError(
            f"audit wants files of predictions and, last, the manifest; there is only {labels}"
        )
    corpus = read_corpus(labels)
    read = [
        read_predictions(path, corpus, name) for path, name in zip(files, member_names(files), strict=True)
    ]
    report = auditing.audit(read, corpus, seed=seed)
    if output is not None:
        write_json(output, auditing.as_json(report))
    if as_json:
        print_json(auditing.as_json(report))
    else:
        _print_report(report)
        if output is not None:
            print_paths([(output, "all of it, for programs")])
    if report.has_errors:
        raise typer.Exit(EXIT_PROBLEMS)


def _print_report(report: "AuditReport") -> None:
    if report.scores:
        _print_scores(report)
        print_note(
            "Intervals: 95 %, over speakers."
            if not _has_classes(report)
            else "Intervals: 95 %, over speakers; of balanced draws the range of 95 %. Log-loss (nats) and "
            "JSD (bits) are against the votes, ECE against the consensus. Majority: of naming one class."
        )
    print_line()
    for finding in report.findings:
        style = "red" if finding.severity == "error" else "yellow"
        print_text(f"{finding.severity}: {finding.file}: {finding.message}", style)
    if not report.findings:
        print_line("Nothing is wrong that could be seen.")


def _has_classes(report: "AuditReport") -> bool:
    return any("macro_f1" in row.scores for row in report.scores)


def _print_scores(report: "AuditReport") -> None:
    has_classes = _has_classes(report)
    attributes = [
        name
        for name in dict.fromkeys(name for row in report.scores for name in row.scores)
        if name.startswith("ccc:")
    ]
    headings = ["rows"]
    if has_classes:
        headings += ["macro-F1\n[95 %]", "on balanced\ndraws", "major-\nity", "UAR", "wtd\nF1"]
    headings += [f"CCC\n{name.removeprefix('ccc:')[:3]}" for name in attributes]
    headings += ["log\nloss", "JSD", "ECE"] if has_classes else []
    figures = [("uar", 3), ("weighted_f1", 3), *((name, 2) for name in attributes)]
    figures += [("log_loss", 2), ("jsd", 3), ("ece", 3)]
    rows = []
    for row in report.scores:
        cells = [row.file, _SHORT_SPLITS.get(row.split, row.split), str(row.rows)]
        if has_classes:
            cells += [interval(row.scores.get("macro_f1")), interval(row.balanced.get("macro_f1"))]
            cells += [decimal(row.majority_macro_f1)]
            cells += [_value(row.scores.get(name), decimals) for name, decimals in figures]
        else:
            cells += [interval(row.scores.get(name)) for name in attributes]
        rows.append(cells)
    file = Column("file", max_width=_LONGEST_NAME, no_wrap=True, overflow="ellipsis")
    split = Column("split", no_wrap=True, overflow="ellipsis")
    print_table([file, split, *numbers(*headings, no_wrap=True)], rows, is_dense=True)


def _value(estimate: "Estimate | None", decimals: int) -> str:
    return "" if estimate is None else decimal(estimate.value, decimals)
