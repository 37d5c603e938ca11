"""``sercache stack``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import command_context, terminal_width
from .options import Address, Engine, Json, engine_choice, refuse_options
from .rendering import (
    Row,
    decimal,
    interval,
    numbers,
    p_value,
    print_json,
    print_next,
    print_note,
    print_paths,
    print_table,
    print_text,
)
from .report import report_after_stacking

if TYPE_CHECKING:
    from sercache.stacking.table import Comparison, ComparisonRow


_SHOWN_MEMBERS = 5
_WIDE = 160
"""Columns of a terminal that has room for more than what decides."""


def stack(
    context: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|PREDICTIONS",
            help="A run folder, made by sercache train-ensemble; or files of predictions.",
        ),
    ],
    predictions: Annotated[
        bool, typer.Option("--predictions", help="The arguments are predictions that any system wrote.")
    ] = False,
    labels: Annotated[
        Path | None, typer.Option(help="With --predictions: the manifest that has the truth.")
    ] = None,
    out_of_fold: Annotated[
        bool,
        typer.Option(
            "--out-of-fold",
            help="With --predictions: no model saw the speakers whose training rows it predicts.",
        ),
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="With --predictions: where results go.")
    ] = Path("stacked"),
    seed: Annotated[int, typer.Option(help="With --predictions: of everything random.")] = 0,
    allow_in_sample: Annotated[
        bool,
        typer.Option(
            "--allow-in-sample",
            help="Let in what members predict for rows they trained on, to see the leak.",
        ),
    ] = False,
    with_report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write report.html, one page that shows it all.")
    ] = True,
    as_json: Json = False,
    engine: Engine = "auto",
    address: Address = None,
) -> None:
    """Fit the meta-levels on out-of-fold posteriors and compare them on rows that none of them has seen.

    Prints one table, best macro-F1 first (best mean CCC, if the corpus has attributes alone), with 95 %
    intervals over speakers, and the conclusions that it allows. The linear baseline of the run is a row
    of it, and the first thing that every meta-level has to beat.
    Writes comparison.csv, metrics.json, stack/ and report.html into the run. What is already there is not
    done again.

    Predictions are CSV or Parquet, a file per member: an id or FileName, and a column of probabilities per
    class or one called Prediction. Scores are of the rows of the test split; stackers are
    fitted on those of the development split, and on training rows only with --out-of-fold.

    Example: sercache stack runs/demo

    Example: sercache stack --predictions a.csv b.csv --labels corpus.csv -o stacked
    """
    from sercache.errors import StackingError
    from sercache.files import read_json
    from sercache.recipe import StackingRecipe
    from sercache.run import Run
    from sercache.stacking.comparison import compare, compare_rows
    from sercache.stacking.external.members import Sources, rows_of_sources, save_sources

    if predictions != (labels is not None):
        raise StackingError("--predictions and --labels go together: files, and the manifest with the truth")
    if not predictions and len(paths) != 1:
        raise StackingError("one run at a time; files of predictions want --predictions and --labels")
    if predictions:
        refuse_options(context, ["allow_in_sample"], "goes with a run, not with --predictions")
    else:
        refuse_options(context, ["out_of_fold", "output", "seed"], "goes with --predictions")
    folder = Run(output if predictions else paths[0])
    choice = engine_choice(engine, address)
    with command_context() as work:
        if labels is not None:
            sources = Sources(tuple(paths), labels, out_of_fold, seed)
            rows = rows_of_sources(sources, listener=work.listener)
            save_sources(folder, sources)
            comparison = compare_rows(
                rows,
                StackingRecipe(),
                seed,
                folder,
                engine=choice,
                context=work,
            )
        else:
            comparison = compare(
                folder,
                allow_in_sample=allow_in_sample,
                engine=choice,
                context=work,
            )
    report = report_after_stacking(folder.root) if with_report else None
    if as_json:
        print_json(read_json(folder.metrics_path))
        return
    _print_comparison(comparison, is_wide=terminal_width() >= _WIDE)
    for sentence in ("", *_sentences(comparison), ""):
        print_text(sentence)
    print_paths(
        [
            *([(report, "all of it in pictures: open it in a browser")] if report else []),
            (folder.comparison_path, "this table, with an interval for every score"),
            (folder.curves_path, "scores and costs of 1 member to all"),
            (folder.metrics_path, "the same and more, for programs"),
            (folder.root / "stack", "the fitted stackers and what they predicted"),
        ]
    )
    if not predictions:
        print_next(f"sercache bundle {folder.root} -o bundle")


def _print_comparison(comparison: "Comparison", *, is_wide: bool) -> None:
    """Print the table; where there is room, with Brier score, seconds and F1 of each class."""
    from sercache.stacking.baselines import BASELINE

    headings = ["macro-F1\n[95 %]", "UAR", "wtd\nF1"] if comparison.classes else ["mean CCC\n[95 %]"]
    headings += [f"CCC\n{attribute[:3]}" for attribute in comparison.attributes]
    headings += ["log\nloss", "JSD", "ECE"] if comparison.classes else []
    against = "minus soft vote" if comparison.above_baseline is None else "minus baseline"
    headings += [f"{against}\n[95 %]", "p", "leak\ngap"]
    if is_wide:
        headings += ["Brier"] if comparison.classes else []
        headings += ["fit\ns", "predict\ns", *(f"F1\n{name[:7]}" for name in comparison.classes)]
    rows = [
        Row(
            _cells(row, comparison) + (_wide_cells(row, comparison) if is_wide else []),
            "bold" if row.stacker == BASELINE else "dim" if row.is_baseline else "",
        )
        for row in comparison.rows
    ]
    print_table(["meta-level", *numbers(*headings)], rows, is_dense=True)
    print_note(_legend(comparison))


def _sentences(comparison: "Comparison") -> list[str]:
    """Return what the comparison allows one to conclude; an empty text separates paragraphs."""
    from sercache.recipe import speaker_note

    note = speaker_note(comparison.normalized_members)
    sentences = [*([note] if note else []), *comparison.verdict, *_weights(comparison)]
    if comparison.soup is not None:
        sentences.append(comparison.soup.sentence)
    if comparison.classes:
        sentences.append("")
        sentences += comparison.calibration.verdict if comparison.calibration is not None else ()
    sentences.append("")
    sentences += comparison.curves.verdict if comparison.curves is not None else ()
    return sentences


def _weights(comparison: "Comparison") -> list[str]:
    """Return the members' weights in the best stacker that does not weight them equally."""
    for row in comparison.rows:
        if len(set(row.shares.values())) > 1:
            by_share = sorted(row.shares.items(), key=lambda item: -item[1])
            shown = ", ".join(f"{name} {share:.0%}" for name, share in by_share[:_SHOWN_MEMBERS])
            rest = sum(share for _, share in by_share[_SHOWN_MEMBERS:])
            others = f", {len(by_share) - _SHOWN_MEMBERS} more {rest:.0%}" if rest else ""
            return [f"{row.stacker} leans on {shown}{others}."]
    return []


def _cells(row: "ComparisonRow", comparison: "Comparison") -> list[str]:
    primary = comparison.primary.key
    decimals = {"uar": 3, "weighted_f1": 3}
    decimals |= {f"ccc:{name}": 2 if comparison.classes else 3 for name in comparison.attributes}
    decimals |= {"log_loss": 2, "jsd": 3, "ece": 3}
    difference, p = row.to_soft_vote.get(primary), row.p_to_soft_vote
    if comparison.above_baseline is not None:
        difference, p = row.to_baseline.get(primary), row.p_to_baseline
    return [
        row.stacker,
        interval(row.scores[primary]),
        *(decimal(row.scores[name].value, count) for name, count in decimals.items() if name in row.scores),
        interval(difference, "+"),
        p_value(p),
        decimal(row.leak_gap, 2, "+"),
    ]


def _wide_cells(row: "ComparisonRow", comparison: "Comparison") -> list[str]:
    return [
        *([decimal(row.scores["brier"].value)] if comparison.classes else []),
        decimal(row.fit_seconds, 1),
        decimal(row.predict_seconds, 1),
        *(decimal(row.scores[f"f1:{name}"].value) for name in comparison.classes),
    ]


def _legend(comparison: "Comparison") -> str:
    where = (
        "the test split, fitted on out-of-fold rows"
        if comparison.scored_on == "held-out"
        else "folds in turn, each by stackers fitted on the others"
    )
    nesting = ""
    if comparison.scored_on == "folds":
        nesting = (
            " Stackers never see the scored fold, but the members whose posteriors they are fitted on may "
            "have trained on it."
        )
    if comparison.repeats > 1:
        where += f"; scores are means over {comparison.repeats} assignments of speakers to folds"
    linear = ""
    if comparison.above_baseline is not None:
        linear = " Baseline: a linear model on pooled statistics of all features; no stacker sees it."
    counted = f"{comparison.scored_rows} rows of {comparison.speakers} speakers ({where})"
    if not comparison.classes:
        return (
            f"{counted}; {len(comparison.members)} members, attributes alone. Mean CCC: the concordance "
            "correlation coefficient, averaged over attributes. p is Holm-corrected. Leak gap: mean CCC on "
            f"the rows fitted on, minus mean CCC here.{linear}{nesting}"
        )
    return (
        f"{counted}; {len(comparison.members)} members, {len(comparison.classes)} classes. Log-loss (nats) "
        "and JSD (bits) are against the votes, ECE against the consensus. p is Holm-corrected. Leak gap: "
        f"macro-F1 on the rows fitted on, minus macro-F1 here.{linear}{nesting}"
    )
