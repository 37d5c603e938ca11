"""``sercache demo``."""

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from .options import Device
from .rendering import print_line, print_paths

_PREDICTED = "f01_00"


def demo(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the sample, its cache and its run go.")
    ] = Path("sercache-demo"),
    device: Device = "auto",
) -> None:
    """Run the whole way on the bundled synthetic sample: corpus, extract, train-ensemble, stack, predict.

    Offline, with the two embedded encoders. Interrupt it as you like: the same command goes on.

    Example: sercache demo
    """
    from sercache.corpus.manifest import read_corpus
    from sercache.files import copy_sample
    from sercache.recipe import load_recipe

    started = time.monotonic()
    recipe_path = copy_sample(folder)
    recipe = load_recipe(recipe_path)
    bundle = folder / "bundle"
    [clip] = read_corpus(recipe.corpus).select([_PREDICTED]).utterances
    recording = recipe.corpus.parent / "audio" / f"{_PREDICTED}.ogg"

    def run(*arguments: str | Path, unseen: tuple[str, ...] = ()) -> None:
        """Print a command and run it, with further arguments that are not printed."""
        words = [str(argument) for argument in arguments]
        print_line((f"\n$ sercache {shlex.join(words)}", "bold"))
        code = context.find_root().command.main([*words, *unseen], "sercache", standalone_mode=False)
        if code:
            raise typer.Exit(code)

    on_device = ("--device", device)
    run("corpus", "show", recipe.corpus)
    run("extract", recipe_path, unseen=on_device)
    run("train-ensemble", recipe_path, unseen=on_device)
    run("stack", recipe.output)
    run("bundle", recipe.output, "-o", bundle, unseen=("--replace",))
    run("predict", bundle, recording, "--text", clip.text or "", unseen=("--format", "table"))

    print_line((f"\nDone in {time.monotonic() - started:.0f} s.", "bold"), " What lies where:")
    print_paths(
        [
            (recipe.corpus, "the manifest, beside its recordings"),
            (recipe_path, "the recipe: change it and run the three commands above"),
            (recipe.cache, "features, plain HDF5"),
            (recipe.output / "members", "fold models and their out-of-fold posteriors"),
            (recipe.output / "comparison.csv", "the table above"),
            (bundle, "all that predicts a new recording"),
            (recipe.output / "report.html", "all of it in pictures: open it in a browser"),
        ]
    )
    print_line("\nThe sample is synthetic speech: its figures say nothing about real emotion.")
