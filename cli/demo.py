"""``sercache demo``."""

from pathlib import Path
from typing import Annotated

import typer

_PREDICTED = "f01_00"


def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the sample, its cache and its run go.")
    ] = Path("sercache-demo"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
) -> None:
    """Run the whole way on the bundled synthetic sample: corpus, extract, train-ensemble, stack, predict.

    Offline, with the two embedded encoders. Interrupt it as you like: the same command goes on.

    Example: sercache demo
    """
    import time

    from sercache.corpus.manifest import read_corpus
    from sercache.files import copy_sample
    from sercache.recipe import load_recipe

    from . import bundle, corpus, extract, predict, stack, train_ensemble
    from .console import console

    started = time.monotonic()
    recipe_path = copy_sample(folder)
    recipe = load_recipe(recipe_path)

    def announce(command: str) -> None:
        console.print(f"\n[bold]$ sercache {command}[/]", highlight=False, soft_wrap=True)

    announce(f"corpus show {recipe.corpus}")
    corpus.show(recipe.corpus)
    announce(f"extract {recipe_path}")
    extract.extract(recipe_path, devices=device)
    announce(f"train-ensemble {recipe_path}")
    train_ensemble.train_ensemble(recipe_path, device=device)
    announce(f"stack {recipe.output}")
    stack.stack([recipe.output])
    bundle_folder = folder / "bundle"
    announce(f"bundle {recipe.output} -o {bundle_folder}")
    bundle.bundle(recipe.output, bundle_folder, replace=True)
    [heard] = read_corpus(recipe.corpus).select([_PREDICTED]).utterances
    recording = recipe.corpus.parent / "audio" / f"{_PREDICTED}.ogg"
    announce(f"predict {bundle_folder} {recording} --text '{heard.text}'")
    predict.predict(str(bundle_folder), [recording], text=heard.text, form=predict.Form.table)

    console.print(f"\n[bold]Done in {time.monotonic() - started:.0f} s.[/] What lies where:", highlight=False)
    for path, what in (
        (recipe.corpus, "the manifest, beside its recordings"),
        (recipe_path, "the recipe: change it and run the three commands above"),
        (recipe.cache, "features, plain HDF5"),
        (recipe.output / "members", "fold models and their out-of-fold posteriors"),
        (recipe.output / "comparison.csv", "the table above"),
        (bundle_folder, "all that predicts a new recording"),
        (recipe.output / "report.html", "all of it in pictures: open it in a browser"),
    ):
        console.print(f"  {path}  [dim]{what}[/]", highlight=False, soft_wrap=True)
    console.print("\nThe sample is synthetic speech: its figures say nothing about real emotion.")
