"""Copies of caches: ``sercache cache export``, ``import``, ``push``, ``pull`` and ``mirror``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .console import command_context
from .options import Cache, Json
from .rendering import print_json, print_line, print_next

if TYPE_CHECKING:
    from sercache.cache.remote.transfer import Transfer

Url = Annotated[str, typer.Argument(metavar="URL", help="s3://bucket/cache, gs://..., hf://...")]


def export(
    feature_set: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a feature set.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder to write to.")],
    format: Annotated[
        Literal["npy", "safetensors"], typer.Option(help="A file per utterance, or files of some 256 MB.")
    ] = "npy",
    layer: Annotated[str | None, typer.Option(help="Which of several kept layers.")] = None,
    float32: Annotated[bool, typer.Option("--float32", help="Convert to float32.")] = False,
    as_json: Json = False,
) -> None:
    """Write frames for other tools; index.csv lists which file holds which utterance.

    Example: sercache cache export cache/logmel-0123456789ab frames --format safetensors
    """
    from sercache.cache.exchange.exporting import export as export_frames
    from sercache.cache.store import open_feature_sets

    (found,) = open_feature_sets(feature_set, only_one=True)
    with command_context() as context:
        done = export_frames(
            found,
            output,
            format,
            layer=layer,
            as_float32=float32,
            context=context,
        )
    if as_json:
        print_json(done)
        return
    print_line(f"{done.folder}: {done.utterances:,} utterances in {done.files:,} files")


def import_frames(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="With one .npy per utterance, deep or flat.")
    ],
    cache: Cache,
    corpus: Annotated[Path, typer.Option(help="The corpus; files are named after its ids or recordings.")],
    encoder: Annotated[str, typer.Option(help="What to call the encoder, as a recipe will.")],
    layers: Annotated[str, typer.Option(help="What the frames are: last, last4, 12, ...")] = "last",
    num_layers: Annotated[int, typer.Option(min=0, help="With --layers: how many the encoder has.")] = 0,
    frame_rate: Annotated[float, typer.Option(min=0.01, help="Frames per second of audio.")] = 50.0,
    modality: Annotated[Literal["audio", "text"], typer.Option(help="What the encoder read.")] = "audio",
    as_json: Json = False,
) -> None:
    """Bring frames that another tool made into the cache; their provenance is marked as foreign.

    Example: sercache cache import wavlm-npy cache --corpus corpus.csv --encoder microsoft/wavlm-large
    --layers last4 --num-layers 24
    """
    from sercache.cache.exchange.importing import ForeignFrames, import_npy
    from sercache.cache.layers import parse_layers
    from sercache.corpus.manifest import read_corpus

    names = parse_layers(layers, num_layers).names
    foreign = ForeignFrames(encoder, modality, names, num_layers, None if modality == "text" else frame_rate)
    with command_context() as context:
        done = import_npy(
            folder,
            cache,
            read_corpus(corpus),
            foreign,
            context=context,
        )
    if as_json:
        print_json(
            {
                "folder": done.feature_set.folder,
                "utterances": done.utterances,
                "without_file": done.without_file,
                "unused_files": done.unused_files,
            }
        )
        return
    lines = [f"{done.feature_set.folder}: {done.utterances:,} utterances"]
    if done.without_file:
        lines.append(f"  {len(done.without_file):,} utterances have no file, first '{done.without_file[0]}'")
    if done.unused_files:
        lines.append(f"  {done.unused_files:,} files belong to no utterance of the corpus")
    for line in lines:
        print_line(line)
    print_next(f"sercache init {corpus} --cache {cache}")


def push(
    cache: Cache,
    url: Url,
    as_json: Json = False,
) -> None:
    """Upload what an object store lacks of a cache. A shard is seen there once all of it is.

    Several machines may push their parts to one place. Interrupt it as you like: the same command goes on.

    Example: sercache cache push cache s3://bucket/cache
    """
    done = push_cache(cache, url)
    if as_json:
        print_json(done)
    else:
        print_pushed(done)


def push_cache(cache: Path, url: str) -> "Transfer":
    """Upload what an object store lacks of a cache, with a progress bar."""
    from sercache.cache.remote import transfer

    with command_context() as context:
        return transfer.push(cache, url, context=context)


def print_pushed(done: "Transfer") -> None:
    """Print what was uploaded."""
    print_line(
        f"pushed {done.shards:,} shards, {done.size_bytes / 1e9:.3f} GB; {done.were_there:,} were there"
    )


def pull(
    url: Url,
    cache: Cache,
    as_json: Json = False,
) -> None:
    """Download what a cache lacks of an object store; every shard's digest is checked.

    Example: sercache cache pull s3://bucket/cache cache
    """
    from sercache.cache.remote import transfer

    with command_context() as context:
        done = transfer.pull(url, cache, context=context)
    if as_json:
        print_json(done)
        return
    print_line(
        f"pulled {done.shards:,} shards, {done.size_bytes / 1e9:.3f} GB; {done.were_there:,} were there"
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

    with command_context() as context:
        made = make_mirror(url, folder, round(limit_gb * 1e9), context=context)
    if as_json:
        print_json(made)
        return
    print_line(
        f"{folder}: {made.feature_sets} feature sets, {made.shards:,} shards, "
        f"{made.size_bytes / 1e9:.3f} GB; at most {limit_gb:g} GB are kept here"
    )
