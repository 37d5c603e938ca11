"""A member fine-tuned from its cached head: where it starts, how it goes on, and what it leaves."""

import json
import math
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from sercache.audio import load_audio
from sercache.encoders.registry import load_encoder
from sercache.errors import CacheError, Interrupted, RecipeError, TrainingError
from sercache.events import Context
from sercache.extract.encode import pool_over_time
from sercache.heads.protocol import HeadInput
from sercache.posteriors import Posteriors
from sercache.recipe import dump_recipe
from sercache.run import derived_members
from sercache.stacking.comparison import compare
from sercache.training.checkpoint import load_head, load_tensors
from sercache.training.data import open_run
from sercache.training.finetuning.finetune import finetune_member
from sercache.training.finetuning.fold import overlay_name
from sercache.training.finetuning.overlay import EncoderOverlay
from support.processes import environment
from support.training_builder import make_training, train_and_keep

STILL = {"encoder_learning_rate": 1e-15, "head_learning_rate": 1e-15}
ONE_EPOCH = {"stage1": {"epochs": 1}, "stage2": {"epochs": 0}}


def predictions(run, member, fold=0):
    return Posteriors.load(run.fold_folder(member, fold) / "predictions.parquet")


@pytest.mark.parametrize(
    ("member", "features", "tolerance"),
    [("fusion", ("wavlm",), 1e-5), ("fusion", ("wavlm", "words"), 2e-3), ("speech", (), 1e-5)],
)
@pytest.mark.parametrize("lora", [0, 2])
def test_at_step_0_it_predicts_what_the_cached_head_does(run, alone, member, features, tolerance, lora):
    """``words`` is cached in float16, whose rounding is what differs."""
    changes = {"stage1": {"epochs": 1, **STILL}, "stage2": {"epochs": 0}, "lora": lora}
    finetune_member(run, member, alone, features=features, changes=changes)
    for fold in range(2):
        before = predictions(run, member, fold)
        after = predictions(run, f"{member}-finetuned", fold)
        assert after.ids == before.ids
        assert after.origins.tolist() == before.origins.tolist()
        assert np.abs(after.class_probabilities - before.class_probabilities).max() < tolerance


def test_whisper_and_group_norm_start_there_too(run, alone):
    changes = {"stage1": {"epochs": 1, **STILL}, "stage2": {"epochs": 0}}
    training = make_training(run.root, alone, member="whisper", features=["whisper"], changes=changes)
    clips = training.source.stop.select(training.source.stop.ids[:4])
    found = torch.softmax(training.source.predict(clips).logits.double(), dim=1).numpy()
    posteriors = Posteriors.load(run.posteriors_path("whisper")).take(clips.ids)
    assert found.shape == posteriors.class_probabilities.shape
    [batch] = [rows for rows in clips.batches(np.arange(4)) if 0 in rows]
    prepared = next(clips.read_for_training([batch], 1))
    with torch.no_grad():
        [learned] = clips.training_inputs(batch, prepared, None, 1)
    cached = clips.source.batch(batch)[0]
    torch.testing.assert_close(learned.frames[learned.mask], cached.frames[cached.mask], rtol=1e-4, atol=1e-4)


def test_loss_falls_and_the_kept_epoch_is_never_worse_on_the_stop_rows_than_the_start(run, alone):
    training = make_training(run.root, alone, changes={"stage1": {"epochs": 6}, "patience": 9})
    best = training.run().best
    history = training.progress.history
    assert [row["epoch"] for row in history] == list(range(8))
    assert [row["stage"] for row in history] == [1] * 7 + [2]
    assert history[6]["train_loss"] < history[1]["train_loss"]
    assert math.isnan(history[0]["train_loss"])
    assert best["macro_f1"] >= history[0]["macro_f1"]


def test_what_it_leaves_is_a_member_that_stack_takes_and_judges(run, alone):
    report = finetune_member(run, "fusion", alone, features=["wavlm"], changes={"lora": 2})
    [derived] = derived_members(run, "finetuned")
    assert (derived.name, derived.of) == ("fusion-finetuned", "fusion")
    assert (derived.settings["features"], derived.settings["lora"]) == (["wavlm"], 2)
    assert report.cached == ("words",)
    assert report.before.rows == report.after.rows == 36
    joined = Posteriors.load(run.posteriors_path("fusion-finetuned"))
    assert sorted(joined.ids) == sorted(Posteriors.load(run.posteriors_path("fusion")).ids)
    for fold in range(2):
        folder = run.fold_folder("fusion-finetuned", fold)
        names = {path.name for path in folder.iterdir()}
        assert names == {
            "weights.safetensors",
            "encoder-wavlm.safetensors",
            "predictions.parquet",
            "history.csv",
        }
        _, described = load_head(folder / "weights.safetensors")
        assert (described.member, described.fold) == ("fusion-finetuned", fold)
    settings = run.recipe().stacking.model_copy(
        update={"stackers": ["soft-vote"], "bootstrap_samples": 100, "repeats": 1}
    )
    recipe = run.recipe().model_copy(update={"stacking": settings})
    run.recipe_path.write_text(dump_recipe(recipe))
    comparison = compare(run)
    assert "fusion-finetuned" in comparison.members
    assert (
        sum(
            sentence.startswith("What fine-tuning was worth: fusion-finetuned ")
            for sentence in comparison.verdict
        )
        == 1
    )


def test_the_kept_weights_over_an_ordinary_encoder_predict_what_was_published(run, alone):
    """The way of a bundle: head and overlay from the run, encoder as it is loaded for inference."""
    finetune_member(run, "speech", alone, changes={"stage1": {"epochs": 3}})
    data = open_run(run.root)
    folder = run.fold_folder("speech-finetuned", 1)
    head, _ = load_head(folder / "weights.safetensors")
    recipe = data.recipe.features["wav2vec2"]
    encoder = load_encoder(recipe.encoder, recipe.layers)
    published = predictions(run, "speech-finetuned", 1)
    with EncoderOverlay.load(folder / overlay_name("wav2vec2")).applied_to(encoder), torch.no_grad():
        for row, utterance_id in enumerate(published.ids[:3]):
            utterance = data.corpus.by_id[utterance_id]
            [frames] = encoder.encode([load_audio(data.corpus.audio_path(utterance), 16_000)])
            pooled = torch.from_numpy(pool_over_time(frames, 2))
            output = head([HeadInput(pooled, torch.ones(pooled.shape[:2], dtype=torch.bool))])
            found = torch.softmax(output.logits[0], 0).numpy()
            assert np.abs(found - published.class_probabilities[row]).max() < 1e-5


def test_a_run_that_was_stopped_anywhere_ends_like_one_that_was_not(run, alone, tmp_path):
    """Stopped within epochs and while stop rows are judged, again and again, and resumed from the files."""
    changes = {"stage1": {"epochs": 2}, "patience": 5, "lora": 2}
    whole = make_training(run.root, alone, changes=changes, state_path=tmp_path / "whole")
    whole.run()
    stops = 0
    while True:
        calls = iter(range(7))
        pieces = make_training(
            run.root, alone, changes=changes, state_path=tmp_path / "pieces",
            context=Context(should_stop=lambda calls=calls: next(calls, None) is None),
        )  # fmt: skip
        try:
            pieces.run()
            break
        except Interrupted:
            stops += 1
            assert stops < 30
    assert stops > 3
    for name, value in whole.source.tensors().items():
        assert torch.equal(pieces.source.tensors()[name], value), name
    without_time = [{**row, "seconds": 0} for row in whole.progress.history]
    assert str(without_time) == str([{**row, "seconds": 0} for row in pieces.progress.history])


def test_an_interrupted_command_goes_on_and_publishes_the_same(run, alone, tmp_path):
    shutil.copytree(run.root, tmp_path / "other")
    other = type(run)(tmp_path / "other")
    finetune_member(run, "fusion", alone, features=["wavlm"])
    calls = iter(range(12))
    with pytest.raises(Interrupted, match="0 of 2 folds finished; the same command goes on"):
        finetune_member(
            other,
            "fusion",
            alone,
            features=["wavlm"],
            context=Context(should_stop=lambda: next(calls, None) is None),
        )
    finetune_member(other, "fusion", alone, features=["wavlm"])
    for fold in range(2):
        for name in ("weights.safetensors", overlay_name("wavlm")):
            ours, theirs = (
                load_tensors(trained_run.fold_folder("fusion-finetuned", fold) / name)[0]
                for trained_run in (run, other)
            )
            assert ours
            assert all(torch.equal(theirs[key], value) for key, value in ours.items())


def test_two_processes_make_the_updates_of_one(run, alone, tmp_path):
    """Both over gloo on the loopback; a step's micro-batches are dealt, their gradients summed."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    train_and_keep(run.root, alone, tmp_path / "one")
    (run.root / "state.safetensors").unlink()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "support.training_builder", str(run.root), str(tmp_path / "two")],
            env=environment(**shared, RANK=str(rank), LOCAL_RANK=str(rank)),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    start, _ = load_tensors(tmp_path / "one" / "0.safetensors")
    for epoch in ("1", "2"):
        single, two = (load_tensors(tmp_path / way / f"{epoch}.safetensors")[0] for way in ("one", "two"))
        assert single.keys() == two.keys()
        for name, value in single.items():
            torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5)
        assert single["gradients"].norm() > 0.01
        del single["gradients"]
        assert max((value - start[name]).abs().amax() for name, value in single.items() if len(value)) > 1e-4


def test_micro_batches_make_the_gradient_of_the_whole_step(run, alone):
    """Without what is random: dropout and MixUp are drawn per micro-batch."""
    found = []
    for seconds in (1.0, 100.0):
        changes = {"micro_batch_seconds": seconds, "batch_size": 64}
        training = make_training(run.root, alone, member="speech", features=["wav2vec2"], changes=changes,
                                 member_changes={"attribute_weight": 0.0})  # fmt: skip
        training.settings = training.settings.model_copy(
            update={"mixup": training.settings.mixup.model_copy(update={"probability": 0.0})}
        )
        training.source.set_training = lambda: None
        training.run()
        found.append([row["train_loss"] for row in training.progress.history[1:]])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_with_what_to_do(run, alone):
    huge = {"epochs": 2, "encoder_learning_rate": 1e30, "head_learning_rate": 1e30}
    with pytest.raises(
        TrainingError, match=r"fusion-finetuned/fold-0: the loss .*became .*lower encoder_learning_rate"
    ):
        finetune_member(run, "fusion", alone, features=["wavlm"], changes={"stage1": huge})
    assert not (run.fold_folder("fusion-finetuned", 0) / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("fuson",), RecipeError, "no member 'fuson'.*Did you mean 'fusion'"),
        (("mel",), TrainingError, "feature set 'logmel' cannot be fine-tuned: the embedded encoder logmel"),
        (("fusion", ["wavlmm"]), RecipeError, "reads no feature set 'wavlmm'.*Did you mean 'wavlm'"),
        (("fusion", [], "whisper"), RecipeError, "already has a member 'whisper'"),
        (("fusion", [], "a/b"), RecipeError, "'a/b' is no name of a member"),
        (("fusion", [], None, {"layer": 2}), RecipeError, "unknown key 'layer'. Did you mean 'layers'"),
        (("fusion", [], None, {"layers": 0}), RecipeError, "layers: "),
    ],
)
def test_what_cannot_be_is_one_line(run, alone, arguments, error, message):
    member, features, name, changes = (*arguments, *[None] * (4 - len(arguments)))
    with pytest.raises(error, match=message) as raised:
        finetune_member(run, member, alone, features=features or (), name=name, changes=changes)
    assert "\n" not in str(raised.value)


def test_a_member_that_is_normalised_per_speaker_is_refused(run, alone):
    content = run.recipe().model_dump(mode="json")
    for member in content["members"]:
        member["training"] = {"normalize": "speaker"} if member["name"] == "fusion" else {}
    run.recipe_path.write_text(yaml.safe_dump(content))
    with pytest.raises(
        TrainingError, match=r"'fusion' is normalised per speaker.*cannot be fine-tuned"
    ) as raised:
        finetune_member(run, "fusion", alone)
    assert "\n" not in str(raised.value)


def test_a_member_that_is_not_trained_yet_is_refused(run, alone):
    (run.fold_folder("fusion", 1) / "weights.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"not trained yet.*sercache train-ensemble finishes it"):
        finetune_member(run, "fusion", alone)


def test_other_settings_want_another_name(run, alone):
    finetune_member(run, "speech", alone, changes=ONE_EPOCH)
    finetune_member(run, "speech", alone, changes=ONE_EPOCH)
    with pytest.raises(RecipeError, match="made with other settings; choose another name"):
        finetune_member(run, "speech", alone, changes={**ONE_EPOCH, "lora": 4})


def test_other_weights_under_the_encoders_name_are_refused(run, alone, tmp_path, checkpoint):
    """A local checkpoint that was overwritten since it was extracted."""
    content = json.loads(json.dumps(run.recipe().model_dump(mode="json")))
    folder = tmp_path / checkpoint("whisper").name
    shutil.copytree(checkpoint("whisper"), folder)
    content["features"]["whisper"]["encoder"] = str(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"extra": 1}))
    run.recipe_path.write_text(yaml.safe_dump(content))
    with pytest.raises((TrainingError, CacheError), match="revision"):
        finetune_member(run, "whisper", alone)
