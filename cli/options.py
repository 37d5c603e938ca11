"""Options and arguments that mean the same in several commands, and how their values are read."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sercache.errors import SercacheError

if TYPE_CHECKING:
    from sercache.engines.registry import EngineChoice

Recipe = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, .yaml.")]
Manifest = Annotated[Path, typer.Argument(metavar="CORPUS", help="The manifest, .csv or .parquet.")]
Source = Annotated[
    Path, typer.Argument(metavar="SOURCE", help="A recipe, .yaml; or a manifest, .csv or .parquet.")
]
Cache = Annotated[Path, typer.Argument(metavar="CACHE", help="Folder of the cache.")]
FeatureSets = Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a feature set, or of a cache.")]
Bundle = Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle: its folder, or OWNER/NAME.")]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")]
Page = Annotated[Path | None, typer.Option("--output", "-o", help="Write an HTML page.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes that train side by side; else one per core, on a GPU one in all."),
]
Engine = Annotated[
    str, typer.Option("--engine", help="Where tasks run: auto, in-process, processes, ray (a cluster).")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="With --engine ray: auto, HOST:PORT or ray://HOST:PORT; without, Ray is started here.",
    ),
]
EncoderPlaces = Annotated[
    list[str] | None,
    typer.Option(metavar="FEATURE=WHERE", help="Where an encoder lies that is not in the bundle."),
]
Transcriber = Annotated[str | None, typer.Option(help="The Whisper model for recordings without a text.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let Python code that comes with an encoder run.")
]


def engine_choice(name: str, address: str | None) -> "EngineChoice":
    """Return the engine that the options name."""
    from sercache.engines.registry import EngineChoice

    return EngineChoice(name, address)


def is_recipe(source: Path) -> bool:
    """Return whether a file is a recipe, by its suffix; otherwise it is a manifest."""
    return source.suffix.lower() in (".yaml", ".yml")


def given_options(context: typer.Context, names: Iterable[str]) -> list[str]:
    """Return which of these parameters were given on the command line, as options: ``--time-pool``."""
    given = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name != "DEFAULT":
            given.append(parameter.opts[0])
    return given


def refuse_options(context: typer.Context, names: Iterable[str], reason: str) -> None:
    """Refuse options that were given and do not apply.

    Raises:
        SercacheError: one of them was given; ``reason`` says what it goes with.
    """
    if given := given_options(context, names):
        raise SercacheError(f"{', '.join(given)} {reason}")


def split_names(*texts: str) -> list[str]:
    """Return the names in texts that may list several, separated by commas.

    >>> split_names("ridge, logistic", "mean,")
    ['ridge', 'logistic', 'mean']
    """
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def split_pairs(option: str, texts: Iterable[str], form: str) -> dict[str, str]:
    """Return the values of an option that names them, such as ``--encoder wavlm=FOLDER``.

    Args:
        option: the option, for the message.
        texts: what was given.
        form: how to write it, for the message: ``KEY=VALUE``.

    Raises:
        SercacheError: a text is not of that form.
    """
    pairs = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise SercacheError(f"{option} {text}: expected {form}")
        pairs[key.strip()] = value
    return pairs
