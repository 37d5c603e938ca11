"""``sercache stack``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from sercache.evaluation.bootstrap import Difference, Estimate
    from sercache.stacking.table import Comparison, ComparisonRow


_SHOWN_MEMBERS = 5


def stack(
    run: Annotated[Path, typer.Argument(help="A run folder, made by sercache train-ensemble.")],
    allow_in_sample: Annotated[
        bool,
        typer.Option(
            "--allow-in-sample",
            help="Let in what members say of rows they trained on, to see the leak.",
        ),
    ] = False,
) -> None:
    """Fit the meta-levels on a run's out-of-fold posteriors and compare them on rows none of them has seen.

    Prints one table, best macro-F1 first, with 95 % intervals over speakers, and what it allows one to say.
    Writes RUN/comparison.csv, RUN/metrics.json and RUN/stack/. What is already there is not done again.

    Example: sercache stack runs/demo
    """
    from sercache.interrupts import stop_flag
    from sercache.run import Run
    from sercache.stacking.comparison import compare

    from .console import console, progress_listener

    folder = Run(run)
    with stop_flag() as should_stop, progress_listener() as listener:
        comparison = compare(
            folder, allow_in_sample=allow_in_sample, listener=listener, should_stop=should_stop
        )
    console.print(_table(comparison))
    console.print(_legend(comparison), style="dim", highlight=False)
    for sentence in ("", *comparison.verdict, *_leaning(comparison), ""):
        console.print(sentence, markup=False, highlight=False)
    for path, what in (
        (folder.comparison_path, "this table, with an interval for every score"),
        (folder.metrics_path, "the same and more, for programs"),
        (folder.root / "stack", "the fitted stackers and what they predicted"),
    ):
        console.print(f"  {path}  [dim]{what}[/]", highlight=False, soft_wrap=True)


def _table(comparison: "Comparison") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("meta-level")
    headings = ["macro-F1\n[95 %]", "UAR", "wtd\nF1"]
    headings += [f"CCC\n{attribute[:3]}" for attribute in comparison.attributes]
    headings += ["log\nloss", "JSD", "ECE", "minus soft vote\n[95 %]", "p", "leak\ngap"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in comparison.rows:
        table.add_row(*_cells(row, comparison), style="dim" if row.is_baseline else "")
    return table


def _leaning(comparison: "Comparison") -> list[str]:
    """Say on which members the best stacker leans that does not treat them all alike."""
    for row in comparison.rows:
        if len(set(row.shares.values())) > 1:
            by_share = sorted(row.shares.items(), key=lambda one: -one[1])
            shown = ", ".join(f"{name} {share:.0%}" for name, share in by_share[:_SHOWN_MEMBERS])
            rest = sum(share for _, share in by_share[_SHOWN_MEMBERS:])
            others = f", {len(by_share) - _SHOWN_MEMBERS} more {rest:.0%}" if rest else ""
            return [f"{row.stacker} leans on {shown}{others}."]
    return []


def _cells(row: "ComparisonRow", comparison: "Comparison") -> list[str]:
    decimals = {"uar": 3, "weighted_f1": 3}
    decimals |= {f"ccc:{name}": 2 for name in comparison.attributes}
    decimals |= {"log_loss": 2, "jsd": 3, "ece": 3}
    difference = row.to_soft_vote.get("macro_f1")
    return [
        row.stacker,
        _with_interval(row.scores["macro_f1"]),
        *(_short(row.scores[name].value, decimals=count) for name, count in decimals.items()),
        "" if difference is None else _with_interval(difference, sign="+"),
        _p(row.p_to_soft_vote),
        _short(row.leak_gap, sign="+", decimals=2),
    ]


def _with_interval(scored: "Estimate | Difference", sign: str = "") -> str:
    if scored.low != scored.low:
        return _short(scored.value, sign)
    interval = f"[{_short(scored.low)},{_short(scored.high)}]"
    return f"{_short(scored.value, sign)} \\{interval}"


def _short(value: float, sign: str = "", decimals: int = 3) -> str:
    """Return a number without the zero before its point: .525, -.012, 1.200."""
    if value != value:
        return ""
    text = format(value, f"{sign}.{decimals}f")
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def _p(value: float) -> str:
    if value != value:
        return ""
    return "<.001" if value < 0.001 else _short(value)


def _legend(comparison: "Comparison") -> str:
    where = (
        "the test split, fitted on out-of-fold rows"
        if comparison.judged_on == "held-out"
        else "folds in turn, each by stackers fitted on the others"
    )
    if comparison.repeats > 1:
        where += f"; scores are means over {comparison.repeats} assignments of speakers to folds"
    return (
        f"{comparison.judged_rows} rows of {comparison.speakers} speakers ({where}); "
        f"{len(comparison.members)} members, {len(comparison.classes)} classes. Log-loss (nats) and JSD "
        "(bits) are against the votes, ECE against the consensus. p is Holm-corrected. Leak gap: macro-F1 on "
        "the rows fitted on, minus macro-F1 here."
    )
