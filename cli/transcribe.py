"""``sercache transcribe``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import command_context
from .options import Device, Json, Manifest
from .rendering import print_json, print_line, print_next

if TYPE_CHECKING:
    from sercache.extract.transcribe.transcription import TranscriptionReport


def transcribe(
    corpus: Manifest,
    model: Annotated[str, typer.Option(help="A Whisper model: a hub name, or the folder of a checkpoint.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the corpus; else where it was.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Code of the language, such as en; else it is detected, clip by clip.")
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        str, typer.Option(help="auto (bfloat16 on a GPU that computes in it), float32 or bfloat16.")
    ] = "auto",
    max_failures: Annotated[
        int | None,
        typer.Option(min=0, help="Utterances that may fail; else 5 % of the corpus, at least 10."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Transcribe again what was transcribed before.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write what was said into a new column of the corpus, text:MODEL, for text encoders to read.

    A second column, text:MODEL:flags, marks what is doubtful: silence (nobody speaks; the text is then
    empty), repeat (the model fell into a loop), empty, failed. Interrupt it as you like: the same command
    goes on from there. What was heard stays in a journal beside the corpus, so new rows cost only themselves.

    Example: sercache transcribe corpus.csv --model openai/whisper-large-v3 --language en
    """
    from sercache.corpus.manifest import read_corpus, write_corpus
    from sercache.devices import computes_in_bfloat16, resolve_device
    from sercache.errors import SercacheError
    from sercache.extract.transcribe.transcription import transcribe_corpus
    from sercache.extract.transcribe.whisper import WhisperTranscriber

    if precision not in ("auto", "float32", "bfloat16"):
        raise SercacheError(f"--precision {precision}: write auto, float32 or bfloat16")
    target, utterances = output or corpus, read_corpus(corpus)
    torch_device = resolve_device(device)
    is_coarse = precision == "bfloat16" or (precision == "auto" and computes_in_bfloat16(torch_device))
    transcriber = WhisperTranscriber(
        model, language=language, device=torch_device, precision="bfloat16" if is_coarse else "float32"
    )
    with command_context() as context:
        report = transcribe_corpus(
            utterances,
            transcriber,
            target.with_name(f"{target.name}.transcripts"),
            language=language,
            device=torch_device,
            max_failures=max_failures,
            again=again,
            context=context,
        )
    write_corpus(report.corpus, target)
    if as_json:
        names = ("column", "folder", "transcribed", "reused", "failed", "flagged")
        print_json({"path": target, **{name: getattr(report, name) for name in names}})
    else:
        _print_report(report, target)


def _print_report(report: "TranscriptionReport", target: Path) -> None:
    print_line(f"{report.transcribed:,} transcribed now, {report.reused:,} before, {report.failed:,} failed")
    for flag, ids in report.flagged.items():
        first = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
        print_line(f"  {flag}: {len(ids):,} ({first})", style="yellow")
    if report.failed:
        print_line(f"  {report.folder / 'failures.csv'} says why", style="yellow")
    print_line(f"{target}: column '{report.column}'")
    print_next(f'in a recipe, text_column: "{report.column}" for a text encoder')
