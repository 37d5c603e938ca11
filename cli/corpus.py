"""``sercache corpus``: import, check, show; report in a file of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import command_context
from .corpus_report import corpus_report
from .options import Json, Manifest, split_pairs
from .rendering import Column, Row, numbers, plural, print_json, print_line, print_next, print_table

if TYPE_CHECKING:
    from sercache.corpus import Corpus
    from sercache.corpus.check import Problem
    from sercache.corpus.summary import CorpusSummary, SplitSummary

app = typer.Typer(no_args_is_help=True, help="Import, check, show and report a corpus.")

EXIT_PROBLEMS = 2


@app.command("import")
def import_corpus(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="cremad, csv, emobox, emodb, emotionlines, msp-podcast or ravdess; csv is any label table.",
        ),
    ],
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="The corpus's folder, as its publisher distributes it.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The manifest to write, .csv or .parquet.")
    ] = Path("corpus.csv"),
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="KEY=VALUE", help="An option of the reader; may come several times."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn a corpus as published into a manifest. Recordings stay where they are.

    Example: sercache corpus import emodb EmoDB/ -o emodb.csv

    Example: sercache corpus import csv recordings/ --option label=feeling --option rename=hap:Happy,sad:Sad
    """
    from sercache.corpus.manifest import write_corpus
    from sercache.corpus.readers.registry import READERS

    corpus = READERS[kind](root, split_pairs("--option", option or (), "KEY=VALUE"))
    write_corpus(corpus, output)
    speakers = {row.speaker for row in corpus.utterances} - {None}
    if as_json:
        counts = {"utterances": len(corpus), "speakers": len(speakers), "classes": corpus.classes}
        if not corpus.classes:
            counts["attributes"] = corpus.attribute_names
        print_json({"path": output, **counts})
        return
    labels = f"{len(corpus.classes)} classes ({', '.join(corpus.classes)})"
    if corpus.attributes and not corpus.classes:
        attributes = ", ".join(corpus.attribute_names)
        labels = f"{plural(len(corpus.attributes), 'attribute')} ({attributes}), no classes"
    print_line(f"{output}: {plural(len(corpus), 'utterance')}, {plural(len(speakers), 'speaker')}, {labels}")
    print_next(f"sercache corpus check {output}")


@app.command()
def check(
    manifest: Manifest,
    decode: Annotated[
        bool, typer.Option(help="Decode every recording to its end; --no-decode reads headers only.")
    ] = True,
    limit: Annotated[int, typer.Option(min=0, help="Most problems to list, errors first; 0: all.")] = 50,
    as_json: Json = False,
) -> None:
    """List everything that is wrong with a manifest, by line. Exits with code 2 if there are errors.

    Example: sercache corpus check corpus.csv
    """
    from sercache.corpus.check import check_corpus

    with command_context() as context:
        problems = check_corpus(manifest, decode=decode, context=context)
    if as_json:
        print_json(problems)
    else:
        _print_problems(manifest.name, problems, limit)
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(EXIT_PROBLEMS)
    if not as_json:
        print_next(f"sercache corpus report {manifest}")


@app.command()
def show(
    manifest: Manifest,
    speakers: Annotated[
        bool, typer.Option("--speakers", help="Count the utterances of each speaker.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Count classes, splits, speakers and hours, and measure how far the raters disagree.

    Example: sercache corpus show corpus.csv
    """
    from sercache.corpus.manifest import read_corpus
    from sercache.corpus.summary import summarize

    corpus = read_corpus(manifest)
    summary = summarize(corpus)
    if as_json:
        print_json(summary)
        return
    _print_summary(manifest.name, corpus, summary)
    if speakers:
        _print_speakers(summary)
    print_next(f"sercache corpus report {manifest}")


app.command("report")(corpus_report)


def _print_problems(name: str, problems: "list[Problem]", limit: int) -> None:
    """Print one line per problem in the form that editors and grep know, ``corpus.csv:41: error: ...``."""
    errors = [problem for problem in problems if problem.severity == "error"]
    warnings = [problem for problem in problems if problem.severity == "warning"]
    if limit and len(problems) > limit:
        listed = sorted([*errors, *warnings][:limit], key=lambda problem: problem.line)
    else:
        listed = problems
    for problem in listed:
        position = (f"{name}:{problem.line}: ", "dim")
        severity = (problem.severity, "bold red" if problem.severity == "error" else "bold yellow")
        subject = f"{problem.id}: " if problem.id else ""
        print_line(position, severity, f": {subject}{problem.what}")
    if len(listed) < len(problems):
        print_line(f"... and {len(problems) - len(listed)} more (--limit 0 lists all)")
    if problems:
        print_line(f"{name}: {plural(len(errors), 'error')}, {plural(len(warnings), 'warning')}")
    else:
        print_line(f"{name}: no problems")


def _print_summary(name: str, corpus: "Corpus", summary: "CorpusSummary") -> None:
    splits = {split: part for split, part in summary.splits.items() if len(summary.splits) > 1}
    parts = [*splits.values(), summary.total]
    rows = [
        ("utterances", *(f"{part.utterances:,}" for part in parts)),
        ("speakers", *(f"{part.speakers:,}" for part in parts)),
    ]
    if summary.total.with_audio:
        rows.append(("with audio", *(f"{part.with_audio:,}" for part in parts)))
        rows.append(("hours", *(f"{part.hours:.2f}" for part in parts)))
    if summary.total.with_text:
        rows.append(("with text", *(f"{part.with_text:,}" for part in parts)))
    class_rows = _class_rows(corpus, parts) if corpus.classes or not corpus.attributes else []
    columns = [Column(), *numbers(*splits), Column("all", is_number=True, style="bold")]
    print_table(columns, [*rows, *class_rows], title=name)
    for attribute in corpus.attributes:
        mean, rated = summary.attribute_means[attribute.name], summary.attribute_counts[attribute.name]
        described = "nobody rated it" if mean is None else f"mean {mean:.2f}"
        if mean is not None and not corpus.classes:
            described += f", {plural(rated, 'utterance')} rated"
        print_line(f"{attribute.name} [{attribute.low:g}..{attribute.high:g}]: {described}")
    untimed = summary.total.with_audio - summary.total.timed
    if untimed > 0:
        print_line(f"The duration of {plural(untimed, 'recording')} is not known.", style="yellow")
    if anonymous := summary.speakers.get(None, 0):
        print_line(f"{plural(anonymous, 'utterance')} without a speaker.", style="yellow")


def _class_rows(corpus: "Corpus", parts: "list[SplitSummary]") -> list[Row]:
    ambiguities = ("-" if part.ambiguity is None else f"{part.ambiguity:.3f}" for part in parts)
    rows = [
        Row(("votes per utterance", *(f"{part.votes_per_utterance:.1f}" for part in parts))),
        Row(("ambiguity (0 to 1)", *ambiguities)),
    ]
    names = {"X": "X (no agreement)", "O": "O (other)"}
    total = parts[-1]
    for label in total.classes:
        if total.classes[label] or label in corpus.classes:
            counts = (f"{part.classes[label]:,}" for part in parts)
            rows.append(Row((names.get(label, label), *counts), "" if label in corpus.classes else "dim"))
    return rows


def _print_speakers(summary: "CorpusSummary") -> None:
    ordered = sorted(summary.speakers.items(), key=lambda item: (item[0] is None, item[0]))
    rows = [("(unknown)" if speaker is None else speaker, f"{count:,}") for speaker, count in ordered]
    print_line()
    print_table(["speaker", *numbers("utterances")], rows)
