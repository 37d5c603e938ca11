"""Bundles whose members are normalised per speaker: predict and the run are one, and nobody guesses."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import yaml
from typer.testing import CliRunner

from sercache import Bundle
from sercache.bundle.card import model_card
from sercache.bundle.clips import ClipPrediction, FailedClip, Recording, Windows
from sercache.bundle.description import read_description, write_description
from sercache.bundle.export import export_bundle
from sercache.bundle.recordings import recordings_of
from sercache.cli.main import app
from sercache.corpus.manifest import write_corpus
from sercache.errors import BundleError, Interrupted, ServingError
from sercache.events import Context
from sercache.extract.extraction import extract
from sercache.posteriors import Posteriors
from sercache.recipe import load_recipe
from sercache.run import Run
from sercache.serving.server import refuse_speakers
from sercache.stacking.comparison import compare
from sercache.training.ensemble import train_ensemble
from support.bundle_runs import CLASSES, RATE_HZ, make_corpus, spoken

SPEAKER = {"normalize": "speaker"}
NOTE = "they have used other, unlabelled clips of the speakers they are scored on"


@pytest.fixture(scope="module")
def stacked(tmp_path_factory):
    """A run of two normalised members, closed-form and with epochs on one, and one that is not."""
    folder = tmp_path_factory.mktemp("speakers")
    corpus = make_corpus(folder)
    write_corpus(corpus, folder / "corpus.csv")
    recipe = {
        "corpus": "corpus.csv",
        "features": {"speech": {"encoder": "logmel", "time_pool": 3}, "words": {"encoder": "char-ngrams"}},
        "folds": {"count": 2, "inner_share": 0.3},
        "training": {
            "batch_size": 8,
            "stage1": {"epochs": 2, "learning_rate": 0.01},
            "stage2": {"epochs": 1, "learning_rate": 0.001},
        },
        "members": [
            {"name": "ridge", "head": "ridge", "features": ["speech"], "training": SPEAKER},
            {
                "name": "fused",
                "head": "mean-linear",
                "features": ["speech", "words"],
                "options": {"base": "ridge"},
                "training": SPEAKER,
            },
            {"name": "plain", "head": "mean-linear", "features": ["speech"]},
        ],
        "stacking": {"stackers": ["soft-vote", "best-single"], "bootstrap_samples": 100},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    loaded = load_recipe(folder / "recipe.yaml")
    extract(corpus, loaded.features, loaded.cache)
    report = train_ensemble(loaded, workers=1)
    assert report.normalized_members == ("ridge", "fused")
    comparison = compare(Run(loaded.output))
    assert comparison.normalized_members == ("ridge", "fused")
    export_bundle(Run(loaded.output), folder / "bundle", stacker="soft-vote")
    return folder, corpus


@pytest.fixture(scope="module")
def bundle(stacked):
    return Bundle.load(stacked[0] / "bundle", device="cpu")


def probabilities(answers):
    assert all(isinstance(answer, ClipPrediction) for answer in answers), answers
    return np.asarray([[answer.posteriors[name] for name in CLASSES] for answer in answers])


@pytest.mark.parametrize("with_cache", [False, True])
def test_held_out_speakers_get_what_the_run_gave_them(stacked, with_cache, tmp_path):
    folder, corpus = stacked
    bundle = Bundle.load(folder / "bundle", device="cpu", cache=tmp_path / "kept" if with_cache else None)
    held_out = recordings_of(corpus, "test")
    answers = list(bundle.predict(held_out))
    assert len(answers) == 12
    run = Run(folder / "runs" / "recipe")
    ids = [recording.id for recording in held_out]
    for member in ("ridge", "fused", "plain"):
        wanted = Posteriors.load(run.posteriors_path(member)).take(ids).class_probabilities
        predicted = [[answer.members[member][name] for name in CLASSES] for answer in answers]
        np.testing.assert_allclose(predicted, wanted, atol=1e-4)
    again = list(bundle.predict(held_out[::-1]))[::-1]
    np.testing.assert_allclose(probabilities(again), probabilities(answers), atol=1e-5)


def test_who_speaks_changes_what_is_predicted(stacked, bundle):
    held_out = recordings_of(stacked[1], "test")
    mixed = [replace(recording, speaker="ab"[number % 2]) for number, recording in enumerate(held_out)]
    true, wrong = list(bundle.predict(held_out)), list(bundle.predict(mixed))
    for member, moves in (("ridge", True), ("fused", True), ("plain", False)):
        before, after = (
            np.asarray([list(answer.members[member].values()) for answer in answers])
            for answers in (true, wrong)
        )
        assert (np.abs(before - after).max() > 1e-2) == moves, member


def test_a_speaker_is_what_the_input_holds_of_the_speaker(stacked, bundle):
    """Another speaker's clips beside them change nothing; fewer clips of the same speaker do."""
    held_out = recordings_of(stacked[1], "test")
    same_speaker = [recording for recording in held_out if recording.speaker == "s6"]
    together, alone = list(bundle.predict(held_out)), list(bundle.predict(same_speaker))
    fewer = list(bundle.predict(same_speaker[:3]))
    np.testing.assert_allclose(probabilities(alone), probabilities(together[: len(same_speaker)]), atol=1e-5)
    assert np.abs(probabilities(fewer) - probabilities(alone)[:3]).max() > 1e-4


def test_what_cannot_be_normalised_is_a_row_that_says_why(stacked, bundle, tmp_path):
    held_out = recordings_of(stacked[1], "test")[:4]
    (tmp_path / "broken.wav").write_bytes(b"RIFF....")
    others = [
        replace(held_out[0], id="twice", speaker="a"),
        replace(held_out[1], id="twice more", speaker="a"),
        replace(held_out[1], id="nobody", speaker=None),
        Recording("broken", tmp_path / "broken.wav", "yes", speaker="s6"),
    ]
    answers = list(bundle.predict([*held_out, *others]))
    assert [type(answer) for answer in answers] == [ClipPrediction] * 4 + [FailedClip] * 4
    need = "members are normalised per speaker and need 3 recordings of the speaker"
    assert answers[4].error == answers[5].error == f"speech: {need}; there are 2 of 'a'"
    assert answers[6].error == f"speech: {need}; the speaker of this one is not known"
    assert need not in answers[7].error
    np.testing.assert_allclose(
        probabilities(answers[:4]), probabilities(list(bundle.predict(held_out))), atol=1e-6
    )


def test_windows_are_normalised_as_their_recording_is(stacked, bundle, tmp_path):
    held_out = recordings_of(stacked[1], "test")[:5]
    waveform = np.concatenate([spoken("Angry", 1.0, 1), spoken("Sad", 1.0, 2)])
    soundfile.write(tmp_path / "long.wav", waveform, RATE_HZ, subtype="FLOAT")
    long = Recording("long", tmp_path / "long.wav", "yes", speaker="s6")
    *_, answer = bundle.predict([*held_out, long], windows=Windows(1.0, 0.5))
    assert [window.start_seconds for window in answer.windows] == pytest.approx([0.0, 0.5, 1.0])
    (last,) = [answer for answer in bundle.predict([*held_out, long]) if answer.id == "long"]
    assert last.probabilities == pytest.approx(answer.probabilities)


def test_it_stops_while_it_measures(stacked, bundle):
    with pytest.raises(Interrupted, match="while speakers were measured"):
        list(bundle.predict(recordings_of(stacked[1], "test"), context=Context(should_stop=lambda: True)))


def test_commands_predict_with_a_manifest_or_a_name_and_refuse_without(stacked, tmp_path):
    folder, corpus = stacked
    paths = [str(corpus.audio_path(row)) for row in corpus.utterances if row.speaker == "s6"]

    def predict(*arguments):
        result = CliRunner().invoke(app, ["predict", str(folder / "bundle"), *arguments, "--format", "jsonl"])
        return result, [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]

    result, by_manifest = predict("--corpus", str(folder / "corpus.csv"), "--split", "test")
    assert result.exit_code == 0
    result, by_name = predict(*paths, "--speaker", "ann")
    assert result.exit_code == 0
    for answer, other in zip(by_name, by_manifest[:6], strict=True):
        assert answer["members"]["ridge"] == pytest.approx(other["members"]["ridge"], abs=1e-4)
    for arguments, reason in (
        (paths, "no speaker is known: give --speaker NAME where all recordings are of one speaker"),
        ((*paths[:2], "--speaker", "ann"), "there are 2 of 'ann', and no more of others"),
        ((paths[0], "--speaker", "ann"), "there is 1 of 'ann'"),
    ):
        result, answers = predict(*arguments)
        assert isinstance(result.exception, BundleError)  # which main() turns into one line and exit code 2
        assert reason in str(result.exception)
        assert "bundle normalises each speaker with 3 or more recordings" in str(result.exception)
        assert answers == []


def test_it_is_not_served(bundle):
    with pytest.raises(ServingError, match="cannot be served: member ridge is normalised per speaker"):
        refuse_speakers(bundle)


def test_tables_cards_and_descriptions_say_so(stacked):
    folder, _ = stacked
    description = read_description(folder / "bundle")
    assert description.normalized_members == ("ridge", "fused")
    card = (folder / "bundle" / "README.md").read_text()
    assert NOTE in card
    assert "--speaker ann" in card
    assert "at least 3 recordings of each speaker" in card
    run = folder / "runs" / "recipe"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["normalized_members"] == ["ridge", "fused"]
    for command in (["train-ensemble", str(folder / "recipe.yaml")], ["stack", str(run)]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0
        assert f"Members ridge, fused are normalised per speaker: {NOTE}." in " ".join(result.stdout.split())
    assert NOTE in (run / "report.html").read_text()


def test_bundles_of_before_need_no_speaker(stacked, tmp_path):
    """A bundle without the field: its members are not normalised, whatever its heads were trained on."""
    folder, _ = stacked
    export_bundle(Run(folder / "runs" / "recipe"), tmp_path / "plain", stacker="best-single")
    description = read_description(tmp_path / "plain")
    content = description.model_dump(mode="json")
    for member in content["members"]:
        del member["normalize"]
    old = type(description).model_validate(content)
    assert old.members
    assert all(member.normalize == "none" for member in old.members)
    assert "normalised" not in model_card(old)
    if description.normalized_members:  # then the heads contradict it, and that is said
        shutil.copytree(tmp_path / "plain", tmp_path / "old")
        (tmp_path / "old" / "bundle.json").unlink()
        write_description(tmp_path / "old", old)
        with pytest.raises(BundleError, match="has the normalize speaker, the bundle none"):
            Bundle.load(tmp_path / "old", device="cpu")
