import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import sercache.training.epoch as epoch
import sercache.training.loop as loop
from sercache.cache.ledger import Ledger
from sercache.cache.store import Cache
from sercache.corpus.manifest import write_corpus
from sercache.errors import (
    CacheError,
    CorpusError,
    EncoderError,
    Interrupted,
    RecipeError,
    TrainingError,
)
from sercache.events import Context
from sercache.posteriors import ALL_FOLDS, Posteriors
from sercache.recipe import load_recipe
from sercache.training.batches import FrameSource
from sercache.training.cached_frames import predict
from sercache.training.checkpoint import load_head
from sercache.training.data import open_run
from sercache.training.ensemble import train_ensemble
from sercache.training.member import WEIGHTS_NAME, fold_rows, refuse_shared_speakers
from support.run_builder import CLASSES, DIMS, make_corpus, make_run, outcome, write_features, write_recipe

SPLITS = ["train"] * 5 + ["development"] + ["test"] * 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    recipe = make_run(tmp_path_factory.mktemp("finished"))
    return recipe, train_ensemble(recipe, workers=1)


def test_members_learn_and_every_row_has_one_out_of_fold_posterior(finished):
    _, report = finished
    assert report.members
    for member in report.members:
        assert member.error == ""
        assert member.macro_f1 > 0.5 > 2 * report.majority_macro_f1
        table = Posteriors.load(report.run.posteriors_path(member.name))
        assert table.classes == CLASSES
        assert table.attributes == ("arousal",)
        assert len(table.ids) == 72
        assert set(table.origins) == {"out-of-fold"}
        assert (table.attribute_values >= 1).all()
        assert (table.attribute_values <= 7).all()


def test_no_row_was_predicted_by_a_model_that_saw_its_speaker(tmp_path, monkeypatch):
    """Recorded from what the loop really was given, not from what it was meant to be given."""
    recipe = make_run(tmp_path)
    seen = {}
    steps = loop.Training.steps

    def record(training):
        seen[training.task] = {
            utterance_id for rows in (training.source.fit, training.source.stop) for utterance_id in rows.ids
        }
        assert {i.split("/")[0] for i in training.source.fit.ids}.isdisjoint(
            i.split("/")[0] for i in training.source.stop.ids
        )
        return steps(training)

    monkeypatch.setattr(loop.Training, "steps", record)
    report = train_ensemble(recipe, workers=1)
    for member in report.members:
        table = Posteriors.load(report.run.posteriors_path(member.name))
        for utterance_id, fold in zip(table.ids, table.folds, strict=True):
            speakers = {i.split("/")[0] for i in seen[f"{member.name}/fold-{fold}"]}
            assert utterance_id.split("/")[0] not in speakers


def test_a_feature_that_names_the_speaker_teaches_nothing_about_other_speakers(tmp_path, monkeypatch):
    """Every speaker says one class only, and has a dimension of their own: a leak would score near 1."""
    epochs = itertools.count(1)
    monkeypatch.setattr(epoch, "macro_f1", lambda *arguments: next(epochs) / 100)  # keep the last epoch
    corpus = make_corpus(tmp_path)
    utterances = tuple(
        replace(row, votes=tuple(3.0 * np.eye(3)[int(row.speaker[1:]) % 3]), other_votes=0.0)
        for row in corpus.utterances
    )
    corpus = replace(corpus, utterances=utterances)
    write_corpus(corpus, tmp_path / "corpus.csv")
    voices = dict(
        zip(DIMS, np.split(8 * np.eye(8, sum(DIMS.values())), [DIMS["speech"]], axis=1), strict=True)
    )
    write_features(tmp_path, corpus, centre_of=lambda name, row: voices[name][int(row.speaker[1:])])
    member = {"name": "linear", "head": "mean-linear", "features": ["speech", "words"]}
    report = train_ensemble(load_recipe(write_recipe(tmp_path, members=[member])), workers=1)
    data = open_run(report.run.root)
    fit = fold_rows(data, data.recipe.members[0], 0).fit
    head, _ = load_head(report.run.fold_folder("linear", 0) / WEIGHTS_NAME)
    source = FrameSource(data.sets_of(data.recipe.members[0]), fit, torch.device("cpu"))
    learned = predict(head, source, 16).logits.argmax(dim=1).numpy()
    assert (learned == data.rows.select(fit).consensus).mean() > 0.95
    assert report.members[0].macro_f1 < 0.7


def test_a_shared_speaker_is_refused_loudly(tmp_path):
    corpus = make_corpus(tmp_path)
    with pytest.raises(TrainingError, match=r"share 1 speakers \(s0\)"):
        refuse_shared_speakers(corpus, ["s0/1", "s1/1"], ["s0/2"], "learned from and predicted")


def test_other_splits_are_predicted_by_the_mean_of_the_fold_models(tmp_path):
    recipe = make_run(tmp_path, splits=SPLITS)
    report = train_ensemble(recipe, workers=1)
    data = open_run(report.run.root)
    rows = fold_rows(data, recipe.members[0], 0)
    assert {i.split("/")[0] for i in rows.stop} == {"s5"}
    assert {i.split("/")[0] for i in rows.fit} <= {f"s{k}" for k in range(5)}
    table = Posteriors.load(report.run.posteriors_path("fusion"))
    assert Counter(table.origins) == {"out-of-fold": 45, "development": 9, "held-out": 18}
    held_out = table.take(rows.predicted["held-out"])
    assert (held_out.folds == ALL_FOLDS).all()
    parts = [
        Posteriors.load(report.run.fold_folder("fusion", fold) / "predictions.parquet").take(held_out.ids)
        for fold in range(3)
    ]
    wanted = np.mean([part.class_probabilities for part in parts], axis=0)
    np.testing.assert_allclose(held_out.class_probabilities, wanted)


def test_stage_2_starts_with_one_optimiser_and_draws_anew(tmp_path, monkeypatch):
    recipe = make_run(tmp_path, members=[{"name": "linear", "head": "mean-linear", "features": ["speech"]}])
    optimisers, draws = [], []
    adamw, draw = torch.optim.AdamW, epoch.balanced_draw

    def begin(*arguments, **options):
        optimizer = adamw(*arguments, **options)
        optimisers.append(optimizer.param_groups[0]["lr"])
        return optimizer

    def record(*arguments):
        draws.append(draw(*arguments))
        return draws[-1]

    monkeypatch.setattr(torch.optim, "AdamW", begin)
    monkeypatch.setattr(epoch, "balanced_draw", record)
    train_ensemble(recipe, workers=1)
    assert Counter(optimisers)[0.01] == 3  # one per fold and stage, not one per epoch
    assert Counter(optimisers)[0.003] == 3
    assert len({tuple(rows) for rows in draws}) > 1


@pytest.mark.parametrize("stop_after", [2, 5, 9])
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path, finished, stop_after):
    """2: in stage 1; 5: in stage 2; 9: in the next fold."""
    recipe = make_run(tmp_path)
    epochs = []

    def count(event):
        if event.kind == "advance" and "/fold-" in event.task:
            epochs.append(event.task)

    with pytest.raises(Interrupted, match="of 6 folds finished"):
        train_ensemble(
            recipe, workers=1, context=Context(listener=count, should_stop=lambda: len(epochs) >= stop_after)
        )
    assert len(epochs) == stop_after
    train_ensemble(recipe, workers=1, context=Context(listener=count))
    assert max(Counter(epochs).values()) <= 7  # no epoch was done twice
    assert outcome(recipe) == outcome(finished[0])


def test_a_finished_run_is_not_trained_again(finished):
    events = []
    before = outcome(finished[0])
    train_ensemble(finished[0], workers=1, context=Context(listener=events.append))
    assert (events[0].kind, events[0].task) == ("score", "linear-baseline")
    assert Counter(event.kind for event in events) == {"finish": 6, "score": 3}
    assert outcome(finished[0]) == before


def test_several_processes_give_the_same_run(tmp_path, finished):
    recipe = make_run(tmp_path)
    finished_folds = []
    train_ensemble(
        recipe,
        workers=2,
        context=Context(
            listener=lambda event: finished_folds.append(event.task) if event.kind == "finish" else None
        ),
    )
    assert sorted(finished_folds) == sorted(f"{m}/fold-{k}" for m in ("fusion", "linear") for k in range(3))
    assert outcome(recipe) == outcome(finished[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_ends_where_an_uninterrupted_one_does(tmp_path, finished, workers):
    recipe = make_run(tmp_path)
    code = (
        "import sys, torch; torch.set_num_threads(1); from pathlib import Path;"
        "from sercache.recipe import load_recipe; from sercache.training.ensemble import train_ensemble\n"
        "if __name__ == '__main__':\n"
        "    train_ensemble(load_recipe(Path(sys.argv[1])), workers=int(sys.argv[2]))"
    )
    script = tmp_path / "train.py"
    script.write_text(code)
    command = [sys.executable, str(script), str(tmp_path / "recipe.yaml"), str(workers)]
    states = recipe.output / "members"
    for _ in range(2):
        process = subprocess.Popen(command, start_new_session=True)
        seen = {path: path.stat().st_mtime_ns for path in states.glob("*/*/*.safetensors")}
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            now = {
                path: path.stat().st_mtime_ns for path in states.glob("*/*/*.safetensors") if path.exists()
            }
            if now != seen:
                break
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    train_ensemble(recipe, workers=1)
    assert outcome(recipe) == outcome(finished[0])


def test_rows_that_failed_extraction_are_left_out_and_said(tmp_path):
    corpus = make_corpus(tmp_path)
    write_features(tmp_path, corpus, missing={("speech", "s2/3"), ("words", "s2/3"), ("words", "s4/1")})
    recipe = load_recipe(write_recipe(tmp_path))
    with pytest.raises(TrainingError, match=r"'speech' lacks 1 of 72 utterances, first 's2/3'; run sercache"):
        train_ensemble(recipe, workers=1)
    for feature_set in Cache(recipe.cache).feature_sets():
        ledger = Ledger(feature_set.folder)
        for utterance_id in feature_set.missing(corpus.ids):
            ledger.record(utterance_id, "encode", EncoderError("no frames"), "0" * 12)
        ledger.save()
    warnings = []
    report = train_ensemble(
        recipe,
        workers=1,
        context=Context(
            listener=lambda event: warnings.append(event.message) if event.kind == "warning" else None
        ),
    )
    assert any("'words' has no frames of 2 utterances" in message for message in warnings)
    tables = {m.name: Posteriors.load(report.run.posteriors_path(m.name)) for m in report.members}
    assert "s2/3" not in tables["fusion"].ids
    assert "s4/1" in tables["fusion"].ids  # its speech is there, its words are masked
    assert len(tables["linear"].ids) == 71


def test_a_member_that_cannot_be_trained_does_not_end_the_others(tmp_path):
    broken = {"name": "broken", "head": "mean-linear", "features": ["speech"],
              "training": {"stage1": {"learning_rate": 1e30}, "gradient_clip": None}}  # fmt: skip
    fine = {"name": "fine", "head": "mean-linear", "features": ["speech"]}
    recipe = make_run(tmp_path, members=[broken, fine])
    report = train_ensemble(recipe, workers=1)
    assert "loss became" in report.members[0].error
    assert report.members[1].error == ""
    assert not report.run.posteriors_path("broken").exists()
    with pytest.raises(TrainingError, match="no member could be trained; broken: "):
        train_ensemble(load_recipe(write_recipe(tmp_path, members=[broken], output="other")), workers=1)


def test_class_order_of_the_recipe_is_the_order_of_the_columns(tmp_path):
    recipe = make_run(tmp_path, classes=["Happy", "Angry"])
    report = train_ensemble(recipe, workers=1)
    table = Posteriors.load(report.run.posteriors_path("linear"))
    assert table.classes == ("Happy", "Angry")
    labels = open_run(report.run.root).rows.select(table.ids).consensus
    predicted = table.class_probabilities.argmax(axis=1)
    assert (predicted[labels >= 0] == labels[labels >= 0]).mean() > 0.75


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"classes": ["Hapy"]}, RecipeError, "the corpus corpus.csv has no class 'Hapy'"),
        ({"features": {"speech": {"encoder": "wavlm"}, "words": {"encoder": "words"}}}, CacheError,
         "feature set 'speech': the cache .* holds no features of wavlm .*run sercache extract"),
        ({"features": {"speech": {"encoder": "speech", "time_pool": 3}, "words": {"encoder": "words"}}},
         CacheError, "holds speech with time_pool 1, not 3"),
        ({"members": [{"name": "one", "features": ["speech"], "options": {"widht": 3}}]}, RecipeError,
         "no option 'widht'"),
        ({"members": [{"name": "one", "head": "lstm", "features": ["speech"]}]}, RecipeError, "unknown head"),
        ({"training": {"class_loss": "hinge"}}, RecipeError, "member 'fusion': unknown class loss 'hinge'"),
        ({"folds": {"count": 9}}, CorpusError, "need at least 9 speakers, there are 8"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_before_anything_is_trained(tmp_path, changes, error, message):
    recipe = make_run(tmp_path, **changes)
    with pytest.raises(error, match=message):
        train_ensemble(recipe, workers=1)
    assert not list(tmp_path.rglob(WEIGHTS_NAME))


def test_features_of_another_setting_cannot_slip_into_a_run(tmp_path):
    recipe = make_run(tmp_path)
    train_ensemble(recipe, workers=1)
    changed = recipe.model_copy(update={"seed": 1})
    with pytest.raises(RecipeError, match=r"another recipe \(seed\)"):
        train_ensemble(changed, workers=1)


def test_dims_of_the_builder_are_what_the_heads_read(finished):
    data = open_run(finished[0].output.resolve())
    assert {name: feature_set.dim for name, feature_set in data.feature_sets.items()} == DIMS


def test_an_interrupt_stops_all_processes(tmp_path, finished):
    recipe = make_run(tmp_path)
    epochs = []
    with pytest.raises(Interrupted, match="of 6 folds finished"):
        train_ensemble(
            recipe,
            workers=2,
            context=Context(listener=lambda event: epochs.append(event), should_stop=lambda: len(epochs) > 4),
        )
    train_ensemble(recipe, workers=1)
    assert outcome(recipe) == outcome(finished[0])
