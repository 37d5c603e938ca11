"""The command ``sercache``: its subcommands, and how errors reach the screen."""

import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

import sercache
from sercache.errors import Interrupted, SercacheError

from . import (
    ablate,
    audit,
    bench,
    bundle,
    cache,
    compare,
    corpus,
    demo,
    distill,
    doctor,
    extract,
    finetune,
    init,
    plan,
    predict,
    probe,
    report,
    serve,
    stack,
    train_ensemble,
    transcribe,
    tune,
)
from .console import is_verbose, set_verbosity

app = typer.Typer(
    name="sercache",
    help="Extract speech-emotion features once, train an ensemble from them, compare meta-levels honestly.",
    epilog="Start with: sercache demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: dict[str, dict[str, typer.Typer | Callable[..., None]]] = {
    "Corpus": {
        "corpus": corpus.app,
        "transcribe": transcribe.transcribe,
        "init": init.init,
    },
    "Features": {
        "extract": extract.extract,
        "plan": plan.plan,
        "probe": probe.probe,
        "cache": cache.app,
    },
    "Training": {
        "train-ensemble": train_ensemble.train_ensemble,
        "tune": tune.tune,
        "ablate": ablate.ablate,
        "finetune": finetune.finetune,
    },
    "Meta-level": {
        "stack": stack.stack,
        "audit": audit.audit,
        "report": report.report,
        "compare": compare.compare,
    },
    "Use": {
        "bundle": bundle.bundle,
        "predict": predict.predict,
        "serve": serve.serve,
        "distill": distill.distill,
    },
    "Looking after": {
        "demo": demo.demo,
        "doctor": doctor.doctor,
    },
    "Measuring": {
        "bench": bench.app,
    },
}
"""All commands, by the panel of ``sercache --help`` that lists them."""

for _panel, _commands in COMMANDS.items():
    for _name, _command in _commands.items():
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, name=_name, rich_help_panel=_panel)
        else:
            app.command(_name, rich_help_panel=_panel)(_command)

_STARTED = time.monotonic()
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
_EVERYWHERE = ("-q", "--quiet", "-v", "--verbose")
_UsageError: Any = typer.BadParameter.__base__
"""Click's, wherever typer has its click from: the package, or within itself."""

_USER_REPAIRABLE = {
    errno.ENOSPC,
    errno.EACCES,
    errno.EROFS,
    errno.EDQUOT,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EEXIST,
}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sercache {sercache.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Results and warnings only. Goes anywhere, as --verbose does."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="The library's log, and how long things take, too.")
    ] = False,
) -> None:
    """Options of every command."""
    if quiet and verbose:
        raise SercacheError("--quiet or --verbose, not both")
    if quiet or verbose:
        set_verbosity("quiet" if quiet else "verbose")


def main() -> None:
    """Run the command line; an error that the user can repair is one line on stderr and exit code 2."""
    # Threads of torch that spin long while they wait take the cores from our own decoding, and from everybody
    # else's work: on a busy machine that is three times slower. It is read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    arguments = _options_first(sys.argv[1:])
    try:
        code = app(args=arguments, prog_name="sercache", standalone_mode=False)
    except _UsageError as error:
        code = _explain(error)
    except typer.Abort:
        _fail("nothing was done", 1)
    except Interrupted as interrupted:
        _fail(str(interrupted), EXIT_INTERRUPTED)
    except SercacheError as error:
        _fail(str(error), EXIT_BAD_INPUT)
    except OSError as error:
        if error.errno not in _USER_REPAIRABLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror}; what was finished is kept, the same command goes on from there", 2)
    finally:
        _print_costs()
    sys.exit(code or 0)


def _options_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with those that every command knows before the command's name.

    >>> _options_first(["extract", "recipe.yaml", "-q", "--", "-v"])
    ['-q', 'extract', 'recipe.yaml', '--', '-v']
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    before, after = arguments[:end], arguments[end:]
    common = [argument for argument in before if argument in _EVERYWHERE]
    return [*common, *(argument for argument in before if argument not in _EVERYWHERE), *after]


def _explain(error: Any) -> int:
    """Print in a line what is wrong with the arguments, and how to learn more; return the exit code."""
    context = error.ctx
    command = context.command_path if context is not None else "sercache"
    if type(error).__name__ == "NoArgsIsHelpError":
        if text := error.format_message().strip():  # else the help is on the screen already
            typer.echo(text)
        return EXIT_BAD_INPUT
    problem = " ".join(error.format_message().split()).rstrip(".")
    _fail(f"{problem[:1].lower()}{problem[1:]} ({command} --help)", error.exit_code)
    raise AssertionError


def _print_costs() -> None:
    if not is_verbose():
        return
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    typer.echo(f"took {time.monotonic() - _STARTED:.1f} s, {peak:,.0f} MB of memory at most", err=True)


def _fail(message: str, code: int) -> None:
    color = False if os.environ.get("NO_COLOR") else None
    typer.secho("sercache: ", fg="red", bold=True, nl=False, err=True, color=color)
    typer.echo(message, err=True)
    sys.exit(code)


if __name__ == "__main__":  # torchrun and accelerate launch start modules
    main()
