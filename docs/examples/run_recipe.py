"""Run a recipe from Python: extract, train-ensemble, stack.

python run_recipe.py RECIPE
"""

import sys
from pathlib import Path

from sercache.corpus.manifest import read_corpus
from sercache.events import Context, Event
from sercache.extract.extraction import extract
from sercache.recipe import load_recipe
from sercache.run import Run
from sercache.stacking.comparison import compare
from sercache.training.ensemble import train_ensemble


def tell(event: Event) -> None:
    """Listen to what the library does; it never prints."""
    if event.kind in ("finish", "warning"):
        print(event.kind, event.task, event.message or "")


def main(recipe_path: Path, workers: int | None = None) -> Run:
    recipe = load_recipe(recipe_path)
    extract(read_corpus(recipe.corpus), recipe.features, recipe.cache, context=Context(listener=tell))
    report = train_ensemble(recipe, workers=workers, context=Context(listener=tell))
    for member in report.members:
        print(f"{member.name}: macro-F1 {member.macro_f1:.3f} out of fold, {member.rows} rows")
    comparison = compare(report.run, context=Context(listener=tell))
    for row in comparison.rows:
        f1 = row.scores["macro_f1"]
        print(f"{row.stacker}: {f1.value:.3f} [{f1.low:.3f}, {f1.high:.3f}]")
    print(*comparison.verdict, sep="\n")
    return report.run


if __name__ == "__main__":  # worker processes import this file
    main(Path(sys.argv[1]))
