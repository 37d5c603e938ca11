"""``sercache init``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Json, Manifest
from .rendering import plural, print_json, print_line, print_next

if TYPE_CHECKING:
    from sercache.first_recipe import Proposal


def init(
    manifest: Manifest,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the cache, whose feature sets are proposed; else embedded encoders are."
        ),
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME or NAME:LAYERS of an encoder to extract, with all its layers where the disk has room "
            "for them; repeatable."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The recipe to write, .yaml.")] = Path(
        "recipe.yaml"
    ),
    replace: Annotated[bool, typer.Option("--replace", help="Replace a recipe that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a first recipe for a corpus, with comments that explain it, and what people change.

    Proposes the feature sets that the cache holds and the encoders that you name, and estimates the GB that
    they take; linear members in closed form, which take seconds and are hard to beat, and a few neural ones,
    of a size for this number of clips; and the folds that the speakers allow. It trains as it is.

    Example: sercache init corpus.csv --encoder microsoft/wavlm-large --encoder openai/whisper-large-v3

    Example: sercache init corpus.csv --cache cache -o recipe.yaml
    """
    from sercache.corpus.manifest import read_corpus
    from sercache.errors import RecipeError
    from sercache.files import free_bytes, write_atomically
    from sercache.first_recipe import propose
    from sercache.first_recipe_text import recipe_text
    from sercache.recipe import load_recipe

    if output.exists() and not replace:
        raise RecipeError(f"{output} is there already; --replace replaces it, -o names another")
    if cache is not None and not cache.is_dir() and not encoder:
        raise RecipeError(
            f"{cache}: there is no such cache; with --encoder NAME sercache extract makes it, and without "
            "--cache it makes one beside the recipe"
        )
    proposal = propose(read_corpus(manifest), cache, encoder or (), free_bytes(cache or output.parent))
    write_atomically(output, recipe_text(proposal, output, manifest, cache))
    recipe = load_recipe(output)
    following = f"sercache {'train-ensemble' if proposal.is_cached else 'extract'} {output}"
    if as_json:
        print_json({"path": output, "recipe": recipe, "size_bytes": proposal.size_bytes, "next": following})
    else:
        _print_proposal(proposal, output, following)


def _print_proposal(proposal: "Proposal", output: Path, following: str) -> None:
    from sercache.first_recipe_text import gigabytes

    size = f", about {gigabytes(proposal.size_bytes)}" if proposal.size_bytes else ""
    where = "from the cache" if proposal.is_cached else f"to be extracted{size}"
    print_line(
        f"{output}: {plural(len(proposal.features), 'feature set')} ({where}), "
        f"{plural(len(proposal.members), 'member')}, {proposal.folds} folds"
    )
    for feature in proposal.features:
        if feature.with_all_layers_bytes is not None:
            print_line(
                f"  {feature.name}: all layers would take {gigabytes(feature.with_all_layers_bytes)}, and "
                f"{gigabytes(proposal.free_bytes)} are free; the last four are summed instead",
                style="yellow",
            )
    for feature in proposal.left_out:
        print_line(
            f"  {feature.name}: {feature.untried:,} utterances are not extracted yet; left out",
            style="yellow",
        )
    print_next(following)
