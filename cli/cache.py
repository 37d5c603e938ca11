"""``sercache cache``: ``ls``, ``info`` and ``verify`` here, what changes a cache in ``cache_tools``."""

from pathlib import Path
from typing import Annotated

import typer

from . import cache_remote, cache_tools
from .cache_folders import describe_feature_set, open_feature_sets
from .common_options import Json

app = typer.Typer(help="Look into a cache, mend it, change what it holds.", no_args_is_help=True)


@app.command("ls")
def list_feature_sets(
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="Folder of the cache.")],
    as_json: Json = False,
) -> None:
    """List the feature sets of a cache.

    Example: sercache cache ls cache
    """
    from rich.table import Table

    from sercache.cache.fingerprint import shortened

    from .console import console, print_json

    if as_json:
        print_json([describe_feature_set(feature_set) for feature_set in open_feature_sets(cache)])
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("encoder", overflow="fold")
    table.add_column("layers", overflow="fold")
    table.add_column("stored")
    table.add_column("fingerprint", no_wrap=True)
    for heading in ("utterances", "hours", "GB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for feature_set in open_feature_sets(cache):
        spec = feature_set.spec
        table.add_row(
            spec.encoder,
            shortened(spec.layers),
            f"{spec.dtype}, pool {spec.time_pool}" if spec.time_pool > 1 else spec.dtype,
            spec.fingerprint[:12],
            f"{len(feature_set):,}",
            f"{feature_set.seconds / 3600:.2f}" if spec.modality == "audio" else "-",
            f"{feature_set.size_bytes / 1e9:.3f}",
        )
    console.print(table)


@app.command("info")
def describe(
    path: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a feature set, or of a cache.")],
    as_json: Json = False,
) -> None:
    """Print everything that a feature set's fingerprint covers, and what it holds.

    Example: sercache cache info cache/logmel-0123456789ab
    """
    from sercache.cache.ledger import Ledger

    from .console import console, print_json

    if as_json:
        described = [describe_feature_set(feature_set) for feature_set in open_feature_sets(path)]
        print_json(described)
        return
    for feature_set in open_feature_sets(path):
        console.print(str(feature_set.folder), style="bold", highlight=False, markup=False, soft_wrap=True)
        counts = feature_set.frame_counts(feature_set.ids)
        held = {
            "fingerprint": feature_set.spec.fingerprint,
            "utterances": f"{len(feature_set):,}",
            "failed": f"{len(Ledger(feature_set.folder).failures):,}",
            "frames": f"{counts.sum():,} ({counts.mean():.0f} an utterance)" if len(counts) else "0",
            "hours": f"{feature_set.seconds / 3600:.2f}",
            "size": f"{feature_set.size_bytes / 1e9:.3f} GB in {len(feature_set.shard_paths)} shards",
        }
        for name, value in {**feature_set.spec.provenance(), **held}.items():
            console.print(f"  {name:<16} {value}", highlight=False, markup=False, soft_wrap=True)


@app.command("verify")
def verify_cache(
    path: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a feature set, or of a cache.")],
    sources: Annotated[
        Path | None,
        typer.Option(help="A corpus: also compare its audio and text with what was extracted."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read every byte, and name the utterances whose frames are not what was written.

    Exits with code 2 if there are any.

    Example: sercache cache verify cache --sources corpus.csv
    """
    from sercache.cache.verify import verify, verify_sources
    from sercache.corpus.manifest import read_corpus
    from sercache.errors import CacheError

    from .console import command_context, console, print_json

    feature_sets = open_feature_sets(path)
    corpus = None if sources is None else read_corpus(sources)
    rotten = []
    with command_context() as context:
        for feature_set in feature_sets:
            found = verify(feature_set, context=context)
            if corpus is not None and not found:
                found = verify_sources(feature_set, corpus, context=context)
            rotten += found
    if as_json:
        print_json(rotten)
    for one in () if as_json else rotten:
        who = "every utterance in it" if one.utterance_id is None else one.utterance_id
        console.print(f"{one.path}: {who}: {one.what}", highlight=False, markup=False, soft_wrap=True)
    if rotten:
        raise CacheError(
            f"{path}: {len(rotten):,} findings; sercache cache repair extracts again what is damaged, "
            "sercache extract --replace-changed what has changed"
        )
    if as_json:
        return
    held = sum(len(feature_set) for feature_set in feature_sets)
    what = "every checksum and every source fits" if sources else "every checksum fits"
    sets = "1 feature set" if len(feature_sets) == 1 else f"{len(feature_sets)} feature sets"
    console.print(f"{what}: {held:,} utterances in {sets}", highlight=False)


app.command("du")(cache_tools.du)
app.command("repair")(cache_tools.repair)
app.command("prune")(cache_tools.prune)
app.command("merge")(cache_tools.merge)
app.command("export")(cache_tools.export)
app.command("import")(cache_tools.import_frames)
app.command("push")(cache_remote.push)
app.command("pull")(cache_remote.pull)
app.command("mirror")(cache_remote.mirror)
