"""``sercache cache``: its commands ``ls``, ``info``, ``verify`` and ``du``, and the list of all."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import cache_changes, cache_transfer
from .console import command_context
from .options import Cache, FeatureSets, Json
from .rendering import (
    Column,
    numbers,
    plural,
    print_heading,
    print_json,
    print_line,
    print_table,
)

if TYPE_CHECKING:
    from sercache.cache.store import FeatureSet

app = typer.Typer(help="Look into a cache, repair it, change what it holds.", no_args_is_help=True)


@app.command("ls")
def list_feature_sets(cache: Cache, as_json: Json = False) -> None:
    """List the feature sets of a cache.

    Example: sercache cache ls cache
    """
    from sercache.cache.fingerprint import shortened
    from sercache.cache.store import open_feature_sets

    feature_sets = open_feature_sets(cache)
    if as_json:
        print_json([_described(feature_set) for feature_set in feature_sets])
        return
    rows = []
    for feature_set in feature_sets:
        spec = feature_set.spec
        rows.append(
            (
                spec.encoder,
                shortened(spec.layers),
                f"{spec.dtype}, pool {spec.time_pool}" if spec.time_pool > 1 else str(spec.dtype),
                spec.fingerprint[:12],
                f"{len(feature_set):,}",
                f"{feature_set.seconds / 3600:.2f}" if spec.modality == "audio" else "-",
                f"{feature_set.size_bytes / 1e9:.3f}",
            )
        )
    columns = [*map(Column, ("encoder", "layers", "stored")), Column("fingerprint", no_wrap=True)]
    print_table([*columns, *numbers("utterances", "hours", "GB", no_wrap=True)], rows)


@app.command("info")
def describe(path: FeatureSets, as_json: Json = False) -> None:
    """Print everything that a feature set's fingerprint covers, and what it holds.

    Example: sercache cache info cache/logmel-0123456789ab
    """
    from sercache.cache.ledger import Ledger
    from sercache.cache.store import open_feature_sets

    feature_sets = open_feature_sets(path)
    if as_json:
        print_json([_described(feature_set) for feature_set in feature_sets])
        return
    for feature_set in feature_sets:
        print_heading(str(feature_set.folder))
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
            print_line(f"  {name:<16} {value}")


def _described(feature_set: "FeatureSet") -> dict[str, object]:
    """Return what ``--json`` prints of a feature set."""
    from sercache.cache.ledger import Ledger

    return {
        "folder": feature_set.folder,
        "fingerprint": feature_set.spec.fingerprint,
        "utterances": len(feature_set),
        "failed": len(Ledger(feature_set.folder).failures),
        "seconds": feature_set.seconds,
        "size_bytes": feature_set.size_bytes,
        "shards": len(feature_set.shard_paths),
        **feature_set.spec.provenance(),
    }


@app.command("verify")
def verify_cache(
    path: FeatureSets,
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
    from sercache.cache.store import open_feature_sets
    from sercache.cache.verify import verify, verify_sources
    from sercache.corpus.manifest import read_corpus
    from sercache.errors import CacheError

    feature_sets = open_feature_sets(path)
    corpus = None if sources is None else read_corpus(sources)
    damage = []
    with command_context() as context:
        for feature_set in feature_sets:
            found = verify(feature_set, context=context)
            if corpus is not None and not found:
                found = verify_sources(feature_set, corpus, context=context)
            damage += found
    if as_json:
        print_json(damage)
    else:
        for finding in damage:
            subject = "every utterance in it" if finding.utterance_id is None else finding.utterance_id
            print_line(f"{finding.path}: {subject}: {finding.what}")
    if damage:
        raise CacheError(
            f"{path}: {len(damage):,} findings; sercache cache repair extracts again what is damaged, "
            "sercache extract --replace-changed what has changed"
        )
    if as_json:
        return
    held = sum(len(feature_set) for feature_set in feature_sets)
    what = "every checksum and every source fits" if sources else "every checksum fits"
    print_line(f"{what}: {held:,} utterances in {plural(len(feature_sets), 'feature set')}")


@app.command("du")
def show_usage(path: FeatureSets, as_json: Json = False) -> None:
    """Show what a cache takes on disk, and for what.

    Example: sercache cache du cache
    """
    from sercache.cache.fingerprint import shortened
    from sercache.cache.store import open_feature_sets
    from sercache.cache.usage import usage_of

    usages = [usage_of(feature_set) for feature_set in open_feature_sets(path)]
    if as_json:
        print_json(
            [
                {
                    "folder": usage.feature_set.folder,
                    "total_bytes": usage.total_bytes,
                    "layer_bytes": usage.layer_bytes,
                    "overhead_bytes": usage.overhead_bytes + usage.other_bytes,
                    "temporary_bytes": usage.temporary_bytes,
                    "failures": usage.failures,
                }
                for usage in usages
            ]
        )
        return
    rows = [
        (
            usage.feature_set.folder.name,
            shortened(usage.feature_set.layers),
            f"{usage.total_bytes / 1e9:.3f}",
            f"{max(usage.layer_bytes.values()) / 1e9:.3f}",
            f"{(usage.overhead_bytes + usage.other_bytes) / max(1, usage.total_bytes):.2%}",
            f"{usage.failures:,}",
            f"{usage.temporary_bytes / 1e9:.3f} GB" if usage.temporary_bytes else "-",
        )
        for usage in usages
    ]
    headings = numbers("GB", "GB a layer", "overhead", "failures", "left over", no_wrap=True)
    print_table(["feature set", "layers", *headings], rows)
    total = sum(usage.total_bytes for usage in usages)
    print_line(f"in all {total / 1e9:.3f} GB; {shutil.disk_usage(path).free / 1e9:,.1f} GB are free")


app.command("repair")(cache_changes.repair)
app.command("prune")(cache_changes.prune)
app.command("merge")(cache_changes.merge)
app.command("export")(cache_transfer.export)
app.command("import")(cache_transfer.import_frames)
app.command("push")(cache_transfer.push)
app.command("pull")(cache_transfer.pull)
app.command("mirror")(cache_transfer.mirror)
