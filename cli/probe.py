"""``sercache probe``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common_options import Json

if TYPE_CHECKING:
    from sercache.evaluation.bootstrap import Estimate
    from sercache.experiments.layer_probe import LayerReport

_BAR_WIDTH = 10


def probe(
    path: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a feature set, or of a cache.")],
    corpus_path: Annotated[Path, typer.Argument(metavar="CORPUS", help="The manifest, .csv or .parquet.")],
    folds: Annotated[int, typer.Option(min=2, help="Speaker-disjoint folds.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the folds and of the bootstrap.")] = 0,
    deviation: Annotated[
        bool, typer.Option("--deviation/--mean-only", help="Pool deviations over time besides means.")
    ] = True,
    sums: Annotated[bool, typer.Option("--sums", help="Also the sum of all kept layers.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a .csv; of a cache, one per feature set.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say which cached layer of an encoder is best on a corpus: a ridge regression on each, out of fold.

    Keep all layers first (layers: all in the recipe); then prune to the best.

    Example: sercache probe cache/wavlm-0123456789ab corpus.csv
    """
    from sercache.corpus.manifest import read_corpus
    from sercache.experiments.layer_probe import as_json as report_as_json
    from sercache.experiments.layer_probe import probe_layers, save_probe

    from .cache_folders import open_feature_sets
    from .console import command_context, print_json

    corpus = read_corpus(corpus_path)
    feature_sets = open_feature_sets(path)
    reports = []
    with command_context() as context:
        for feature_set in feature_sets:
            reports.append(
                probe_layers(
                    feature_set,
                    corpus,
                    folds=folds,
                    seed=seed,
                    deviation=deviation,
                    with_sum=sums,
                    context=context,
                )
            )
    written: list[Path | None] = [None] * len(reports)
    for place, report in enumerate(reports):
        if output is not None:
            name = f"{output.stem}-{report.folder.name}{output.suffix}" if len(reports) > 1 else output.name
            written[place] = output.with_name(name)
            save_probe(report, output.with_name(name))
    if as_json:
        print_json([report_as_json(report) for report in reports])
        return
    for report, place_written in zip(reports, written, strict=True):
        _show(report, place_written)


def _show(report: "LayerReport", written: Path | None) -> None:
    from rich.table import Table

    from .console import console, say_next

    console.print(report.folder.name, style="bold", highlight=False, markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    has_classes = report.layers[0].uar is not None
    table.add_column(f"{report.primary.name} [95 %]", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=_BAR_WIDTH)
    if has_classes:
        table.add_column("UAR", justify="right")
    for name in report.layers[0].ccc:
        heading = f"CCC {name}" if has_classes else f"CCC\n{name[:3]}"
        table.add_column(heading, justify="right")
    table.add_column("minus the best [95 %]", justify="right", no_wrap=True)
    table.add_column("p", justify="right")
    highest = max(layer.score.value for layer in report.layers)
    for layer in report.layers:
        behind = layer.behind_best
        bar = "━" * max(1, round(_BAR_WIDTH * layer.score.value / max(highest, 1e-9)))
        table.add_row(
            layer.name,
            _with_interval(layer.score),
            bar,
            *([f"{layer.uar.value:.3f}"] if layer.uar is not None else []),
            *(f"{one.value:.3f}" for one in layer.ccc.values()),
            "best" if behind is None else f"{behind.value:+.3f} \\[{behind.low:+.3f}, {behind.high:+.3f}]",
            "" if behind is None else f"{layer.p_value:.3f}",
            style="dim" if layer.is_clearly_worse else "",
        )
    table.add_section()
    blind = ", ".join(dict.fromkeys(report.blind_choices))
    table.add_row("chosen without looking", _with_interval(report.chosen_blindly))
    console.print(table)
    console.print(
        f"Chosen without looking: for each fold the layer that is best on other speakers ({blind}); what a "
        f"choice among {len(report.layers)} is honestly worth. Intervals over speakers; p: as good as the "
        "best, corrected for having picked it.",
        style="dim",
        highlight=False,
        markup=False,
    )
    console.print(report.verdict, highlight=False, markup=False)
    if written is not None:
        console.print(f"  {written}  [dim]this table, for programs[/]", highlight=False, soft_wrap=True)
    if len([layer for layer in report.layers if layer.request]) > 1:
        kept = report.best_kept
        freed = report.size_bytes * (1 - 1 / sum(bool(layer.request) for layer in report.layers))
        say_next(
            f"sercache cache prune {report.folder} --keep-layers {kept.request}  (frees {freed / 1e9:.3g} GB)"
        )


def _with_interval(estimate: "Estimate") -> str:
    return f"{estimate.value:.3f} \\[{estimate.low:.3f}, {estimate.high:.3f}]"
