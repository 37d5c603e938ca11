"""Small runs to tune, and a search over them."""

from sercache.events import QUIET
from sercache.experiments.search_space import Dimension
from sercache.experiments.tuning import run_tuning
from sercache.experiments.tuning_design import design_tuning
from support.run_builder import make_run

LINEAR = {"name": "linear", "head": "mean-linear", "features": ["speech"]}
FUSION = {"name": "fusion", "features": ["speech", "words"], "options": {"width": 8, "feedforward": 8}}
FAST = {
    "batch_size": 16,
    "stage1": {"epochs": 1, "learning_rate": 0.01},
    "stage2": {"epochs": 1, "learning_rate": 0.003},
}
SMALL = {"training": FAST, "folds": {"count": 2, "inner_share": 0.25}, "members": [LINEAR]}
SPACE = {
    "training.stage1.learning_rate": Dimension(low=1e-3, high=0.1, log=True),
    "training.mixup.probability": Dimension(low=0, high=1),
    "training.patience": Dimension(low=4, high=12, step=4),
    "options.deviation": Dimension(choices=[True, False]),
}


def small_run(folder, **changes):
    return make_run(folder, **{**SMALL, **changes})


def tune(recipe, *, space=SPACE, trials=4, context=QUIET, **planned):
    design = design_tuning(recipe, space=space, **planned)
    return run_tuning(design, trials=trials, workers=1, context=context)
