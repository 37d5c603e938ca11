"""The way through the bundle and the way through the cache are one."""

import shutil
from dataclasses import replace
from itertools import pairwise

import h5py
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from sercache import Bundle
from sercache.bundle.clips import ClipPrediction, FailedClip, Recording, Segment, Windows, read_recording
from sercache.bundle.features import FeatureExtractor
from sercache.bundle.models import attribute_disagreement, disagreement
from sercache.bundle.recordings import recordings_of
from sercache.cache.store import Cache
from sercache.corpus import Attribute
from sercache.corpus.readers.registry import READERS
from sercache.errors import BundleError, CacheError
from sercache.posteriors import Posteriors
from support.bundle_runs import CLASSES, RATE_HZ, finish_run, spoken


@pytest.fixture(scope="module")
def bundle(bundle_folder):
    return Bundle.load(bundle_folder, device="cpu")


def posteriors_of(answers):
    return np.asarray([[answer.posteriors[name] for name in CLASSES] for answer in answers])


@pytest.mark.parametrize(
    "stacker",
    ["baseline", "best-single", "soft-vote", "greedy", "weighted", "logistic", "neural", "soup", "lightgbm"],
)
def test_held_out_rows_get_the_posteriors_that_stack_gave_them(finished, stacker, tmp_path):
    folder = finished.bundle(tmp_path / stacker, stacker=stacker).folder
    bundle = Bundle.load(folder, device="cpu")
    held_out = recordings_of(finished.corpus, "test")
    answers = list(bundle.predict(held_out))
    stacked = Posteriors.load(finished.run.stacker_folder(stacker) / "posteriors.parquet")
    wanted = stacked.take([recording.id for recording in held_out])
    assert len(answers) == 12
    np.testing.assert_allclose(posteriors_of(answers), wanted.class_probabilities, atol=1e-4)
    arousal = [answer.attributes["arousal"] for answer in answers]
    np.testing.assert_allclose(arousal, wanted.attribute_values[:, 0], atol=1e-4)


def test_so_do_real_recordings(shared_data, checkpoint, tmp_path):
    """EmoDB, of six speakers; two of them are held out."""
    corpus = READERS["emodb"](shared_data / "emodb", {})
    speakers = sorted({row.speaker for row in corpus.utterances})[:6]
    rows = [row for row in corpus.utterances if row.speaker in speakers][::3]
    split = {speaker: "test" if speaker in speakers[4:] else "train" for speaker in speakers}
    corpus = replace(corpus, utterances=tuple(replace(row, split=split[row.speaker]) for row in rows))
    finished = finish_run(tmp_path, checkpoint("wavlm+layer"), corpus)
    bundle = Bundle.load(finished.bundle(tmp_path / "b", stacker="soup").folder, device="cpu")
    held_out = recordings_of(corpus, "test")
    stacked = Posteriors.load(finished.run.stacker_folder("soup") / "posteriors.parquet")
    wanted = stacked.take([recording.id for recording in held_out]).class_probabilities
    predicted = [list(answer.posteriors.values()) for answer in bundle.predict(held_out)]
    assert len(predicted) >= 20
    np.testing.assert_allclose(predicted, wanted, atol=1e-4)


def test_members_are_the_mean_of_their_fold_models(finished, bundle):
    held_out = recordings_of(finished.corpus, "test")
    answers = list(bundle.predict(held_out))
    for member in ("fusion", "deep", "layered"):
        expected = Posteriors.load(finished.run.posteriors_path(member)).take(
            [recording.id for recording in held_out]
        )
        predicted = [[answer.members[member][name] for name in CLASSES] for answer in answers]
        np.testing.assert_allclose(predicted, expected.class_probabilities, atol=1e-5)


def test_members_without_weight_stay_out_with_their_encoders(finished, tmp_path):
    description = finished.bundle(tmp_path / "best", stacker="best-single").description
    (member,) = description.members
    assert set(description.unread_members) | {member.name} == {"fusion", "deep", "layered"}
    assert set(description.features) <= {*member.features, "speech"}  # the extras read 'speech'


def test_no_recording_depends_on_its_mates(finished, bundle):
    recordings = recordings_of(finished.corpus)
    together = {answer.id: answer for answer in bundle.predict(recordings)}
    assert list(together) == [recording.id for recording in recordings]
    for recording in recordings[::7]:
        (alone,) = bundle.predict([recording])
        np.testing.assert_allclose(posteriors_of([alone]), posteriors_of([together[recording.id]]), atol=1e-5)


def test_a_bad_recording_is_a_row_that_says_why(finished, bundle, tmp_path):
    good = recordings_of(finished.corpus, "test")[:2]
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "noise.mp3").write_bytes(b"no audio at all")
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE_HZ), RATE_HZ)
    bad = [
        Recording(name, tmp_path / name, "yes")
        for name in ("empty.wav", "noise.mp3", "silent.wav", "gone.wav")
    ]
    answers = list(bundle.predict([good[0], *bad, good[1]]))
    assert [type(answer) for answer in answers] == [ClipPrediction, *[FailedClip] * 4, ClipPrediction]
    reasons = ("empty file", "not audio", "silent", "no such file")
    for answer, reason in zip(answers[1:5], reasons, strict=True):
        assert reason in answer.error
        assert "\n" not in answer.error


def test_words_that_nobody_knows(finished, bundle):
    (recording,) = recordings_of(finished.corpus, "test")[:1]
    (answer,) = bundle.predict([Recording("wordless", recording.path)])
    assert isinstance(answer, ClipPrediction)  # every member hears sound as well
    assert answer.notes == ("predicted without text: none is known",)
    (answer,) = bundle.predict([Recording("soundless", None, "yes")])
    assert isinstance(answer, FailedClip)
    assert "and the recording has none" in answer.error


def test_words_are_transcribed_where_a_model_is_named(finished, bundle_folder, tiny_whisper, make_spoken):
    bundle = Bundle.load(bundle_folder, device="cpu", transcriber=str(tiny_whisper))
    assert bundle.can_transcribe
    corpus = make_spoken(1.0)
    (answer,) = bundle.predict([Recording("a", corpus.audio_path(corpus.utterances[0]))])
    assert answer.text
    (same,) = bundle.predict([Recording("a", corpus.audio_path(corpus.utterances[0]), answer.text)])
    np.testing.assert_allclose(posteriors_of([same]), posteriors_of([answer]), atol=1e-9)


@given(st.floats(0.1, 100), st.floats(0.5, 10), st.floats(0.1, 10))
def test_windows_cover_a_recording_and_end_with_it(seconds, length, hop):
    spans = Windows(length, min(hop, length)).spans(seconds)
    assert spans[0][0] == 0
    assert spans[-1][1] == pytest.approx(seconds)
    for (start, end), (later, _) in pairwise(spans):
        assert start < later <= end + 1e-9
        assert end - start == pytest.approx(length)


def test_a_window_is_heard_as_the_same_stretch_alone(bundle, tmp_path):
    waveform = np.concatenate([spoken("Angry", 1.0, 1), spoken("Sad", 1.0, 2), spoken("Happy", 0.5, 3)])
    soundfile.write(tmp_path / "long.wav", waveform, RATE_HZ, subtype="FLOAT")
    (answer,) = bundle.predict([Recording("long", tmp_path / "long.wav", "yes")], windows=Windows(1.0, 0.5))
    assert [window.start_seconds for window in answer.windows] == pytest.approx([0.0, 0.5, 1.0, 1.5])
    soundfile.write(tmp_path / "cut.wav", waveform[RATE_HZ : 2 * RATE_HZ], RATE_HZ, subtype="FLOAT")
    (alone,) = bundle.predict([Recording("cut", tmp_path / "cut.wav")])
    for name in CLASSES:
        assert answer.windows[2].probabilities[name] == pytest.approx(alone.probabilities[name], abs=1e-5)
    assert "the timeline uses the audio alone" in answer.notes[0]
    (whole,) = bundle.predict([Recording("cut", tmp_path / "cut.wav", "yes")], windows=Windows(6.0, 3.0))
    assert whole.windows[0].probabilities == pytest.approx(dict(whole.probabilities), abs=1e-6)


def test_words_of_a_window_are_heard_in_the_window(bundle_folder, tiny_whisper, make_spoken):
    bundle = Bundle.load(bundle_folder, device="cpu", transcriber=str(tiny_whisper), language="en")
    corpus = make_spoken(2.0)
    path = corpus.audio_path(corpus.utterances[0])
    (answer,) = bundle.predict([Recording("a", path)], windows=Windows(1.0, 1.0))
    (cut,) = bundle.predict([Recording("cut", path, start_seconds=1.0, end_seconds=2.0)])
    assert cut.text
    for name in CLASSES:
        assert answer.windows[1].probabilities[name] == pytest.approx(cut.probabilities[name], abs=1e-5)


def test_a_long_recording_pads_nobody_and_few_windows_are_held(bundle, tmp_path, monkeypatch):
    """Memory: the frames of a batch stay within bounds, however long the recording."""
    sizes = []
    batch = FeatureExtractor.batch

    def seen(self, frames, device):
        inputs = batch(self, frames, device)
        sizes.append(tuple(inputs.frames.shape[:2]))
        return inputs

    monkeypatch.setattr(FeatureExtractor, "batch", seen)
    waveform = np.tile(spoken("Angry", 10.0, 1), 20)
    soundfile.write(tmp_path / "long.flac", waveform, RATE_HZ)
    short = [Recording(f"short-{number}", tmp_path / "long.flac", "yes", 0.0, 1.0) for number in range(5)]
    long = Recording("long", tmp_path / "long.flac", "yes")
    *_, answer = bundle.predict([*short, long], windows=Windows(5.0, 2.5))
    assert len(answer.windows) == 79
    assert all(rows == 1 or rows * longest <= 16_384 for rows, longest in sizes)
    assert max(rows for rows, _ in sizes) <= 60


@pytest.mark.parametrize("where", ["encoder", "head"])
def test_an_error_over_one_recording_costs_that_one(finished, bundle, monkeypatch, where):
    recordings = recordings_of(finished.corpus, "test")[:5]
    good = {answer.id: answer for answer in bundle.predict(recordings)}
    odd = read_recording(recordings[2], frozenset({RATE_HZ})).whole
    extractor = bundle._extractors["deep"]
    odd_frames = extractor.encode([odd]).frames[0].shape[1]
    begin, batch = extractor.encoder.begin, FeatureExtractor.batch

    def begin_or_fail(prepared):
        if any(len(waveform) == len(odd.waveforms[RATE_HZ]) for waveform in prepared):
            raise RuntimeError("CUDA out of memory")
        return begin(prepared)

    def batch_or_fail(self, frames, device):
        if self is extractor and any(frame.shape[1] == odd_frames for frame in frames):
            raise RuntimeError("CUDA out of memory")
        return batch(self, frames, device)

    if where == "encoder":
        monkeypatch.setattr(extractor.encoder, "begin", begin_or_fail)
    else:
        monkeypatch.setattr(FeatureExtractor, "batch", batch_or_fail)
    answers = list(bundle.predict(recordings))
    assert [isinstance(answer, FailedClip) for answer in answers] == [False, False, True, False, False]
    assert "CUDA out of memory" in answers[2].error
    for answer in answers[:2] + answers[3:]:
        np.testing.assert_allclose(posteriors_of([answer]), posteriors_of([good[answer.id]]), atol=1e-5)


def test_a_damaged_cache_is_encoded_again(finished, bundle_folder, bundle, tmp_path):
    recordings = recordings_of(finished.corpus, "test")[:3]
    fresh = posteriors_of(bundle.predict(recordings))
    list(Bundle.load(bundle_folder, device="cpu", cache=tmp_path).predict(recordings))
    shards = list(tmp_path.glob("*/shard-*.h5"))
    assert shards
    for shard in shards:
        with h5py.File(shard) as stored:
            planes = stored["frames"]
            dataset = planes if isinstance(planes, h5py.Dataset) else next(iter(planes.values()))
            first = dataset.id.get_offset() + stored.userblock_size
        content = bytearray(shard.read_bytes())
        content[first : first + 64] = bytes(64)
        shard.write_bytes(content)
    for kept in Cache(tmp_path).feature_sets():
        with pytest.raises(CacheError):
            kept.check(kept.locate(kept.ids))
    again = Bundle.load(bundle_folder, device="cpu", cache=tmp_path)
    np.testing.assert_allclose(posteriors_of(again.predict(recordings)), fresh, atol=1e-5)


def test_an_encoder_reads_the_column_that_its_heads_learnt_from():
    segment = Segment({}, float("nan"), {"": "given", "text:whisper": "heard"})
    assert segment.text_for("text:whisper") == "heard"
    assert segment.text_for("text:other") == "given"
    assert Segment({}, 1.0, {"text:whisper": "heard"}).text_for("") is None


def test_features_are_kept_only_if_asked_and_never_those_of_another_file(
    finished, bundle_folder, bundle, tmp_path, monkeypatch
):
    recordings = recordings_of(finished.corpus, "test")
    fresh = posteriors_of(bundle.predict(recordings))
    cached = Bundle.load(bundle_folder, device="cpu", cache=tmp_path / "cache")
    np.testing.assert_allclose(posteriors_of(cached.predict(recordings)), fresh, atol=1e-5)
    again = Bundle.load(bundle_folder, device="cpu", cache=tmp_path / "cache")
    for extractor in again._extractors.values():
        monkeypatch.setattr(extractor, "encoder", None)  # whoever encodes now fails
    np.testing.assert_allclose(posteriors_of(again.predict(recordings)), fresh, atol=1e-5)

    path = tmp_path / "same-name.wav"
    answers = []
    for seed in (1, 2):
        soundfile.write(path, spoken("Angry", 1.0, seed), RATE_HZ)
        answers += cached.predict([Recording("same", path, "yes")])
    assert not np.allclose(*posteriors_of(answers), atol=1e-6)


def test_disagreement_against_scipy():
    generator = np.random.default_rng(0)
    pairs = generator.dirichlet(np.ones(4), size=(50, 2))
    wanted = jensenshannon(pairs[:, 0], pairs[:, 1], axis=1, base=2) ** 2
    np.testing.assert_allclose(disagreement(pairs), wanted, atol=1e-12)


def test_an_encoder_that_is_another_one_is_refused(finished, checkpoint, tmp_path):
    folder = finished.bundle(tmp_path / "bare", stacker="neural", include_encoders=False).folder
    with pytest.raises(BundleError, match=r"--encoder deep=FOLDER"):
        Bundle.load(folder, device="cpu")
    elsewhere = str(shutil.copytree(finished.wavlm, tmp_path / "elsewhere" / finished.wavlm.name))
    named = {"deep": elsewhere, "layers": elsewhere}
    assert Bundle.load(folder, device="cpu", encoders=named).classes == CLASSES
    with pytest.raises(BundleError, match=r"'deep'.*is not the encoder.*encoder is hubert, not wavlm"):
        Bundle.load(folder, device="cpu", encoders=named | {"deep": str(checkpoint("hubert"))})


@given(st.integers(2, 6), st.integers(0, 100))
def test_disagreement_in_attributes_is_a_share_of_the_largest_on_any_scale(members, seed):
    rng = np.random.default_rng(seed)
    shares = rng.uniform(size=(5, members, 2))
    ranges = [Attribute("arousal", 1, 7), Attribute("valence", -1, 1)]
    values = shares * [6, 2] + [1, -1]
    differ = attribute_disagreement(values, ranges)
    assert ((differ >= 0) & (differ <= 1)).all()
    np.testing.assert_allclose(differ, 2 * shares.std(axis=1).mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(attribute_disagreement(values[:, ::-1], ranges), differ)
    assert attribute_disagreement(np.repeat(values[:, :1], members, axis=1), ranges) == pytest.approx(0)
    apart = np.asarray([[[1.0, -1.0], [7.0, 1.0]]])
    assert attribute_disagreement(apart, ranges) == pytest.approx(1)
