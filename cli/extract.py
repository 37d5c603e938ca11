"""``sercache extract``: do it, foresee it, or check it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import extract_preview
from .cache_transfer import print_pushed, push_cache
from .console import command_context
from .options import (
    Address,
    Engine,
    Json,
    Source,
    engine_choice,
    given_options,
    is_recipe,
    refuse_options,
    split_names,
)
from .rendering import numbers, print_json, print_line, print_next, print_table, print_text

if TYPE_CHECKING:
    from sercache.extract.extraction import ExtractionReport
    from sercache.recipe import FeatureRecipe

_FEATURE_OPTIONS = ("time_pool", "dtype", "precision", "text_column", "trust_remote_code")
"""Options of a feature set, which a recipe has for each of its own."""


def extract(
    context: typer.Context,
    source: Source,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of the cache; with a recipe, the recipe's own.")
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            help="With a corpus: NAME or NAME:LAYERS (logmel, microsoft/wavlm-large:last4); repeatable."
        ),
    ] = None,
    time_pool: Annotated[int, typer.Option(min=1, help="With --encoder: average this many frames.")] = 1,
    dtype: Annotated[str, typer.Option(help="With --encoder: auto, float16, bfloat16 or float32.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="With --encoder: auto (measured), float32 or bfloat16.")
    ] = "auto",
    text_column: Annotated[
        str | None,
        typer.Option(
            help="With --encoder: column that text encoders read, as sercache transcribe writes it."
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="With --encoder: let Python code that comes with a checkpoint run."
        ),
    ] = False,
    devices: Annotated[
        str,
        typer.Option(
            "--devices",
            "--device",
            help="auto, cpu, cuda:0; several share the work: cuda:0,cuda:1 or cpu,cpu.",
        ),
    ] = "auto",
    max_failures: Annotated[
        int | None,
        typer.Option(
            min=0, help="Utterances that may fail per feature set; else 5 % of the corpus, at least 10."
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed before.")
    ] = False,
    replace_changed: Annotated[
        bool, typer.Option("--replace-changed", help="Extract anew what changed since it was extracted.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only estimate how long it would take and how much it would store."),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only check on a few clips that features are what they should be.")
    ] = False,
    check_clips: Annotated[int, typer.Option(min=2, help="With --check: how many clips.")] = 8,
    as_json: Json = False,
    push_to: Annotated[
        str | None,
        typer.Option("--push", metavar="URL", help="Upload the cache afterwards: s3://bucket/cache."),
    ] = None,
    task_range: Annotated[
        str | None,
        typer.Option(
            metavar="3/16",
            help="Do only this part of the tasks; env in a job array (Slurm, SGE, LSF; PBS: env/16).",
        ),
    ] = None,
    engine: Engine = "auto",
    address: Address = None,
) -> None:
    """Run every encoder over the corpus once and keep its features in the cache.

    Interrupt it as you like: the same command goes on from there, and redoes nothing that is finished.

    Example: sercache extract recipe.yaml

    Example: sercache extract corpus.csv --cache cache --encoder logmel --encoder microsoft/wavlm-large:last4
    """
    from sercache.corpus.manifest import read_corpus
    from sercache.engines.task_range import parse_task_range
    from sercache.errors import RecipeError
    from sercache.extract.extraction import extract as extract_features
    from sercache.recipe import load_recipe

    if is_recipe(source):
        if given := given_options(context, ("encoder", *_FEATURE_OPTIONS)):
            raise RecipeError(f"{source}: {', '.join(given)} goes with a corpus; a recipe names its encoders")
        from sercache.stacking.registry import check_recipe_names  # imports torch

        recipe = load_recipe(source)
        check_recipe_names(recipe)
        corpus_path, cache_root, features = recipe.corpus, cache or recipe.cache, recipe.features
    else:
        if cache is None or not encoder:
            raise RecipeError(
                f"{source}: a corpus needs --cache FOLDER and --encoder NAME; a recipe is .yaml"
            )
        options = {name: context.params[name] for name in _FEATURE_OPTIONS}
        corpus_path, cache_root = source, cache
        features = dict(_feature_recipe(request, options) for request in encoder)
    if not check:
        refuse_options(context, ["check_clips"], "goes with --check")
    device_names = split_names(devices)
    if dry_run:
        extract_preview.dry_run(
            read_corpus(corpus_path), features, cache_root, device_names, retry_failed, as_json
        )
        return
    if check:
        extract_preview.check(
            read_corpus(corpus_path), features, cache_root, device_names, check_clips, as_json
        )
        return
    with command_context() as work:
        report = extract_features(
            read_corpus(corpus_path),
            features,
            cache_root,
            devices=device_names,
            max_failures=max_failures,
            retry_failed=retry_failed,
            replace_changed=replace_changed,
            engine=engine_choice(engine, address),
            part=None if task_range is None else parse_task_range(task_range, os.environ),
            context=work,
        )
    if not as_json:
        _print_report(report)
    pushed = None if push_to is None else push_cache(cache_root, push_to)
    if as_json:
        print_json(report)
        return
    if pushed is not None:
        print_pushed(pushed)
    if elsewhere := max(feature.elsewhere for feature in report.features):
        print_text(
            f"{elsewhere:,} utterances are of other parts and not there yet; the same command without "
            "--task-range does what is missing."
        )
        return
    following = f"train-ensemble {source}" if is_recipe(source) else f"init {source} --cache {cache_root}"
    print_next(f"sercache {following}")


def _feature_recipe(request: str, options: "dict[str, object]") -> "tuple[str, FeatureRecipe]":
    """Return what to call a feature set, and its recipe, from ``NAME`` or ``NAME:LAYERS``."""
    from pydantic import ValidationError

    from sercache.cache.fingerprint import encoder_and_layers, encoder_name
    from sercache.errors import RecipeError
    from sercache.recipe import FeatureRecipe
    from sercache.validation import in_words

    name, layers = encoder_and_layers(request)
    try:
        recipe = FeatureRecipe.model_validate({"encoder": name, "layers": layers or "last", **options})
    except ValidationError as error:
        problem = error.errors()[0]
        raise RecipeError(f"--{'-'.join(map(str, problem['loc']))}: {in_words(problem)}") from None
    return (f"{encoder_name(name)}:{layers}" if layers else encoder_name(name)), recipe


def _print_report(report: "ExtractionReport") -> None:
    rows = [
        (
            feature.name,
            f"{feature.extracted + feature.reused:,}",
            f"{feature.extracted:,}",
            f"{feature.failed:,}",
            f"{feature.audio_seconds / 3600:.2f}" if feature.audio_seconds else "-",
            f"{feature.size_bytes / 1e9:.3f}",
            f"{feature.took_seconds:.1f}",
        )
        for feature in report.features
    ]
    print_table(["feature set", *numbers("utterances", "new", "failed", "hours", "GB", "seconds")], rows)
    for feature in report.features:
        print_line(f"  {feature.folder}", style="dim")
        if feature.failed:
            print_line(
                f"  {feature.failed:,} utterances have no features: {feature.folder / 'failures.csv'} gives "
                "the reasons, --retry-failed tries them again",
                style="yellow",
            )
