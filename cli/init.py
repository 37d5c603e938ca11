"""``sercache init``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common_options import Json

if TYPE_CHECKING:
    from sercache.first_recipe import Proposal


def init(
    manifest: Annotated[Path, typer.Argument(metavar="CORPUS", help="The manifest, .csv or .parquet.")],
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the cache, whose feature sets are proposed; else embedded encoders are."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The recipe to write, .yaml.")] = Path(
        "recipe.yaml"
    ),
    replace: Annotated[bool, typer.Option("--replace", help="Replace a recipe that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a first recipe for a corpus and a cache, with comments that say why, and what people change.

    Proposes the feature sets that the cache holds, members that fuse them, each alone and a linear one, sizes
    for this number of clips, and the folds that the speakers allow. It trains as it is.

    Example: sercache init corpus.csv --cache cache -o recipe.yaml
    """
    from sercache.corpus.manifest import read_corpus
    from sercache.errors import RecipeError
    from sercache.files import write_atomically
    from sercache.first_recipe import propose
    from sercache.first_recipe_text import recipe_text
    from sercache.recipe import load_recipe

    from .console import print_json

    if output.exists() and not replace:
        raise RecipeError(f"{output} is there already; --replace replaces it, -o names another")
    if cache is not None and not cache.is_dir():
        raise RecipeError(
            f"{cache}: there is no such cache; leave --cache out, and sercache extract makes one"
        )
    proposal = propose(read_corpus(manifest), cache)
    write_atomically(output, recipe_text(proposal, output, manifest, cache))
    recipe = load_recipe(output)
    following = f"sercache {'train-ensemble' if proposal.is_cached else 'extract'} {output}"
    if as_json:
        print_json({"path": output, "recipe": recipe, "next": following})
    else:
        _show(proposal, output, following)


def _show(proposal: "Proposal", output: Path, following: str) -> None:
    from .console import say, say_next

    features, members = len(proposal.features), len(proposal.members)
    where = "from the cache" if proposal.is_cached else "to be extracted"
    say(
        f"{output}: {features} feature set{'s' if features != 1 else ''} ({where}), "
        f"{members} member{'s' if members != 1 else ''}, {proposal.folds} folds"
    )
    for feature in proposal.left_out:
        say(
            f"  {feature.name}: {feature.untried:,} utterances are not extracted yet; left out",
            style="yellow",
        )
    say_next(following)
