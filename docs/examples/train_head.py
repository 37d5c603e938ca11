"""Train one head from a cache with your own loop.

python train_head.py RECIPE
"""

import sys
from pathlib import Path

import numpy as np
import torch

from sercache.cache.store import Cache
from sercache.corpus.folds import inner_slice
from sercache.corpus.manifest import read_corpus
from sercache.evaluation.metrics import macro_f1
from sercache.heads.registry import build_head
from sercache.recipe import load_recipe
from sercache.training.batches import FrameSource
from sercache.training.cached_frames import predict
from sercache.training.objective import Objective, Targets
from sercache.training.rows import LabelledRows
from sercache.training.standardize import input_statistics

EPOCHS, BATCH_SIZE, LEARNING_RATE = 20, 16, 1e-3


def main(recipe_path: Path, epochs: int = EPOCHS) -> float:
    recipe = load_recipe(recipe_path)
    corpus = read_corpus(recipe.corpus)
    feature_sets = [Cache(recipe.cache).find(wanted) for wanted in recipe.features.values()]
    fit_ids, test_ids = inner_slice(corpus, share=0.25, seed=recipe.seed)  # no speaker in both

    device = torch.device("cpu")
    source = FrameSource(feature_sets, corpus.ids, device)
    rows = LabelledRows.of(corpus, recipe.targets)
    fit, test = source.select(fit_ids), source.select(test_ids)
    soft, attributes = rows.select(fit_ids).targets(device)

    head = build_head(
        "deepser",
        [feature_set.dim for feature_set in feature_sets],
        len(corpus.classes),
        [(attribute.low, attribute.high) for attribute in corpus.attributes],
        {"width": 32, "feedforward": 64},
        seed=0,
        input_layers=[len(feature_set.layers) for feature_set in feature_sets],
    )
    for index, feature_set in enumerate(feature_sets):
        mean, deviation = input_statistics(feature_set, fit_ids, seed=0)
        head.set_standardization(index, torch.from_numpy(mean), torch.from_numpy(deviation))
    objective = Objective()  # MEDUSA's: 1.5 * cross-entropy against the votes + 0.4 * MSE
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE)
    generator = np.random.default_rng(0)

    for _ in range(epochs):
        head.train()
        order = generator.permutation(len(fit_ids))
        batches = [order[first : first + BATCH_SIZE] for first in range(0, len(order), BATCH_SIZE)]
        for chosen, inputs in zip(batches, fit.batches(batches), strict=True):
            loss = objective(head(inputs), Targets(soft[chosen], attributes[chosen]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    predicted = predict(head, test, BATCH_SIZE).logits.argmax(dim=1).numpy()
    truth = rows.select(test_ids).consensus
    has_class = truth >= 0
    score = macro_f1(truth[has_class], predicted[has_class], len(corpus.classes))
    print(f"macro-F1 on {has_class.sum()} rows of other speakers: {score:.3f}")
    return score


if __name__ == "__main__":
    main(Path(sys.argv[1]))
