"""``sercache cache push``, ``pull`` and ``mirror``: a cache in an object store."""

from pathlib import Path
from typing import Annotated

import typer

from .common_options import Json

Url = Annotated[str, typer.Argument(metavar="URL", help="s3://bucket/cache, gs://..., hf://...")]


def push(
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="The cache's folder.")],
    url: Url,
    as_json: Json = False,
) -> None:
    """Upload what an object store lacks of a cache. A shard is seen there once all of it is.

    Several machines may push their parts to one place. Interrupt it as you like: the same command goes on.

    Example: sercache cache push cache s3://bucket/cache
    """
    from sercache.cache.remote import transfer

    from .console import command_context, console, print_json

    with command_context() as context:
        done = transfer.push(cache, url, context=context)
    if as_json:
        print_json(done)
        return
    console.print(
        f"pushed {done.shards:,} shards, {done.size_bytes / 1e9:.3f} GB; {done.were_there:,} were there",
        highlight=False,
    )


def pull(
    url: Url,
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="The cache's folder.")],
    as_json: Json = False,
) -> None:
    """Download what a cache lacks of an object store; every shard's digest is checked.

    Example: sercache cache pull s3://bucket/cache cache
    """
    from sercache.cache.remote import transfer

    from .console import command_context, console, print_json

    with command_context() as context:
        done = transfer.pull(url, cache, context=context)
    if as_json:
        print_json(done)
        return
    console.print(
        f"pulled {done.shards:,} shards, {done.size_bytes / 1e9:.3f} GB; {done.were_there:,} were there",
        highlight=False,
    )


def mirror(
    url: Url,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The mirror, which commands read as a cache.")
    ],
    limit_gb: Annotated[float, typer.Option(min=0.0, help="Most GB of shards that are kept here.")] = 100.0,
    as_json: Json = False,
) -> None:
    """Lay out a cache whose shards are fetched when they are read. Run it again to see what was pushed since.

    Example: sercache cache mirror s3://bucket/cache cache --limit-gb 50
    """
    from sercache.cache.remote.mirror import make_mirror

    from .console import command_context, console, print_json

    with command_context() as context:
        made = make_mirror(url, folder, round(limit_gb * 1e9), context=context)
    if as_json:
        print_json(made)
        return
    console.print(
        f"{folder}: {made.feature_sets} feature sets, {made.shards:,} shards, "
        f"{made.size_bytes / 1e9:.3f} GB; at most {limit_gb:g} GB are kept here",
        highlight=False,
    )
