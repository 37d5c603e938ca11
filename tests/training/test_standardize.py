import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sercache.training.member as member_module
from sercache.cache.frames import from_storage, to_storage
from sercache.cache.ledger import Ledger
from sercache.cache.store import Cache
from sercache.corpus.manifest import read_corpus, write_corpus
from sercache.errors import EncoderError, Interrupted, RecipeError, TrainingError
from sercache.events import Context
from sercache.posteriors import Posteriors
from sercache.recipe import load_recipe
from sercache.run import derived_members
from sercache.training.batches import FrameSource
from sercache.training.checkpoint import load_head
from sercache.training.data import open_run
from sercache.training.ensemble import lay_out, train_ensemble
from sercache.training.member import FoldJob, fold_rows, train_fold
from sercache.training.pooled_features import pooled_table
from sercache.training.rows import LabelledRows
from sercache.training.standardize import MIN_CLIPS, input_statistics, speaker_statistics
from support import run_builder
from support.run_builder import CLASSES, DIMS, make_corpus, make_run, write_features, write_recipe

CPU = torch.device("cpu")
SPEAKER = {"normalize": "speaker"}
RIDGE = {"name": "ridge", "head": "ridge", "features": ["speech", "words"], "training": SPEAKER}
LINEAR = {"name": "linear", "head": "mean-linear", "features": ["speech", "words"], "training": SPEAKER}
PLAIN = {"name": "plain", "head": "ridge", "features": ["speech", "words"]}


def shifted_features(folder, corpus, *, spread=6.0, stretched=True, missing=(), seed=5):
    """Frames around a point per class, moved and stretched by each speaker: voices hide the classes."""
    generator = np.random.default_rng(seed)
    centres = {name: generator.normal(size=(len(CLASSES), dim)) for name, dim in DIMS.items()}
    speakers = sorted({row.speaker or "" for row in corpus.utterances})
    voices = {
        (name, speaker): spread * generator.normal(size=dim)
        for name, dim in DIMS.items()
        for speaker in speakers
    }
    stretch = {speaker: generator.uniform(0.7, 1.6) if stretched else 1.0 for speaker in speakers}

    def centre_of(name, row):
        centre = centres[name][int(np.argmax(row.votes))]
        return voices[name, row.speaker or ""] + stretch[row.speaker or ""] * centre

    write_features(folder, corpus, missing=missing, centre_of=centre_of)


def make_shifted(folder, *, splits=None, missing=(), change=lambda row: row, voices=None, **changes):
    folder.mkdir(exist_ok=True)
    corpus = make_corpus(folder, splits=splits)
    corpus = replace(corpus, utterances=tuple(map(change, corpus.utterances)))
    write_corpus(corpus, folder / "corpus.csv")
    shifted_features(folder, corpus, missing=missing, **(voices or {}))
    return load_recipe(write_recipe(folder, **{"members": [RIDGE, LINEAR, PLAIN], **changes}))


@pytest.mark.parametrize("in_members", [True, False], ids=["of the members", "of the recipe"])
def test_the_baseline_of_normalised_members_is_not_normalised(tmp_path, in_members):
    members = [RIDGE] if in_members else [{**RIDGE, "training": {}}]
    recipe = make_shifted(tmp_path / "run", members=members, **({} if in_members else {"training": SPEAKER}))
    report = train_ensemble(recipe, workers=1)
    baseline = report.baseline
    assert report.normalized_members == ("ridge",)
    assert not baseline.is_in_recipe
    (derived,) = derived_members(report.run)
    assert (derived.name, derived.member.head) == (baseline.member.name, "ridge")
    assert not recipe.normalizes_speakers(derived.member)
    assert baseline.differences["ridge"].value > 0.1, "voices hide the classes from the baseline"
    path = report.run.fold_folder(baseline.member.name, 0) / "weights.safetensors"
    assert load_head(path)[1].normalize == "none"


def test_a_plain_closed_form_member_is_the_baseline_of_a_normalised_one(tmp_path):
    recipe = make_shifted(tmp_path / "run", members=[RIDGE, PLAIN])
    report = train_ensemble(recipe, workers=1)
    assert report.baseline.is_in_recipe
    assert report.baseline.member.name == "plain"
    assert set(report.baseline.differences) == {"ridge"}


def lay_out_run(recipe):
    """Lay a run out in which nothing is trained; utterances without frames have failed in extraction."""
    for feature_set in Cache(recipe.cache).feature_sets():
        ledger = Ledger(feature_set.folder)
        for utterance_id in feature_set.missing(read_corpus(recipe.corpus).ids):
            ledger.record(utterance_id, "encode", EncoderError("no frames"), "0" * 12)
        ledger.save()
    return lay_out(recipe)


def outcome(recipe):
    """Everything a run predicts and every weight it keeps, as bytes."""
    root = recipe.output.resolve()
    files = [*root.glob("members/*/fold-*/weights.safetensors"), *root.glob("members/*/posteriors.parquet")]
    assert files
    return {path.relative_to(root): path.read_bytes() for path in files}


def raw_frames(feature_set, utterance_id):
    """``(L, T, D)`` of an utterance, float64; no frames where it has none."""
    if utterance_id not in feature_set:
        return np.zeros((len(feature_set.layers), 0, feature_set.dim))
    planes = [feature_set.frames(utterance_id, layer) for layer in feature_set.layers]
    return np.stack([from_storage(plane, feature_set.spec.dtype) for plane in planes]).astype(np.float64)


def expected(feature_set, corpus, row):
    """An oracle: the z-scores of a clip over all frames of its speaker, or of the training rows."""
    mates = [
        candidate
        for candidate in corpus.utterances
        if row.speaker is not None and candidate.speaker == row.speaker
    ]
    mates = [mate for mate in mates if mate.id in feature_set]
    if len(mates) < MIN_CLIPS:
        mates = [candidate for candidate in corpus.utterances if (candidate.split or "train") == "train"]
    frames = np.concatenate([raw_frames(feature_set, mate.id) for mate in mates], axis=1)
    mean, deviation = frames.mean(axis=1, keepdims=True), frames.std(axis=1, keepdims=True)
    return ((raw_frames(feature_set, row.id) - mean) / deviation).transpose(1, 0, 2).squeeze(1)  # (T, D)


def odd(row):
    """Speaker s0 keeps one clip, s1 two, and one row names nobody."""
    speaker, number = row.id.split("/")
    if speaker == "s0" and number != "0":
        return replace(row, speaker="s2")
    if speaker == "s1" and int(number) > 1:
        return replace(row, speaker="s3")
    return replace(row, speaker=None) if row.id == "s4/5" else row


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("change", [lambda row: row, odd])
def test_frames_are_z_scores_of_all_clips_of_the_speaker(tmp_path, resident, change):
    missing = {("words", f"s5/{number}") for number in range(2, 9)}  # two clips of s5 have words
    recipe = make_shifted(tmp_path, splits=["train"] * 6 + ["test"] * 2, missing=missing, change=change)
    data = lay_out_run(recipe)
    sets = [data.feature_sets[name] for name in ("speech", "words")]
    tables = [data.speakers(name) for name in ("speech", "words")]
    source = FrameSource(sets, data.corpus.ids, CPU, resident)
    rows = np.arange(len(data.corpus))[::-1].copy()
    before = [given.frames.clone() for given in source.batch(rows)]
    batches = source.normalized(tables).batch(rows)
    compared = 0
    for feature_set, given in zip(sets, batches, strict=True):
        for place, row in enumerate(rows):
            wanted = expected(feature_set, data.corpus, data.corpus.utterances[row])
            found = given.frames[place][given.mask[place]].numpy()
            np.testing.assert_allclose(found, wanted, atol=2e-5)
            compared += len(wanted)
    assert compared > 300
    for given, wanted in zip(source.batch(rows), before, strict=True):
        assert torch.equal(given.frames, wanted)  # who is not normalised reads the frames as they are
    assert tables[1].averaged == (2 if change is not odd else 2 + 1 + 2 + 1)


def test_what_is_standardised_and_pooled_is_normalised_first(tmp_path):
    recipe = make_shifted(tmp_path)
    data = lay_out_run(recipe)
    feature_set, table = data.feature_sets["speech"], data.speakers("speech")
    ids = tuple(sorted(data.corpus.ids))[: 5 * 9]
    rows = [data.corpus.by_id[utterance_id] for utterance_id in ids]
    frames = [expected(feature_set, data.corpus, row) for row in rows]
    found = input_statistics(feature_set, ids, 0, table)
    np.testing.assert_allclose(found.mean, np.concatenate(frames).mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.deviation, np.concatenate(frames).std(axis=0), atol=1e-5)
    pooled = pooled_table(
        feature_set, ids, ("mean", "deviation", "maximum"), CPU, tmp_path / "pooled", speakers=table
    )
    wanted = [
        [frames_of_row.mean(axis=0), frames_of_row.std(axis=0), frames_of_row.max(axis=0)]
        for frames_of_row in frames
    ]
    np.testing.assert_allclose(pooled.values[:, :, 0], wanted, atol=2e-5)


def test_normalised_members_hear_the_class_behind_voices_that_hide_it(tmp_path):
    report = train_ensemble(make_shifted(tmp_path), workers=1)
    scores = {member.name: member.macro_f1 for member in report.members}
    assert scores["ridge"] > 0.8 > scores["plain"] + 0.1
    assert report.normalized_members == ("ridge", "linear")


def test_moving_all_frames_of_a_speaker_changes_nothing(tmp_path):
    """What is left is how the cache rounds."""
    tables = {}
    for name, spread in (("near", 0.5), ("far", 3.0)):
        members = [{**member, "features": ["speech"]} for member in (RIDGE, PLAIN)]
        voices = {"spread": spread, "stretched": False}
        recipe = make_shifted(tmp_path / name, members=members, voices=voices)
        run = train_ensemble(recipe, workers=1).run
        tables[name] = [Posteriors.load(run.posteriors_path(member)) for member in ("ridge", "plain")]
    apart = [
        np.abs(near.class_probabilities - far.class_probabilities).max()
        for near, far in zip(tables["near"], tables["far"], strict=True)
    ]
    assert apart[0] < 0.03
    assert apart[1] > 0.2


@pytest.mark.parametrize("member", [RIDGE, LINEAR], ids=["closed form", "epochs"])
def test_labels_of_the_judged_rows_are_not_used(tmp_path, monkeypatch, member):
    recipe = make_shifted(tmp_path, members=[member])
    data = lay_out_run(recipe)
    rows = fold_rows(data, recipe.members[0], 1)
    job = FoldJob(data.run.root, member["name"], 1, "cpu")
    predictions = data.run.fold_folder(member["name"], 1) / "predictions.parquet"

    def turned(row):
        is_judged = row.id in rows.predicted["out-of-fold"]
        return replace(row, votes=row.votes[1:] + row.votes[:1], attributes=(2.5,)) if is_judged else row

    corpus = replace(data.corpus, utterances=tuple(map(turned, data.corpus.utterances)))
    other = replace(
        data,
        corpus=corpus,
        rows=LabelledRows.of(corpus, recipe.targets),
        **{name: {} for name in ("_rows", "_frames", "_statistics", "_pooled", "_speakers")},
    )
    found = []
    for used in (data, other):
        monkeypatch.setattr(member_module, "open_run", lambda root, used=used: used)
        list(train_fold(job))
        found.append(Posteriors.load(predictions))
        predictions.with_name("weights.safetensors").unlink()
    assert not np.array_equal(data.rows.soft, other.rows.soft, equal_nan=True)
    np.testing.assert_array_equal(found[0].class_probabilities, found[1].class_probabilities)
    np.testing.assert_array_equal(found[0].attribute_values, found[1].attribute_values)


def test_other_speakers_in_the_manifest_give_other_predictions(tmp_path):
    """Each speaker lends the last clip to the next one: who speaks matters, beside who is learned from."""

    def lend(row):
        speaker, number = row.id.split("/")
        return replace(row, speaker=f"s{(int(speaker[1:]) + 1) % 8}") if int(number) % 2 else row

    tables = []
    for name, change in (("true", lambda row: row), ("lent", lend)):
        recipe = make_shifted(tmp_path / name, members=[RIDGE])
        data = lay_out_run(recipe)
        corpus = replace(data.corpus, utterances=tuple(map(change, data.corpus.utterances)))
        tables.append(speaker_statistics(data.feature_sets["speech"], corpus, data.run.root / "speakers"))
    assert tables[0].digest != tables[1].digest
    assert not torch.allclose(tables[0].mean, tables[1].mean, atol=0.1)


def test_rows_that_are_normalised_as_the_average_are_counted_in_a_warning(tmp_path):
    recipe = make_shifted(tmp_path, change=odd, members=[RIDGE])
    warnings = []
    report = train_ensemble(
        recipe,
        workers=1,
        context=Context(listener=lambda event: event.kind == "warning" and warnings.append(event.message)),
    )
    assert report.members[0].error == ""
    about = [message for message in warnings if "average speaker" in message]
    assert len(about) == 2  # one line per feature set
    assert all("4 utterances name no speaker, or one with fewer than 3 clips" in message for message in about)


def test_members_with_a_modality_missing_are_trained_and_predicted(tmp_path):
    missing = {("words", f"s{speaker}/{number}") for speaker in range(8) for number in (0, 4)}
    missing |= {("words", f"s5/{number}") for number in range(9)}
    recipe = make_shifted(tmp_path, missing=missing)
    lay_out_run(recipe)
    report = train_ensemble(recipe, workers=1)
    assert [member.error for member in report.members] == ["", "", ""]
    table = Posteriors.load(report.run.posteriors_path("ridge"))
    assert len(table.ids) == 8 * 9
    assert np.isfinite(table.class_probabilities).all()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    recipe = make_shifted(tmp_path_factory.mktemp("speakers"))
    train_ensemble(recipe, workers=1)
    return recipe, outcome(recipe)


@pytest.mark.parametrize("stop_after", [3, 9])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(tmp_path, finished, stop_after):
    recipe = make_shifted(tmp_path / "again")
    epochs = Counter()

    def count(event):
        epochs[event.task] += event.kind == "advance" and event.task.startswith("linear")

    with pytest.raises(Interrupted):
        train_ensemble(
            recipe,
            workers=1,
            context=Context(listener=count, should_stop=lambda: epochs.total() >= stop_after),
        )
    train_ensemble(recipe, workers=1)
    assert outcome(recipe) == finished[1]


def test_two_processes_train_the_same_run(tmp_path, finished):
    recipe = make_shifted(tmp_path / "again", members=[RIDGE, PLAIN])
    train_ensemble(recipe, workers=2)
    found = outcome(recipe)
    assert len(found) == 8
    assert found == {path: content for path, content in finished[1].items() if path in found}


def test_speakers_are_measured_once_and_measured_anew_where_the_table_is_damaged(tmp_path):
    data = lay_out_run(make_shifted(tmp_path))
    feature_set, folder = data.feature_sets["speech"], tmp_path / "speakers"
    seen = []
    first = speaker_statistics(feature_set, data.corpus, folder, context=Context(listener=seen.append))
    assert seen[-1].done == seen[-1].total == len(data.corpus)
    again = speaker_statistics(
        feature_set, data.corpus, folder, context=Context(listener=lambda event: seen.append(1 / 0))
    )
    (path,) = folder.iterdir()
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-3] ^= 16
    for damaged in (content[:-50], bytes(flipped), b""):
        path.write_bytes(damaged)
        anew = speaker_statistics(feature_set, data.corpus, folder)
        for table in (again, anew):
            assert torch.equal(table.mean, first.mean)
            assert torch.equal(table.scale, first.scale)
            assert table.digest == first.digest
        assert path.read_bytes() == content
    with pytest.raises(Interrupted, match="while speakers were measured"):
        speaker_statistics(
            feature_set, data.corpus, tmp_path / "other", context=Context(should_stop=lambda: True)
        )


def test_a_frame_that_is_no_number_costs_only_the_members_that_need_it(tmp_path, monkeypatch):
    """The cache's writer refuses such frames; a shard may come from elsewhere."""

    def careless(frames, dtype):
        return to_storage(frames, dtype) if np.isfinite(frames).all() else frames.astype(np.float16)

    def centre_of(name, row):
        return np.full(DIMS[name], np.nan if (name, row.id) == ("speech", "s3/2") else np.argmax(row.votes))

    monkeypatch.setattr(run_builder, "to_storage", careless)
    corpus = make_corpus(tmp_path)
    write_features(tmp_path, corpus, centre_of=centre_of)
    members = [RIDGE, {**RIDGE, "name": "healthy", "features": ["words"]}]
    report = train_ensemble(load_recipe(write_recipe(tmp_path, members=members)), workers=1)
    assert "utterance 's3/2' has frames that are no finite numbers" in report.members[0].error
    assert report.members[1].error == ""


def test_a_checkpoint_says_that_its_member_is_normalised_and_old_ones_are_not(finished, tmp_path):
    run = open_run(finished[0].output.resolve()).run
    path = run.fold_folder("ridge", 0) / "weights.safetensors"
    assert load_head(path)[1].normalize == "speaker"
    assert load_head(run.fold_folder("plain", 0) / "weights.safetensors")[1].normalize == "none"

    def rewritten(change):
        stated = json.loads(metadata_of(path)["sercache"])
        change(stated)
        copy = tmp_path / "copy.safetensors"
        save_file(load_file(path), copy, metadata={"sercache": json.dumps(stated)})
        return copy

    assert load_head(rewritten(lambda stated: stated.pop("normalize")))[1].normalize == "none"
    with pytest.raises(TrainingError, match="unknown normalisation 'room'; a newer sercache reads it"):
        load_head(rewritten(lambda stated: stated.update(normalize="room")))


def metadata_of(path):
    with safe_open(path, framework="pt") as stream:
        return stream.metadata()


def test_a_run_from_before_the_setting_goes_on(tmp_path):
    recipe = make_run(tmp_path, members=[{"name": "ridge", "head": "ridge", "features": ["speech"]}])
    run = train_ensemble(recipe, workers=1).run
    described = json.loads(run.description_path.read_text())
    del described["recipe"]["training"]["normalize"]
    run.description_path.write_text(json.dumps(described))
    before = outcome(recipe)
    train_ensemble(recipe, workers=1)
    assert outcome(recipe) == before
    with pytest.raises(RecipeError, match=r"another recipe \(training.normalize\)"):
        train_ensemble(
            load_recipe(
                write_recipe(
                    tmp_path,
                    members=[dict(RIDGE, features=["speech"], training={})],
                    training={**recipe.training.model_dump(), "normalize": "speaker"},
                )
            ),
            workers=1,
        )
