"""``sercache corpus``: import, check, show; report in a file of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sercache.errors import CorpusError

from .common_options import Json
from .corpus_report import corpus_report

if TYPE_CHECKING:
    from rich.table import Table

    from sercache.corpus import Corpus
    from sercache.corpus.check import Problem
    from sercache.corpus.summary import CorpusSummary, SplitSummary

app = typer.Typer(no_args_is_help=True, help="Import, check, show and report a corpus.")

Manifest = Annotated[Path, typer.Argument(metavar="CORPUS", help="The manifest, .csv or .parquet.")]

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

    from .console import print_json, say, say_next

    corpus = READERS[kind](root, _parse_options(option or []))
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
        labels = f"{_plural(len(corpus.attributes), 'attribute')} ({attributes}), no classes"
    say(f"{output}: {_plural(len(corpus), 'utterance')}, {_plural(len(speakers), 'speaker')}, {labels}")
    say_next(f"sercache corpus check {output}")


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

    from .console import command_context, print_json, say_next

    with command_context() as context:
        problems = check_corpus(manifest, decode=decode, context=context)
    if as_json:
        print_json(problems)
    else:
        _show_problems(manifest.name, problems, limit)
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(EXIT_PROBLEMS)
    if not as_json:
        say_next(f"sercache corpus report {manifest}")


@app.command()
def show(
    manifest: Manifest,
    speakers: Annotated[
        bool, typer.Option("--speakers", help="Count the utterances of each speaker.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Count classes, splits, speakers and hours, and say how far the raters disagree.

    Example: sercache corpus show corpus.csv
    """
    from sercache.corpus.manifest import read_corpus
    from sercache.corpus.summary import summarize

    from .console import print_json, say_next

    corpus = read_corpus(manifest)
    summary = summarize(corpus)
    if as_json:
        print_json(summary)
        return
    _show_counts(manifest.name, corpus, summary)
    if speakers:
        _show_speakers(summary)
    say_next(f"sercache corpus report {manifest}")


app.command("report")(corpus_report)


def _parse_options(pairs: list[str]) -> dict[str, str]:
    options = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key.strip():
            raise CorpusError(f"--option {pair}: expected KEY=VALUE")
        options[key.strip()] = value
    return options


def _show_problems(name: str, problems: "list[Problem]", limit: int) -> None:
    """Print one line per problem in the form that editors and grep know, ``corpus.csv:41: error: ...``."""
    from rich.text import Text

    from .console import console

    errors = [problem for problem in problems if problem.severity == "error"]
    warnings = [problem for problem in problems if problem.severity == "warning"]
    if limit and len(problems) > limit:
        listed = sorted([*errors, *warnings][:limit], key=lambda problem: problem.line)
    else:
        listed = problems
    for problem in listed:
        place = (f"{name}:{problem.line}: ", "dim")
        severity = (problem.severity, "bold red" if problem.severity == "error" else "bold yellow")
        subject = f"{problem.id}: " if problem.id else ""
        console.print(Text.assemble(place, severity, f": {subject}{problem.what}"), soft_wrap=True)
    if len(listed) < len(problems):
        console.print(f"... and {len(problems) - len(listed)} more (--limit 0 lists all)", highlight=False)
    if problems:
        counts = f"{_plural(len(errors), 'error')}, {_plural(len(warnings), 'warning')}"
        console.print(f"{name}: {counts}", highlight=False)
    else:
        console.print(f"{name}: no problems", highlight=False)


def _show_counts(name: str, corpus: "Corpus", summary: "CorpusSummary") -> None:
    from rich.table import Table

    from .console import console

    columns = {split: part for split, part in summary.splits.items() if len(summary.splits) > 1}
    columns["all"] = summary.total
    table = Table(title=name, title_justify="left", box=None, pad_edge=False, title_style="bold")
    table.add_column("")
    for heading in columns:
        table.add_column(heading, justify="right", style="bold" if heading == "all" else "")
    table.add_row("utterances", *(f"{part.utterances:,}" for part in columns.values()))
    table.add_row("speakers", *(f"{part.speakers:,}" for part in columns.values()))
    if summary.total.with_audio:
        table.add_row("with audio", *(f"{part.with_audio:,}" for part in columns.values()))
        table.add_row("hours", *(f"{part.hours:.2f}" for part in columns.values()))
    if summary.total.with_text:
        table.add_row("with text", *(f"{part.with_text:,}" for part in columns.values()))
    if corpus.classes or not corpus.attributes:
        _add_class_rows(table, corpus, columns)
    console.print(table)
    for index, attribute in enumerate(corpus.attributes):
        mean = summary.attribute_means[attribute.name]
        told = "nobody rated it" if mean is None else f"mean {mean:.2f}"
        if mean is not None and not corpus.classes:
            rated = sum(row.attributes[index] == row.attributes[index] for row in corpus.utterances)
            told += f", {_plural(rated, 'utterance')} rated"
        console.print(f"{attribute.name} [{attribute.low:g}..{attribute.high:g}]: {told}", markup=False)
    _show_notes(summary)


def _add_class_rows(table: "Table", corpus: "Corpus", columns: "Mapping[str, SplitSummary]") -> None:
    table.add_row("votes per utterance", *(f"{part.votes_per_utterance:.1f}" for part in columns.values()))
    table.add_row(
        "ambiguity (0 to 1)",
        *("-" if part.ambiguity is None else f"{part.ambiguity:.3f}" for part in columns.values()),
        end_section=True,
    )
    names = {"X": "X (no agreement)", "O": "O (other)"}
    for label in columns["all"].classes:
        if columns["all"].classes[label] or label in corpus.classes:
            cells = (f"{part.classes[label]:,}" for part in columns.values())
            table.add_row(names.get(label, label), *cells, style="" if label in corpus.classes else "dim")


def _show_notes(summary: "CorpusSummary") -> None:
    from .console import console

    untimed = summary.total.with_audio - summary.total.timed
    if untimed > 0:
        console.print(f"The duration of {_plural(untimed, 'recording')} is not known.", style="yellow")
    if anonymous := summary.speakers.get(None, 0):
        console.print(f"{_plural(anonymous, 'utterance')} without a speaker.", style="yellow")


def _show_speakers(summary: "CorpusSummary") -> None:
    from rich.table import Table

    from .console import console

    table = Table(box=None, pad_edge=False)
    table.add_column("speaker")
    table.add_column("utterances", justify="right")
    for speaker, count in sorted(summary.speakers.items(), key=lambda item: (item[0] is None, item[0])):
        table.add_row("(unknown)" if speaker is None else speaker, f"{count:,}")
    console.print()
    console.print(table)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
