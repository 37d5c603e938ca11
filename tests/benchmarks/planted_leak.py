"""Plant a leak in a run: stackers fitted on what members say of rows that they trained on.

    python tests/benchmarks/planted_leak.py RUN OUT [--fold 0]

One fold's speakers are held out. Stackers are fitted twice on all other rows: on the run's out-of-fold
posteriors, and on those of the very models that trained on these rows. Both are scored on the held-out
speakers, whom neither members nor stackers have heard. Prints macro-F1 and leak gap of both, side by side.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sercache.corpus.manifest import write_corpus
from sercache.files import write_atomically
from sercache.posteriors import Posteriors
from sercache.recipe import MemberRecipe, dump_recipe
from sercache.run import Run
from sercache.stacking.comparison import compare
from sercache.training.cached_frames import predict
from sercache.training.checkpoint import load_head
from sercache.training.data import TrainingData, open_run
from sercache.training.member import WEIGHTS_NAME


def of_one_model(data: TrainingData, member: MemberRecipe, fold: int) -> Posteriors:
    """Return what a fold's model says of every row, of those that it trained on too."""
    head, _ = load_head(data.run.fold_folder(member.name, fold) / WEIGHTS_NAME)
    honest = Posteriors.load(data.run.posteriors_path(member.name))
    source = data.frames("cpu").select(honest.ids, data.sets_of(member))
    output = predict(head, source, data.recipe.training_of(member).batch_size)
    return replace(
        honest,
        class_probabilities=torch.softmax(output.logits.double(), dim=1).numpy(),
        attribute_values=output.attributes.double().numpy(),
    )


def lay_out(data: TrainingData, fold: int, folder: Path, *, leaks: bool) -> Run:
    """Write a run whose test split is one fold; its fitting rows are in-sample where it ``leaks``."""
    run = Run(folder.resolve())
    corpus = data.corpus
    held_out = {utterance_id for utterance_id, row_fold in data.folds.folds.items() if row_fold == fold}
    rows = tuple(replace(row, split="test") if row.id in held_out else row for row in corpus.utterances)
    run.root.mkdir(parents=True, exist_ok=True)
    write_corpus(replace(corpus, utterances=rows), run.root / "corpus.csv")
    paths = {"corpus": run.root / "corpus.csv", "output": run.root}
    write_atomically(run.recipe_path, dump_recipe(data.recipe.model_copy(update=paths)))
    for member in data.recipe.members:
        one_model = of_one_model(data, member, fold)
        table = one_model if leaks else Posteriors.load(data.run.posteriors_path(member.name))
        is_held_out = np.isin(np.asarray(table.ids), sorted(held_out))
        origins = np.where(
            table.origins == "out-of-fold", "in-sample" if leaks else "out-of-fold", table.origins
        )
        origins[is_held_out] = "held-out"
        run.posteriors_path(member.name).parent.mkdir(parents=True, exist_ok=True)
        replace(table, origins=origins).save(run.posteriors_path(member.name))
    return run


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--fold", type=int, default=0)
    arguments = parser.parse_args()
    data = open_run(arguments.run.resolve())
    found = {}
    for name, leaks in (("honest", False), ("leak", True)):
        run = lay_out(data, arguments.fold, arguments.out / name, leaks=leaks)
        found[name] = {row.stacker: row for row in compare(run, allow_in_sample=leaks).rows}
    print(f"{'fitted on':12}  {'out-of-fold posteriors':>22}  {'in-sample posteriors':>22}")
    print(f"{'':12}" + 2 * f"  {'macro-F1':>10}  {'leak gap':>10}")
    for name, honest in found["honest"].items():
        pair = (honest, found["leak"][name])
        cells = [f"  {row.scores['macro_f1'].value:10.3f}  {row.leak_gap:+10.3f}" for row in pair]
        print(f"{name:12}" + "".join(cells))


if __name__ == "__main__":
    main()
