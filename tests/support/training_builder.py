"""One fold's fine-tuning, for tests that look into it; also a script, which several processes can run."""

import sys
from pathlib import Path

from sercache.events import ignore
from sercache.recipe import FinetuningRecipe
from sercache.training.batches import FrameSource
from sercache.training.checkpoint import load_head, save_tensors
from sercache.training.data import open_run
from sercache.training.finetuning.clips import Clips
from sercache.training.finetuning.live import open_live_feature
from sercache.training.finetuning.processes import Processes
from sercache.training.finetuning.source import EncodedClips
from sercache.training.loop import Training
from sercache.training.member import WEIGHTS_NAME, fold_rows


def make_training(root, processes, member="fusion", features=("wavlm",), changes=None, member_changes=None,
                  state_path=None, fold=0, **options):  # fmt: skip
    """Return a :class:`Training` of a run's member on one fold."""
    context = open_run(root)
    recipe = next(candidate for candidate in context.recipe.members if candidate.name == member)
    settings: FinetuningRecipe = context.recipe.finetuning_with(changes or {})
    live = {
        recipe.features.index(name): open_live_feature(
            name, context.recipe.features[name], context.feature_sets[name], context.corpus, settings,
            str(processes.device), "float32", 1, ignore,
        )
        for name in features
    }  # fmt: skip
    rows = fold_rows(context, recipe, fold)
    ids = sorted({*rows.fit, *rows.stop, *rows.predicted["out-of-fold"]})
    source = FrameSource(context.sets_of(recipe), ids, processes.device, resident=False)
    clips = Clips(source, live, settings.max_seconds, settings.micro_batch_seconds)
    targets = context.rows_of(recipe)
    head, _ = load_head(context.run.fold_folder(member, fold) / WEIGHTS_NAME)
    member_settings = context.recipe.training_of(recipe).model_copy(update=member_changes or {})
    source = EncodedClips(
        head, clips.select(rows.fit), clips.select(rows.stop), settings, member_settings, processes
    )
    return Training(
        source,
        targets.select(rows.fit),
        targets.select(rows.stop),
        member_settings,
        seed=3,
        stream_seed=4,
        state_path=state_path or root / "state.safetensors",
        **options,
    )


def train_and_keep(root, processes, output):
    """Train two epochs and keep the weights and the last step's gradients of each, whichever is the best.

    Slowly: Adam makes whole steps of what rounding leaves of gradients that are 0, such as those of keys'
    biases.
    """
    rates = {"epochs": 1, "encoder_learning_rate": 1e-4, "head_learning_rate": 1e-4}
    training = make_training(root, processes, changes={"stage1": rates, "stage2": rates})
    add_to_history = training.add_to_history

    def keep(learning_rate, train_loss):
        if processes.is_first:
            tensors = training.source.tensors() | {"gradients": training.gradients.values}
            save_tensors(output / f"{training.epoch_number}.safetensors", tensors, {})
        add_to_history(learning_rate, train_loss)

    training.add_to_history = keep
    training.run()


if __name__ == "__main__":
    together = Processes.join("cpu")
    train_and_keep(Path(sys.argv[1]), together, Path(sys.argv[2]))
    together.leave()
