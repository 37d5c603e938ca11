"""The command ``sercache``: its subcommands, and how errors reach the screen."""

import errno
import os
import sys
from typing import Annotated

import typer

import sercache
from sercache.errors import Interrupted, SercacheError

from . import (
    ablate,
    audit,
    bench,
    bundle,
    cache,
    corpus,
    demo,
    doctor,
    extract,
    plan,
    predict,
    probe,
    stack,
    train_ensemble,
    transcribe,
    tune,
)

app = typer.Typer(
    name="sercache",
    help="Extract speech-emotion features once, train an ensemble from them, compare meta-levels honestly.",
    epilog="Start with: sercache demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(corpus.app, name="corpus")
app.command("transcribe")(transcribe.transcribe)
app.command("extract")(extract.extract)
app.command("plan")(plan.plan)
app.command("train-ensemble")(train_ensemble.train_ensemble)
app.command("stack")(stack.stack)
app.command("bundle")(bundle.bundle)
app.command("predict")(predict.predict)
app.command("audit")(audit.audit)
app.command("probe")(probe.probe)
app.command("ablate")(ablate.ablate)
app.command("tune")(tune.tune)
app.add_typer(cache.app, name="cache")
app.add_typer(bench.app, name="bench")
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
_USER_MENDABLE = {
    errno.ENOSPC,
    errno.EACCES,
    errno.EROFS,
    errno.EDQUOT,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EEXIST,
}


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sercache {sercache.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Options before the command's name."""


def main() -> None:
    """Run the command line; an error that the user can mend is one line on stderr and exit code 2."""
    # Threads of torch that spin long while they wait take the cores from our own decoding, and from everybody
    # else's work: on a busy machine that is three times slower. It is read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    try:
        app()
    except Interrupted as interrupted:
        _fail(str(interrupted), EXIT_INTERRUPTED)
    except SercacheError as error:
        _fail(str(error), EXIT_BAD_INPUT)
    except OSError as error:
        if error.errno not in _USER_MENDABLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror}; what was finished is kept, the same command goes on from there", 2)


def _fail(message: str, code: int) -> None:
    typer.secho("sercache: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(message, err=True)
    sys.exit(code)
