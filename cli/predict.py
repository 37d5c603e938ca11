"""``sercache predict``."""

from collections.abc import Iterator
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sercache.events import QUIET

from .console import command_context, stdout_is_terminal
from .options import Bundle, Device, EncoderPlaces, Transcriber, TrustRemoteCode, split_pairs
from .rendering import print_line

if TYPE_CHECKING:
    from sercache.bundle.clips import ClipPrediction, FailedClip, Recording

    Answer = ClipPrediction | FailedClip

EXIT_SOME_FAILED = 1
_BAR = 20


class Form(StrEnum):
    """How answers are written."""

    table = "table"
    jsonl = "jsonl"
    csv = "csv"


def predict(
    bundle: Bundle,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="Recordings, folders of them, or - for a pipe.",
        ),
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Predict the rows of this manifest, with their texts and spans.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="With --corpus: train, development or test.")] = None,
    text: Annotated[str | None, typer.Option(help="What is said in the one recording.")] = None,
    speaker: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Who speaks in all the recordings; for bundles that normalise speakers.",
        ),
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="With --corpus: the column with what is said; else text.")
    ] = None,
    form: Annotated[
        Form | None,
        typer.Option("--format", help="Else a table on a terminal, JSON lines anywhere else."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here, .csv or .jsonl.")] = None,
    windows: Annotated[bool, typer.Option("--windows", help="A timeline of every recording, too.")] = False,
    window_seconds: Annotated[float, typer.Option(min=0.5, help="Length of a window.")] = 6.0,
    hop_seconds: Annotated[float, typer.Option(min=0.1, help="From window to window.")] = 3.0,
    device: Device = "auto",
    encoder: EncoderPlaces = None,
    transcriber: Transcriber = None,
    language: Annotated[
        str | None, typer.Option(help="Of what it transcribes, such as en; else detected.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Keep features here, and look them up.")] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Predict recordings: class, probabilities, attributes, and how far members disagree.

    A recording that cannot be predicted is a row with the reason; the exit code is then 1.

    Example: sercache predict demo-bundle call.wav interviews/

    Example: sercache predict demo-bundle --corpus corpus.csv --split test -o predictions.csv
    """
    import sys
    import tempfile
    from dataclasses import replace

    from sercache.bundle.clips import FailedClip, Windows
    from sercache.bundle.hub import find_bundle
    from sercache.bundle.recordings import recordings_at, recordings_from_pipe, recordings_of
    from sercache.corpus.manifest import read_corpus
    from sercache.errors import BundleError

    if bool(paths) == (corpus is not None):
        raise BundleError("name recordings or folders (or - for a pipe), or else a manifest with --corpus")
    shape = _form(form, output)
    with ExitStack() as stack:
        recordings: list[Recording]
        if corpus is not None:
            recordings = recordings_of(read_corpus(corpus), split, text_column)
        elif paths == [Path("-")]:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sercache-")))
            recordings = recordings_from_pipe(sys.stdin.buffer, folder, text)
        else:
            recordings = recordings_at(paths or [], text)
        if speaker is not None:
            recordings = [replace(recording, speaker=speaker) for recording in recordings]
        from sercache.bundle.predictor import Bundle as Predictor  # torch, only once it is needed

        context = stack.enter_context(command_context())
        predictor = Predictor.load(
            find_bundle(bundle),
            device=device,
            encoders=split_pairs("--encoder", encoder or (), "FEATURE=FOLDER or FEATURE=OWNER/NAME"),
            transcriber=transcriber,
            language=language,
            cache=cache,
            trust_remote_code=trust_remote_code,
            listener=context.listener,
        )
        if speaker is not None and not predictor.description.normalized_members:
            typer.echo("--speaker changes nothing: this bundle does not normalise speakers", err=True)
        cut = Windows(window_seconds, hop_seconds) if windows else None
        failed = 0

        def answers() -> "Iterator[Answer]":
            nonlocal failed
            # Where answers appear on the terminal, they are the progress.
            is_drawn = output is not None or not stdout_is_terminal()
            drawn = context if is_drawn else replace(context, listener=QUIET.listener)
            for answer in predictor.predict(recordings, windows=cut, context=drawn):
                failed += isinstance(answer, FailedClip)
                yield answer

        attributes = [attribute.name for attribute in predictor.attributes]
        _write(answers(), shape, output, predictor.classes, attributes)
    if failed:
        typer.echo(f"{failed} of {len(recordings)} could not be predicted", err=True)
        raise typer.Exit(EXIT_SOME_FAILED)


def _form(form: Form | None, output: Path | None) -> Form:
    from sercache.errors import BundleError

    if form is Form.table and output is not None:
        raise BundleError("a table is for the terminal; write .csv or .jsonl with --output")
    if form is not None:
        return form
    if output is not None:
        return Form.csv if output.suffix == ".csv" else Form.jsonl
    return Form.table if stdout_is_terminal() else Form.jsonl


def _write(
    answers: "Iterator[Answer]",
    form: Form,
    output: Path | None,
    classes: tuple[str, ...],
    attributes: list[str],
) -> None:
    import json

    from sercache.bundle.clips import as_csv
    from sercache.files import write_lines

    if form is Form.table and output is None:
        for answer in answers:
            _print_answer(answer)
        return
    if form is Form.csv:
        lines = as_csv(answers, classes, attributes)
    else:
        lines = (json.dumps(answer.as_dict(), ensure_ascii=False) for answer in answers)
    if output is None:
        for line in lines:
            typer.echo(line)
        return
    count = write_lines(output, lines)
    print_line(f"{output}: {count - (form is Form.csv):,} rows")


def _print_answer(answer: "Answer") -> None:
    """Print one recording: its name, then bars; a window is a line."""
    from sercache.bundle.clips import FailedClip

    if isinstance(answer, FailedClip):
        reason = answer.error.removeprefix(f"{answer.id}: ")
        print_line((answer.id, "bold"), "  ", (reason, "red"), "\n")
        return
    seconds = "" if answer.seconds != answer.seconds else f"  {answer.seconds:.1f} s"
    label = "" if answer.label is None else f"  {answer.label}"
    print_line((answer.id, "bold"), (label, "bold cyan"), (seconds, "dim"))
    if answer.text:
        print_line("  ", (f"“{answer.text}”", "dim"))
    width = max(map(len, answer.probabilities), default=0)
    for name, probability in sorted(answer.probabilities.items(), key=lambda item: -item[1]):
        bar = "█" * round(_BAR * probability)
        is_in = "  in the set" if name in answer.conformal_set else ""
        print_line(f"  {name:<{width}}  {probability:5.1%}  ", (f"{bar:<{_BAR}}", "cyan"), (is_in, "dim"))
    details = [f"{name} {value:.2f}" for name, value in answer.attributes.items()]
    if len(answer.members) > 1:
        details.append(f"members disagree {answer.disagreement:.0%}")
    if details:
        print_line("  ", ("   ".join(details), "dim"))
    for note in answer.notes:
        print_line("  ", (note, "yellow"))
    for window in answer.windows:
        values = "  ".join(f"{name} {value:.2f}" for name, value in window.attributes.items())
        span = f"{window.start_seconds:7.1f} - {window.end_seconds:.1f} s"
        label = ""
        if window.label is not None:
            label = f"{window.label:<{width}} {window.probabilities[window.label]:5.1%}  "
        print_line(f"  {span:<20}  {label}", (values, "dim"))
    print_line()
