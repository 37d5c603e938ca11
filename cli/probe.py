"""``sercache probe``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import command_context
from .options import FeatureSets, Json, Manifest
from .rendering import (
    Column,
    Row,
    numbers,
    print_heading,
    print_json,
    print_next,
    print_note,
    print_paths,
    print_table,
    print_text,
)

if TYPE_CHECKING:
    from sercache.experiments.layer_probe import LayerReport

_BAR_WIDTH = 10


def probe(
    path: FeatureSets,
    corpus_path: Manifest,
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
    """Find the cached layer of an encoder that is best on a corpus: a ridge regression on each, out of fold.

    Keep all layers first (layers: all in the recipe); then prune to the best.

    Example: sercache probe cache/wavlm-0123456789ab corpus.csv
    """
    from sercache.cache.store import open_feature_sets
    from sercache.corpus.manifest import read_corpus
    from sercache.experiments.layer_probe import as_json as report_as_json
    from sercache.experiments.layer_probe import probe_layers, save_probe

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
    written: list[Path | None] = []
    for report in reports:
        path_of_report = output
        if output is not None and len(reports) > 1:
            path_of_report = output.with_stem(f"{output.stem}-{report.folder.name}")
        if path_of_report is not None:
            save_probe(report, path_of_report)
        written.append(path_of_report)
    if as_json:
        print_json([report_as_json(report) for report in reports])
        return
    for report, path_of_report in zip(reports, written, strict=True):
        _print_report(report, path_of_report)


def _print_report(report: "LayerReport", written: Path | None) -> None:
    from sercache.reporting.wording import interval, p_value

    print_heading(report.folder.name)
    has_classes = report.layers[0].uar is not None
    columns = [
        Column("layer", no_wrap=True, overflow="ellipsis"),
        *numbers(f"{report.primary.name} [95 %]", no_wrap=True),
        Column(no_wrap=True, min_width=_BAR_WIDTH),
        *(numbers("UAR") if has_classes else []),
        *numbers(*(f"CCC {name}" if has_classes else f"CCC\n{name[:3]}" for name in report.layers[0].ccc)),
        *numbers("minus the best [95 %]", no_wrap=True),
        *numbers("p"),
    ]
    highest = max(layer.score.value for layer in report.layers)
    rows = []
    for layer in report.layers:
        behind = layer.behind_best
        bar = "━" * max(1, round(_BAR_WIDTH * layer.score.value / max(highest, 1e-9)))
        cells = (
            layer.name,
            interval(layer.score),
            bar,
            *([f"{layer.uar.value:.3f}"] if layer.uar is not None else []),
            *(f"{ccc.value:.3f}" for ccc in layer.ccc.values()),
            "best" if behind is None else interval(behind, "+"),
            "" if behind is None else p_value(layer.p_value).text,
        )
        rows.append(Row(cells, "dim" if layer.is_clearly_worse else ""))
    rows.append(Row(("chosen without looking", interval(report.chosen_blindly))))
    print_table(columns, rows)
    blind = ", ".join(dict.fromkeys(report.blind_choices))
    print_note(
        f"Chosen without looking: for each fold the layer that is best on other speakers ({blind}); what a "
        f"choice among {len(report.layers)} is honestly worth. Intervals over speakers; p: as good as the "
        "best, corrected for having picked it."
    )
    print_text(report.verdict)
    if written is not None:
        print_paths([(written, "this table, for programs")])
    if len([layer for layer in report.layers if layer.request]) > 1:
        print_next(
            f"sercache cache prune {report.folder} --keep-layers {report.best_kept.request}  "
            f"(frees {report.freed_bytes / 1e9:.3g} GB)"
        )
