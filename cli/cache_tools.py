"""``sercache cache repair``, ``prune``, ``merge``, ``export``, ``import`` and ``du``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .cache_folders import open_feature_sets
from .common_options import Json

if TYPE_CHECKING:
    from sercache.cache.store import FeatureSet


def du(
    path: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a cache, or of a feature set.")],
    as_json: Json = False,
) -> None:
    """Show what a cache takes on disk, and for what.

    Example: sercache cache du cache
    """
    import shutil

    from rich.table import Table

    from sercache.cache.fingerprint import shortened
    from sercache.cache.usage import usage_of

    from .console import console, print_json

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
                for usage in map(usage_of, open_feature_sets(path))
            ]
        )
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("feature set", "layers"):
        table.add_column(heading, overflow="fold")
    for heading in ("GB", "GB a layer", "overhead", "failures", "left over"):
        table.add_column(heading, justify="right", no_wrap=True)
    total = 0
    for feature_set in open_feature_sets(path):
        usage = usage_of(feature_set)
        total += usage.total_bytes
        table.add_row(
            feature_set.folder.name,
            shortened(feature_set.layers),
            f"{usage.total_bytes / 1e9:.3f}",
            f"{max(usage.layer_bytes.values()) / 1e9:.3f}",
            f"{(usage.overhead_bytes + usage.other_bytes) / max(1, usage.total_bytes):.2%}",
            f"{usage.failures:,}",
            f"{usage.temporary_bytes / 1e9:.3f} GB" if usage.temporary_bytes else "-",
        )
    console.print(table)
    free = shutil.disk_usage(path).free
    console.print(f"in all {total / 1e9:.3f} GB; {free / 1e9:,.1f} GB are free", highlight=False)


def repair(
    path: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a feature set, or of a cache.")],
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A recipe, .yaml; or a manifest, .csv or .parquet.")
    ],
    encoder: Annotated[
        list[str] | None, typer.Option(help="Folder of a local checkpoint; hub names are known. Repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let Python code that comes with a checkpoint run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Verify, and extract again just what is damaged.

    Exits with code 2 if something could not be mended.

    Example: sercache cache repair cache corpus.csv
    """
    from sercache.cache.fingerprint import encoder_name
    from sercache.corpus.manifest import read_corpus
    from sercache.errors import CacheError
    from sercache.extract.repair import repair as mend
    from sercache.recipe import load_recipe

    from .console import command_context, print_json, say

    places = list(encoder or [])
    corpus_path = source
    if source.suffix.lower() in (".yaml", ".yml"):
        recipe = load_recipe(source)
        corpus_path = recipe.corpus
        places += [feature.encoder for feature in recipe.features.values()]
    folders = {encoder_name(place): place for place in reversed(places)}
    corpus = read_corpus(corpus_path)
    lost, reports = [], []
    with command_context() as context:
        for feature_set in open_feature_sets(path):
            name = feature_set.spec.encoder
            column = feature_set.spec.options.get("text_column")
            done = mend(
                feature_set,
                corpus,
                folders.get(name, name),
                device=device,
                trust_remote_code=trust_remote_code,
                context=context,
            )
            text = f" (texts: {column})" if column else ""
            reports.append(done)
            if not as_json:
                say(f"{done.folder}: {len(done.found):,} findings, {done.extracted:,} extracted again{text}")
            lost += [f"{utterance_id} in {done.folder}" for utterance_id in done.lost]
    if as_json:
        print_json(reports)
    if lost:
        raise CacheError(
            f"{len(lost):,} utterances could not be extracted again, first {lost[0]}: not in the corpus, or "
            "failed (failures.csv); the damaged frames are gone"
        )


def prune(
    path: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a cache, or of a feature set.")],
    keep_layers: Annotated[
        str | None, typer.Option(help="Keep these of several layers: 6,9,12 (needs one feature set).")
    ] = None,
    keep_corpus: Annotated[Path | None, typer.Option(help="Drop what is not in this corpus.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Only feature sets of this encoder.")] = None,
    fingerprint: Annotated[str | None, typer.Option(help="Only the one that begins so.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Make a cache smaller: fewer layers, fewer utterances, or whole feature sets less.

    Without --keep-layers and --keep-corpus the chosen feature sets are removed.

    Example: sercache cache prune cache/wavlm-0123456789ab --keep-layers 9

    Example: sercache cache prune cache --keep-corpus corpus.csv --dry-run

    Example: sercache cache prune cache --encoder microsoft/wavlm-large
    """
    from sercache.cache import prune as pruning
    from sercache.corpus.manifest import read_corpus
    from sercache.errors import CacheError

    from .console import command_context, console, say_next

    if keep_layers and keep_corpus:
        raise CacheError("one at a time: --keep-layers or --keep-corpus")
    chosen = [
        feature_set
        for feature_set in open_feature_sets(path)
        if (encoder is None or feature_set.spec.encoder == encoder)
        and feature_set.spec.fingerprint.startswith(fingerprint or "")
    ]
    if not chosen:
        raise CacheError(
            f"{path}: no feature set is of that encoder and fingerprint; sercache cache ls lists all"
        )
    if not (keep_layers or keep_corpus or encoder or fingerprint or (path / "feature_set.json").exists()):
        raise CacheError("what is to go? --keep-layers, --keep-corpus, --encoder or --fingerprint")
    ids = frozenset(read_corpus(keep_corpus).ids) if keep_corpus else None
    plans = []
    for feature_set in chosen:
        what, share = _pruned(feature_set, keep_layers, ids)
        plans.append((feature_set, what))
        console.print(
            f"{feature_set.folder}: {what}, frees {share * feature_set.size_bytes / 1e9:.3f} GB",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    if dry_run:
        return
    if not yes and not typer.confirm("Go on?"):
        raise typer.Exit(1)
    with command_context() as context:
        for feature_set, _ in plans:
            if keep_layers:
                layers = pruning.kept_layers(feature_set, keep_layers)
                pruning.keep_layers(feature_set, layers, context=context)
            elif ids is not None:
                pruning.keep_utterances(feature_set, ids)
            else:
                pruning.remove_feature_set(feature_set)
    swept = path if not (path / "feature_set.json").exists() else path.parent
    pruning.remove_leftovers(swept)
    say_next(f"sercache cache du {swept}")


def _pruned(
    feature_set: "FeatureSet", keep_layers: str | None, ids: frozenset[str] | None
) -> tuple[str, float]:
    """Return what would become of a feature set, and which share of it that frees."""
    from sercache.cache.prune import kept_layers

    if keep_layers:
        layers = kept_layers(feature_set, keep_layers)
        return f"keeps {', '.join(layers)}", 1 - len(layers) / len(feature_set.layers)
    if ids is not None:
        gone = [utterance_id for utterance_id in feature_set.ids if utterance_id not in ids]
        frames = feature_set.frame_counts(list(feature_set.ids)).sum()
        return f"drops {len(gone):,} utterances", float(feature_set.frame_counts(gone).sum() / max(1, frames))
    return "goes", 1.0


def merge(
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="Cache to merge into; it is made where there is none.")
    ],
    sources: Annotated[
        list[Path], typer.Argument(metavar="CACHE", help="Caches to take from; they stay as they are.")
    ],
    as_json: Json = False,
) -> None:
    """Put caches together that were made on several machines.

    Utterances that two of them hold must have the same frames; otherwise nothing is changed.

    Example: sercache cache merge cache from-node-1 from-node-2
    """
    from sercache.cache.merge import merge as merge_caches

    from .console import command_context, console, print_json, say_next

    with command_context() as context:
        merged = merge_caches(target, sources, context=context)
    if as_json:
        print_json(
            [{"folder": one.feature_set.folder, "added": one.added, "known": one.known} for one in merged]
        )
        return
    for one in merged:
        console.print(
            f"{one.feature_set.folder}: {one.added:,} utterances added, {one.known:,} were there, "
            f"{len(one.feature_set):,} now",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    say_next(f"sercache cache ls {target}")


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
    """Write frames for other tools; index.csv says which file holds which utterance.

    Example: sercache cache export cache/logmel-0123456789ab frames --format safetensors
    """
    from sercache.cache.exchange.exporting import export as export_frames

    from .console import command_context, console, print_json

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
    console.print(
        f"{done.folder}: {done.utterances:,} utterances in {done.files:,} files",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def import_frames(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="With one .npy per utterance, deep or flat.")
    ],
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="Folder of the cache.")],
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

    from .console import command_context, console, print_json, say_next

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
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    say_next(f"sercache init {corpus} --cache {cache}")
