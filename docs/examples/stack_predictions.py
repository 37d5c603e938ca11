"""Stack predictions that any system wrote.

python stack_predictions.py CORPUS OUTPUT PREDICTIONS...

Each file has a column `id` and a column per class. Rows of the development split are fitted on, rows of the
test split are scored on.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from sercache.corpus.manifest import read_corpus
from sercache.recipe import StackingRecipe
from sercache.run import Run
from sercache.stacking.comparison import compare_rows
from sercache.stacking.external.members import rows_of_predictions
from sercache.stacking.registry import load_stacker
from sercache.stacking.table import Comparison


def main(corpus: Path, output: Path, files: Sequence[Path]) -> Comparison:
    rows = rows_of_predictions(files, read_corpus(corpus))
    settings = StackingRecipe(stackers=["best-single", "soft-vote", "weighted", "logistic"])
    run = Run(output)
    comparison = compare_rows(rows, settings, seed=0, run=run)
    for row in comparison.rows:
        print(f"{row.stacker}: macro-F1 {row.scores['macro_f1'].value:.3f}")

    stacker = load_stacker(run.stacker_folder(comparison.choice))  # what `comparison` recommends
    prediction = stacker.predict(rows.inputs)
    print(
        comparison.choice,
        dict(zip(rows.inputs.classes, prediction.class_probabilities[0].round(3), strict=True)),
    )
    return comparison


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
