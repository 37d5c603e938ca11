"""The options of commands that can run elsewhere: ``--engine`` and ``--address``."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sercache.engines.registry import EngineChoice

EngineName = Annotated[
    str, typer.Option("--engine", help="Where tasks run: auto, in-process, processes, ray (a cluster).")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="With --engine ray: auto, HOST:PORT or ray://HOST:PORT; without, Ray is started here.",
    ),
]


def engine_choice(name: str, address: str | None) -> "EngineChoice":
    """Return the engine that the options name."""
    from sercache.engines.registry import EngineChoice

    return EngineChoice(name, address)
