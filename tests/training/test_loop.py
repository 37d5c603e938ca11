import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sercache.cache.store import Cache
from sercache.errors import Interrupted, TrainingError
from sercache.evaluation.metrics import macro_f1
from sercache.events import Context
from sercache.heads.registry import build_head
from sercache.recipe import TargetsRecipe, TrainingRecipe
from sercache.training import epoch
from sercache.training.batches import FrameSource
from sercache.training.cached_frames import CachedFrames, predict
from sercache.training.data import open_run
from sercache.training.ensemble import train_ensemble
from sercache.training.epoch import rate_factor
from sercache.training.loop import Training
from sercache.training.losses import class_weights
from sercache.training.member import HISTORY_NAME, fold_rows
from sercache.training.objective import objective_of
from sercache.training.rows import LabelledRows
from support.run_builder import make_corpus, make_run, write_features

CPU = torch.device("cpu")
SETTINGS = TrainingRecipe(
    batch_size=8,
    accumulate=2,
    stage1={"epochs": 3, "learning_rate": 0.01},
    stage2={"epochs": 0},
    mixup={"probability": 0.0},
)


@pytest.fixture
def make_training(tmp_path):
    corpus = make_corpus(tmp_path)
    write_features(tmp_path, corpus)
    feature_sets = [
        feature_set
        for feature_set in Cache(tmp_path / "cache").feature_sets()
        if feature_set.spec.encoder == "speech"
    ]
    rows = LabelledRows.of(corpus, TargetsRecipe())

    def make(
        settings=SETTINGS,
        fit=corpus.ids[:45],
        stop=corpus.ids[45:],
        change=lambda rows: rows,
        name="mean-linear",
    ):
        head = build_head(name, [6], 3, [(1, 7)], {}, 0)
        source = CachedFrames(
            head, FrameSource(feature_sets, fit, CPU), FrameSource(feature_sets, stop, CPU), settings
        )
        return Training(
            source,
            change(rows.select(fit)),
            rows.select(stop),
            settings,
            seed=1,
            stream_seed=2,
            state_path=tmp_path / "state",
            task="one",
        )

    return make


def test_the_optimiser_steps_once_per_group_of_batches_in_every_epoch(make_training, monkeypatch):
    steps = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: steps.append(1) or step(self))
    make_training().run()
    batches = -(-45 // 8)
    assert len(steps) == 3 * -(-batches // 2)


def test_accumulated_batches_give_the_gradient_of_one_large_batch(make_training, monkeypatch):
    """The batches of a group are of different sizes, and count by their rows."""
    gradients = []

    def keep(parameters, limit):
        gradients.append([parameter.grad.clone() for parameter in parameters if parameter.grad is not None])

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", keep)
    everything = {"stage1": {"epochs": 1, "learning_rate": 1e-12}, "attribute_weight": 0.0}
    plain = SETTINGS.model_dump() | everything
    for batch_size, accumulate in ((45, 1), (8, 6)):
        settings = TrainingRecipe(**(plain | {"batch_size": batch_size, "accumulate": accumulate}))
        training = make_training(settings)
        training.run()
        training.state_path.unlink()
    for large, sum_of_small in zip(*gradients, strict=True):
        torch.testing.assert_close(sum_of_small, large, atol=1e-5, rtol=1e-3)


def test_class_weights_come_from_the_rows_that_are_learned_from(make_training, monkeypatch):
    seen = []
    monkeypatch.setattr(
        epoch, "class_weights", lambda soft, *rest: seen.append(soft) or class_weights(soft, *rest)
    )
    training = make_training()
    training.run()
    assert seen
    for soft in seen:
        np.testing.assert_array_equal(soft, training.fit_rows.soft)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_macro_f1_is_of_all_stop_rows_at_once_whatever_the_batch_size(make_training, batch_size):
    training = make_training(SETTINGS.model_copy(update={"batch_size": batch_size}))
    progress = training.run()
    output = predict(training.head, training.source.stop, 3)
    labelled = training.stop_rows.consensus >= 0
    wanted = macro_f1(
        training.stop_rows.consensus[labelled], output.logits.argmax(dim=1).numpy()[labelled], num_classes=3
    )
    assert progress.best["macro_f1"] == pytest.approx(wanted)
    assert len(training.stop_rows) == 27


@pytest.mark.parametrize("name", ["mean-linear", "attentive-statistics", "deepser"])
def test_predictions_do_not_depend_on_the_batch_size_or_order(make_training, name):
    training = make_training(name=name)
    few, many = (
        predict(training.head, training.source.stop, 2),
        predict(training.head, training.source.stop, 64),
    )
    torch.testing.assert_close(few.logits, many.logits, atol=1e-5, rtol=1e-4)
    back = FrameSource(training.source.stop.feature_sets, training.source.stop.ids[::-1], CPU)
    torch.testing.assert_close(
        predict(training.head, back, 64).logits.flip(0), many.logits, atol=1e-5, rtol=1e-4
    )


def test_no_rows_give_no_predictions(make_training):
    training = make_training()
    output = predict(training.head, FrameSource(training.source.stop.feature_sets, [], CPU), 8)
    assert output.logits.shape == (0, 3)
    assert output.attributes.shape == (0, 1)


def test_patience_ends_a_stage_and_the_best_epoch_is_kept(make_training):
    settings = SETTINGS.model_copy(update={"patience": 2})
    settings = TrainingRecipe(**(settings.model_dump() | {"stage1": {"epochs": 40, "learning_rate": 0.05}}))
    training = make_training(settings)
    progress = training.run()
    best = int(progress.best["epoch"])
    assert len(progress.history) == best + 2 < 40
    assert progress.best["macro_f1"] == max(row["macro_f1"] for row in progress.history)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: replace(rows, soft=rows.soft * np.nan, attributes=rows.attributes * np.nan),
         "none of its 45 training rows has a target"),
        (lambda rows: replace(rows, attributes=rows.attributes * np.inf),
         "the loss became (nan|inf) in epoch 1; utterance 's0/0' has an infinite target"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_one_clear_line(make_training, change, message):
    with pytest.raises(TrainingError, match=message):
        make_training(change=change).run()


def test_rows_without_a_class_teach_attributes(make_training):
    def no_classes(rows):
        return replace(rows, soft=rows.soft * np.nan)

    training = make_training(change=no_classes)
    progress = training.run()
    losses = [row["train_loss"] for row in progress.history]
    assert losses[-1] < losses[0]


def test_test_rows_are_never_stopped_on(tmp_path):
    recipe = make_run(tmp_path, splits=["train"] * 6 + ["test"] * 2)
    data = open_run(train_ensemble(recipe, workers=1).run.root)
    for fold in range(3):
        rows = fold_rows(data, recipe.members[0], fold)
        assert not {"s6", "s7"} & {utterance_id.split("/")[0] for utterance_id in rows.fit + rows.stop}


def test_the_history_has_a_row_per_epoch(tmp_path):
    report = train_ensemble(make_run(tmp_path), workers=1)
    with (report.run.fold_folder("linear", 0) / HISTORY_NAME).open() as stream:
        history = list(csv.DictReader(stream))
    assert [int(row["epoch"]) for row in history] == list(range(1, len(history) + 1))
    assert {"stage", "train_loss", "stop_loss", "macro_f1", "uar", "seconds"} <= set(history[0])


BOTH_STAGES = SETTINGS.model_dump() | {
    "stage1": {"epochs": 50, "learning_rate": 0.01},
    "stage2": {"epochs": 50, "learning_rate": 0.003},
}


def test_each_stage_has_its_patience_and_stage_2_starts_from_the_best_of_stage_1(make_training, monkeypatch):
    scores = iter([0.5, 0.6, 0.4, 0.4, 0.3, 0.3])
    monkeypatch.setattr(epoch, "macro_f1", lambda *arguments: next(scores))
    started_from = []
    begin = Training.begin_stage

    def record(training):
        optimizer = begin(training)
        started_from.append({name: value.clone() for name, value in training.head.state_dict().items()})
        return optimizer

    monkeypatch.setattr(Training, "begin_stage", record)
    training = make_training(TrainingRecipe(**(BOTH_STAGES | {"patience": 2})))
    progress = training.run()
    assert [row["stage"] for row in progress.history] == [1, 1, 1, 1, 2, 2]
    assert progress.best["epoch"] == 2
    assert started_from[1]
    for name, value in started_from[1].items():
        assert torch.equal(value, training.head.state_dict()[name])  # and no epoch of stage 2 was better


def test_every_step_has_the_learning_rate_of_its_stages_schedule(make_training, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or step(self)
    )
    stages = {
        "stage1": {"epochs": 3, "learning_rate": 0.01},
        "stage2": {"epochs": 2, "learning_rate": 0.004},
        "schedule": "cosine",
        "warmup_epochs": 1,
    }
    progress = make_training(TrainingRecipe(**(SETTINGS.model_dump() | stages))).run()
    per_epoch = 3  # six batches, two to a step
    first, second = rates[: 3 * per_epoch], rates[3 * per_epoch :]
    assert len(second) % 2 == 0 < len(second)
    for rates_of_stage, peak, epochs in ((first, 0.01, 3), (second, 0.004, 2)):
        total = len(rates_of_stage)
        factors = [rate_factor(number, total // epochs, total, "cosine") for number in range(total)]
        assert rates_of_stage == pytest.approx([peak * factor for factor in factors])
    last_steps = [*first[per_epoch - 1 :: per_epoch], *second[len(second) // 2 - 1 :: len(second) // 2]]
    assert [row["learning_rate"] for row in progress.history] == last_steps


def test_a_cosine_that_is_resumed_ends_bit_for_bit_as_if_it_had_not_been_stopped(make_training):
    settings = TrainingRecipe(**(BOTH_STAGES | {
        "stage1": {"epochs": 3, "learning_rate": 0.01},
        "stage2": {"epochs": 3, "learning_rate": 0.004},
        "schedule": "cosine",
        "warmup_epochs": 1.5,
        "mixup": {"probability": 0.5},
    }))  # fmt: skip
    straight = make_training(settings)
    wanted = straight.run()
    straight.state_path.unlink()
    for finished_epochs in (1, 2, 4):
        interrupted = make_training(settings)
        interrupted.context = Context(
            should_stop=lambda training=interrupted, at=finished_epochs: len(training.progress.history) >= at
        )
        with pytest.raises(Interrupted):
            interrupted.run()
        resumed = make_training(settings)
        progress = resumed.run()
        resumed.state_path.unlink()
        assert [{**row, "seconds": 0} for row in progress.history] == [
            {**row, "seconds": 0} for row in wanted.history
        ]
        for name, value in straight.head.state_dict().items():
            assert torch.equal(value, resumed.head.state_dict()[name])


def test_of_equal_macro_f1_the_lower_stop_loss_wins(make_training, monkeypatch):
    monkeypatch.setattr(epoch, "macro_f1", lambda *arguments: 0.5)
    settings = SETTINGS.model_dump() | {"stage1": {"epochs": 8, "learning_rate": 0.3}}
    progress = make_training(TrainingRecipe(**settings)).run()
    losses = [row["stop_loss"] for row in progress.history]
    assert progress.best["stop_loss"] == min(losses) != losses[-1]


def test_stage_2_has_no_class_weights(make_training, monkeypatch):
    seen = []

    def record(settings, weights=None):
        seen.append(weights is not None)
        return objective_of(settings, weights)

    monkeypatch.setattr(epoch, "objective_of", record)
    stages = {"stage1": {"epochs": 1}, "stage2": {"epochs": 1}}
    make_training(TrainingRecipe(**(SETTINGS.model_dump() | stages))).run()
    assert seen == [True, False, False, False]  # training and stop rows of each stage


def test_training_leaves_the_global_generator_alone(make_training):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one_epoch = SETTINGS.model_dump() | {"stage1": {"epochs": 1}}
    make_training(TrainingRecipe(**one_epoch), fit=[f"s0/{row}" for row in range(8)], name="deepser").run()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_that_the_last_step_of_an_epoch_breaks_are_never_kept(make_training, monkeypatch):
    training = make_training()

    def break_the_head(optimizer):
        with torch.no_grad():
            training.head.class_output.weight.fill_(math.nan)
        yield
        return 0.5

    monkeypatch.setattr(training, "train_epoch", break_the_head)
    with pytest.raises(TrainingError, match=r"one: the loss on the stop rows became nan in epoch 1; a lower"):
        training.run()


@pytest.mark.parametrize("name", ["mean-linear", "deepser"])
def test_bfloat16_learns_like_float32(make_training, name):
    mixing = {"mixup": {"probability": 1.0}, "stage1": {"epochs": 1, "learning_rate": 0.01}}
    scores = []
    for precision in ("float32", "bfloat16"):
        training = make_training(
            TrainingRecipe(**(SETTINGS.model_dump() | mixing | {"precision": precision})), name=name
        )
        scores.append(training.run().history[0]["train_loss"])
        training.state_path.unlink()
    assert scores[1] != scores[0]
    assert scores[1] == pytest.approx(scores[0], rel=0.02)
