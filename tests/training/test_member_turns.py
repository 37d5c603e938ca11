"""Folds and members that take turns end as they would alone, and what becomes of bad rows."""

import csv
import pickle
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from sercache.cache.frames import to_storage
from sercache.corpus.manifest import read_corpus, write_corpus
from sercache.errors import CorpusError, Interrupted, TrainingError
from sercache.events import Context
from sercache.posteriors import Posteriors
from sercache.recipe import load_recipe
from sercache.training import members
from sercache.training.ensemble import train_ensemble
from sercache.training.gathering import StreamedFrames
from sercache.training.job_layout import JobLayout
from sercache.training.member import FoldJob, FoldsFailed, is_finished, train_folds
from support import run_builder
from support.run_builder import CLASSES, make_corpus, make_run, outcome, write_features, write_recipe

MEMBERS = [
    {"name": "fusion", "features": ["speech", "words"],
     "options": {"width": 8, "feedforward": 8, "dropout": 0.2}},
    {"name": "other", "features": ["speech", "words"], "seed": 3,
     "options": {"width": 8, "feedforward": 8, "dropout": 0.2},
     "training": {"modality_dropout": 0.3, "annotator_dropout": 0.3, "max_frames": 4}},
    {"name": "linear", "head": "mean-linear", "features": ["speech"]},
]  # fmt: skip


WILD = {
    **MEMBERS[2],
    "name": "wild",
    "training": {"stage1": {"learning_rate": 1e30}, "gradient_clip": None},
}


def together(groups_of):
    """Plan the jobs in these groups, whatever was measured."""

    def plan(data, members, jobs, workers):
        groups = groups_of(jobs) if jobs else []
        return JobLayout(tuple(map(tuple, groups)), 1, 0, 0.0)

    return plan


LAYOUTS = {
    "one by one": lambda jobs: [[job] for job in jobs],
    "by fold": lambda jobs: [[job for job in jobs if job.fold == fold] for fold in range(3)],
    "all at once": lambda jobs: [jobs],
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    recipe = make_run(tmp_path_factory.mktemp("alone"), members=MEMBERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(members, "layout_for_training", together(LAYOUTS["one by one"]))
        train_ensemble(recipe, workers=1)
    return outcome(recipe)


@pytest.mark.parametrize("layout", ["by fold", "all at once"])
def test_taking_turns_changes_no_bit(tmp_path, monkeypatch, alone, layout):
    monkeypatch.setattr(members, "layout_for_training", together(LAYOUTS[layout]))
    recipe = make_run(tmp_path, members=MEMBERS)
    train_ensemble(recipe, workers=1)
    assert outcome(recipe) == alone


@pytest.mark.parametrize("stop_after", [4, 45])
def test_turns_interrupted_in_either_stage_end_as_if_nothing_had_happened(
    tmp_path, monkeypatch, alone, stop_after
):
    monkeypatch.setattr(members, "layout_for_training", together(LAYOUTS["all at once"]))
    recipe = make_run(tmp_path, members=MEMBERS)
    epochs = []
    stages = set()

    def listen(event):
        if event.kind == "advance" and "/fold-" in event.task:
            epochs.append((event.task, event.done))
            stages.add(event.values["stage"])

    with pytest.raises(Interrupted, match="of 9 folds finished"):
        train_ensemble(
            recipe, workers=1, context=Context(listener=listen, should_stop=lambda: len(epochs) >= stop_after)
        )
    assert stages == ({1} if stop_after < 36 else {1, 2})
    train_ensemble(recipe, workers=1, context=Context(listener=listen))
    assert len(epochs) == len(set(epochs))  # no finished epoch was done twice
    assert outcome(recipe) == alone


def test_heads_of_one_fold_gather_every_batch_once(tmp_path, monkeypatch):
    """Same rows, same batch size: the second and third head take what the first had gathered."""
    calls = []
    padded = StreamedFrames.padded

    def count(reader, rows, starts, counts):
        calls.append(reader.feature_set.spec.encoder)
        return padded(reader, rows, starts, counts)

    monkeypatch.setattr(StreamedFrames, "padded", count)
    one_epoch = {"batch_size": 8, "stage1": {"epochs": 1}, "stage2": {"epochs": 0}}
    gathered = {}
    for layout in ("one by one", "by fold"):
        calls.clear()
        monkeypatch.setattr(members, "layout_for_training", together(LAYOUTS[layout]))
        folder = tmp_path / layout
        folder.mkdir()
        same = [{"name": f"m{n}", "head": "mean-linear", "features": ["speech"], "seed": n} for n in range(3)]
        recipe = make_run(folder, members=same, training=one_epoch)
        train_ensemble(recipe, workers=1)
        gathered[layout] = len(calls)
        fits = [folder / "run" / "members" / f"m{n}" / "fold-0" / "history.csv" for n in range(3)]
        assert fits
        assert all(path.exists() for path in fits)
    predictions = 2 * 3 * 3 * 9  # at most: stop rows and predictions of each head, which are its own
    assert gathered["by fold"] < gathered["one by one"]
    train_batches = 3 * 5  # folds x batches of about 36 rows
    assert gathered["one by one"] - gathered["by fold"] >= 2 * train_batches - 6
    assert gathered["by fold"] <= train_batches + predictions


def test_a_member_whose_loss_diverges_is_stopped_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "layout_for_training", together(LAYOUTS["all at once"]))
    recipe = make_run(tmp_path, members=[MEMBERS[0], WILD])
    warnings = []
    report = train_ensemble(
        recipe,
        workers=1,
        context=Context(listener=lambda event: warnings.append(event) if event.kind == "warning" else None),
    )
    fusion, failed = report.members
    assert not fusion.error
    assert "wild/fold-" in failed.error
    assert "became" in failed.error
    assert "a lower learning_rate or another seed may help" in failed.error
    assert [event.task.split("/")[0] for event in warnings].count("wild") == len(warnings) == 3


def test_the_failures_of_a_task_are_told_by_job(tmp_path):
    recipe = make_run(tmp_path, members=[MEMBERS[2], WILD])
    run = train_ensemble(recipe, workers=1).run
    jobs = [FoldJob(run.root, "wild", fold, "cpu") for fold in (0, 1)]
    with pytest.raises(FoldsFailed) as caught:
        train_folds(jobs)
    assert set(caught.value.errors) == {"wild/fold-0", "wild/fold-1"}
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), TrainingError)  # it comes from a worker
    assert not any(is_finished(run, job) for job in jobs)


def changed(tmp_path, change, **recipe):
    """A run on a corpus of which every utterance went through ``change``."""
    corpus = make_corpus(tmp_path)
    corpus = replace(corpus, utterances=tuple(change(row) for row in corpus.utterances))
    write_corpus(corpus, tmp_path / "corpus.csv")
    write_features(tmp_path, corpus)
    return load_recipe(write_recipe(tmp_path, members=[MEMBERS[2], MEMBERS[0]], **recipe))


def test_a_class_with_one_row_trains_and_is_scored(tmp_path):
    def rare(row):
        votes = (3.0, 0.0, 0.0) if row.votes[2] == max(row.votes) and row.id != "s0/2" else row.votes
        return replace(row, votes=votes)

    report = train_ensemble(changed(tmp_path, rare), workers=1)
    assert report.members
    assert all(not member.error and np.isfinite(member.macro_f1) for member in report.members)


def test_a_class_that_nobody_ever_chose_is_never_predicted_for_certain(tmp_path):
    report = train_ensemble(
        changed(
            tmp_path,
            lambda row: replace(row, votes=(*row.votes[:2], 0.0) if sum(row.votes[:2]) else (1.0, 0.0, 0.0)),
        ),
        workers=1,
    )
    assert report.members
    for member in report.members:
        assert not member.error
        table = Posteriors.load(report.run.posteriors_path(member.name))
        assert np.isfinite(table.class_probabilities).all()
        assert table.class_probabilities[:, 2].max() < 0.9


def test_folds_of_one_speaker_each_train(tmp_path):
    recipe = changed(tmp_path, lambda row: row, folds={"count": 8, "inner_share": 0.25})
    report = train_ensemble(recipe, workers=1)
    assert report.members
    assert all(not member.error for member in report.members)


def test_no_votes_at_all_is_one_clear_line_that_names_the_member(tmp_path):
    recipe = changed(
        tmp_path,
        lambda row: replace(row, votes=(0.0,) * len(CLASSES), other_votes=0.0, attributes=(np.nan,)),
    )
    with pytest.raises(TrainingError, match=r"no member could be trained; linear: .*rows has a target"):
        train_ensemble(recipe, workers=1)


def test_one_utterance_is_one_clear_line(tmp_path):
    corpus = make_corpus(tmp_path)
    corpus = replace(corpus, utterances=corpus.utterances[:1])
    write_corpus(corpus, tmp_path / "corpus.csv")
    write_features(tmp_path, corpus)
    with pytest.raises(CorpusError, match="3 speaker-disjoint parts need at least 3 speakers, there are 1"):
        train_ensemble(load_recipe(write_recipe(tmp_path)), workers=1)


def test_a_frame_that_is_not_a_number_is_named_with_its_utterance(tmp_path, monkeypatch):
    poisoned = []

    def poison(frames, dtype):
        stored = to_storage(frames, dtype)
        if dtype == "float16" and not poisoned:
            poisoned.append(1)
            stored[0, 0] = np.nan
        return stored

    monkeypatch.setattr(run_builder, "to_storage", poison)
    recipe = make_run(tmp_path, members=[MEMBERS[2]])
    report_error = r"linear/fold-\d: the loss.* became nan in epoch 1; utterance 's0/0' has frames in speech-"
    with pytest.raises(TrainingError, match=report_error):
        train_ensemble(recipe, workers=1)


def test_history_is_written_while_training_goes_on(tmp_path):
    recipe = make_run(tmp_path, members=[MEMBERS[2]])
    seen = []

    def listen(event):
        if event.kind == "advance" and "/fold-" in event.task:
            path = tmp_path / "run" / "members" / event.task / "history.csv"
            seen.append((event.done, len(path.read_text().splitlines()) - 1 if path.exists() else 0))

    train_ensemble(recipe, workers=1, context=Context(listener=listen))
    assert all(rows == done - 1 for done, rows in seen)  # an epoch is told of before it is written
    assert len(seen) == 21


def test_tensorboard_shows_every_epoch_once_also_after_an_interruption(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = make_run(tmp_path, members=[MEMBERS[2]])
    epochs = []

    def listen(event):
        if event.kind == "advance" and "/fold-" in event.task:
            epochs.append(event.done)

    with pytest.raises(Interrupted):
        train_ensemble(
            recipe, workers=1, context=Context(listener=listen, should_stop=lambda: len(epochs) >= 3)
        )
    time.sleep(1.1)  # TensorBoard reads event files in the order of the seconds in their names
    run = train_ensemble(recipe, workers=1).run
    shown = accumulators.EventAccumulator(str(run.tensorboard_folder("linear", 0))).Reload()
    with (run.fold_folder("linear", 0) / "history.csv").open() as stream:
        history = list(csv.DictReader(stream))
    for name in ("train_loss", "stop_loss", "macro_f1"):
        scalars = shown.Scalars(name)
        assert [scalar.step for scalar in scalars] == [int(row["epoch"]) for row in history]
        np.testing.assert_allclose(
            [scalar.value for scalar in scalars], [float(row[name]) for row in history], rtol=1e-5
        )


def test_without_tensorboard_there_is_the_history_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    run = train_ensemble(make_run(tmp_path, members=[MEMBERS[2]]), workers=1).run
    assert (run.fold_folder("linear", 0) / "history.csv").exists()
    assert not (run.root / "tensorboard").exists()


def test_a_device_out_of_memory_ends_that_member_and_no_other(tmp_path, monkeypatch):
    from sercache.training.loop import Training

    recipe = make_run(tmp_path, members=MEMBERS[1:])
    steps = Training.steps

    def too_large(self):
        if self.task.startswith("other/"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        yield from steps(self)

    monkeypatch.setattr(Training, "steps", too_large)
    report = train_ensemble(recipe, workers=1)
    errors = {member.name: member.error for member in report.members}
    assert errors["linear"] == ""
    assert "other/fold-0: cpu is out of memory; lower batch_size" in errors["other"]


def test_the_order_of_the_manifests_rows_does_not_matter(tmp_path):
    outcomes = []
    for name in ("one", "two"):
        recipe = make_run(tmp_path / name, members=MEMBERS[1:2], splits=["train"] * 6 + ["development"] * 2)
        corpus = read_corpus(recipe.corpus)
        if name == "two":
            write_corpus(replace(corpus, utterances=corpus.utterances[::-1]), recipe.corpus)
        train_ensemble(recipe, workers=1)
        weights, _ = outcome(recipe)
        outcomes.append(weights)
    assert outcomes[0] == outcomes[1]
