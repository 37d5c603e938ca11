"""``sercache cache repair``, ``prune`` and ``merge``: what changes a cache."""

from pathlib import Path
from typing import Annotated

import typer

from .console import command_context
from .options import Device, FeatureSets, Json, Source, is_recipe
from .rendering import plural, print_json, print_line, print_next


def repair(
    path: FeatureSets,
    source: Source,
    encoder: Annotated[
        list[str] | None, typer.Option(help="Folder of a local checkpoint; hub names are known. Repeatable.")
    ] = None,
    device: Device = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let Python code that comes with a checkpoint run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Verify, and extract again just what is damaged.

    Exits with code 2 if something could not be repaired.

    Example: sercache cache repair cache corpus.csv
    """
    from sercache.cache.fingerprint import encoder_name
    from sercache.cache.store import open_feature_sets
    from sercache.corpus.manifest import read_corpus
    from sercache.errors import CacheError
    from sercache.extract.repair import repair as repair_feature_set
    from sercache.recipe import load_recipe

    encoders = list(encoder or [])
    corpus_path = source
    if is_recipe(source):
        recipe = load_recipe(source)
        corpus_path = recipe.corpus
        encoders += [feature.encoder for feature in recipe.features.values()]
    folders = {encoder_name(name): name for name in reversed(encoders)}
    corpus = read_corpus(corpus_path)
    lost, reports = [], []
    with command_context() as context:
        for feature_set in open_feature_sets(path):
            name = feature_set.spec.encoder
            column = feature_set.spec.options.get("text_column")
            done = repair_feature_set(
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
                print_line(
                    f"{done.folder}: {len(done.found):,} findings, {done.extracted:,} extracted again{text}"
                )
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Make a cache smaller: fewer layers, fewer utterances, or whole feature sets less.

    Without --keep-layers and --keep-corpus the chosen feature sets are removed.

    Example: sercache cache prune cache/wavlm-0123456789ab --keep-layers 9

    Example: sercache cache prune cache --keep-corpus corpus.csv --dry-run

    Example: sercache cache prune cache --encoder microsoft/wavlm-large
    """
    from sercache.cache import prune as pruning
    from sercache.cache.store import DESCRIPTION_NAME, open_feature_sets
    from sercache.corpus.manifest import read_corpus
    from sercache.errors import CacheError

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
    if not (keep_layers or keep_corpus or encoder or fingerprint or (path / DESCRIPTION_NAME).exists()):
        raise CacheError("what is to go? --keep-layers, --keep-corpus, --encoder or --fingerprint")
    ids = frozenset(read_corpus(keep_corpus).ids) if keep_corpus else None
    for feature_set in chosen:
        if keep_layers:
            kept = pruning.kept_layers(feature_set, keep_layers)
            change, freed = f"keeps {', '.join(kept)}", pruning.freed_by_layers(feature_set, kept)
        elif ids is not None:
            dropped = [utterance_id for utterance_id in feature_set.ids if utterance_id not in ids]
            freed = pruning.freed_by_utterances(feature_set, dropped)
            change = f"drops {plural(len(dropped), 'utterance')}"
        else:
            change, freed = "is removed", float(feature_set.size_bytes)
        print_line(f"{feature_set.folder}: {change}, frees {freed / 1e9:.3f} GB")
    if dry_run:
        return
    if not yes and not typer.confirm("Go on?"):
        raise typer.Exit(1)
    with command_context() as context:
        for feature_set in chosen:
            if keep_layers:
                layers = pruning.kept_layers(feature_set, keep_layers)
                pruning.keep_layers(feature_set, layers, context=context)
            elif ids is not None:
                pruning.keep_utterances(feature_set, ids)
            else:
                pruning.remove_feature_set(feature_set)
    swept = path if not (path / DESCRIPTION_NAME).exists() else path.parent
    pruning.remove_leftovers(swept)
    print_next(f"sercache cache du {swept}")


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

    with command_context() as context:
        merged = merge_caches(target, sources, context=context)
    if as_json:
        print_json(
            [
                {"folder": report.feature_set.folder, "added": report.added, "known": report.known}
                for report in merged
            ]
        )
        return
    for report in merged:
        print_line(
            f"{report.feature_set.folder}: {report.added:,} utterances added, {report.known:,} were there, "
            f"{len(report.feature_set):,} now"
        )
    print_next(f"sercache cache ls {target}")
