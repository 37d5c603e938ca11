from dataclasses import replace

import numpy as np
import pytest

from sercache.audio import load_audio
from sercache.cache.frames import from_storage
from sercache.cache.ledger import Ledger
from sercache.cache.store import Cache, FeatureSet
from sercache.cache.usage import read_speeds
from sercache.corpus import Utterance
from sercache.errors import CacheError, Interrupted, RecipeError, SercacheError
from sercache.events import Context
from sercache.extract.encode import pool_over_time
from sercache.extract.extraction import extract
from sercache.recipe import FeatureRecipe
from support.tones import write_wav

TINY = FeatureRecipe(encoder="tiny")


def run(corpus, recipe=TINY, **options):
    (report,) = extract(corpus, {"tiny": recipe}, corpus.root / "cache", **options).features
    return report


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("shard-*.h5")}


def test_every_utterance_gets_the_frames_of_its_own_audio(make_corpus, use_encoder, tiny, short_tasks):
    encoder, corpus = use_encoder(tiny()), make_corpus(20)
    report = run(corpus)
    feature_set = FeatureSet(report.folder)
    assert (report.extracted, report.reused, report.failed) == (20, 0, 0)
    assert len(feature_set.shard_paths) > 3
    assert report.audio_seconds == pytest.approx(feature_set.seconds)
    assert sorted(feature_set.ids) == list(corpus.ids)
    for utterance in corpus.utterances:
        (alone,) = encoder.encode([load_audio(corpus.audio_path(utterance), 16_000)])
        np.testing.assert_array_equal(feature_set.frames(utterance.id), alone[0].astype(np.float16))


def test_nothing_finished_is_computed_again(make_corpus, use_encoder, tiny):
    corpus = make_corpus(5)
    use_encoder(tiny())
    first = run(corpus)
    before = shards(first.folder)
    encoder = use_encoder(tiny())
    again = run(corpus)
    assert (again.extracted, again.reused) == (0, 5)
    assert encoder.calls == []
    assert shards(first.folder) == before


def test_a_grown_corpus_costs_only_what_is_new(make_corpus, use_encoder, tiny, short_tasks):
    corpus = make_corpus(8)
    use_encoder(tiny())
    before = shards(run(corpus).folder)
    grown = replace(corpus, utterances=corpus.utterances + make_corpus(5, first=8).utterances)
    report = run(grown)
    assert (report.extracted, report.reused) == (5, 8)
    assert FeatureSet(report.folder).missing(grown.ids) == []
    assert before.items() <= shards(report.folder).items()


@pytest.mark.parametrize(
    "change",
    [{"revision": "2"}, {"layers": ("layer-1",)}, {"library": "other"}, {"normalization": "unit variance"}],
)
def test_another_model_or_layer_never_gets_the_old_features(make_corpus, use_encoder, tiny, change):
    corpus = make_corpus(3)
    use_encoder(tiny())
    old = run(corpus)
    use_encoder(tiny(gain=2.0, **change))
    new = run(corpus)
    assert new.extracted == 3
    assert new.folder != old.folder
    ratio = FeatureSet(new.folder).frames("clip-000") / FeatureSet(old.folder).frames("clip-000")
    np.testing.assert_allclose(ratio, 2.0, rtol=2e-3)


def test_time_pooling_windows_and_dtype_are_part_of_the_place(make_corpus, use_encoder, tiny):
    corpus = make_corpus(3)
    encoder = use_encoder(tiny())
    recipes = [
        TINY,
        TINY.model_copy(update={"time_pool": 4}),
        TINY.model_copy(update={"dtype": "bfloat16"}),
        TINY.model_copy(update={"dtype": "float32"}),
        TINY.model_copy(update={"window_seconds": 0.3, "overlap_seconds": 0.1}),
    ]
    reports = [run(corpus, recipe) for recipe in recipes]
    assert len({report.folder for report in reports}) == len(recipes)
    plain, pooled, half, full, _ = (FeatureSet(report.folder) for report in reports)
    exact = full.frames("clip-001")
    np.testing.assert_allclose(
        pooled.frames("clip-001"), pool_over_time(exact[None], 4)[0], rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(from_storage(half.frames("clip-001"), "bfloat16"), exact, rtol=4e-3)
    np.testing.assert_array_equal(plain.frames("clip-001"), exact.astype(np.float16))
    cache = Cache(corpus.root / "cache")
    assert cache.find(recipes[1]).folder == pooled.folder
    assert encoder.spec.time_pool == 1


def test_loud_features_choose_bfloat16_and_the_next_run_keeps_to_it(make_corpus, use_encoder, tiny):
    corpus = make_corpus(4)
    use_encoder(tiny(gain=1e6))
    assert FeatureSet(run(corpus).folder).is_bfloat16
    use_encoder(tiny(gain=1.0))
    grown = replace(corpus, utterances=corpus.utterances + make_corpus(1, first=4).utterances)
    report = run(grown)
    assert FeatureSet(report.folder).is_bfloat16
    assert report.reused == 4


def test_a_late_overflow_stops_and_names_the_utterance(make_corpus, use_encoder, tiny):
    corpus = make_corpus(3)
    use_encoder(tiny())
    run(corpus)
    use_encoder(tiny(gain=1e6))
    grown = replace(corpus, utterances=corpus.utterances + make_corpus(1, first=3).utterances)
    with pytest.raises(CacheError, match=r"tiny: utterance 'clip-003': .*float16; set dtype: bfloat16"):
        run(grown)
    assert run(corpus).reused == 3


def test_changed_audio_is_refused_and_replaced_on_request(make_corpus, use_encoder, tiny, short_tasks):
    corpus = make_corpus(8)
    use_encoder(tiny())
    report = run(corpus)
    before = FeatureSet(report.folder)
    kept = np.array(before.frames("clip-003"))
    write_wav(corpus.root / "clip-002.wav", 1.3, seed=99)
    with pytest.raises(CacheError, match=r"audio of 1 utterances .*first 'clip-002'.*--replace-changed"):
        run(corpus)
    again = run(corpus, replace_changed=True)
    after = FeatureSet(again.folder)
    assert (again.extracted, again.reused) == (1, 7)
    assert after.frame_counts(["clip-002"]).tolist() == [65]
    np.testing.assert_array_equal(after.frames("clip-003"), kept)
    assert run(corpus).reused == 8


def test_a_changed_span_or_text_is_a_change(make_corpus, use_encoder, tiny):
    corpus = make_corpus(2)
    first, second = corpus.utterances
    use_encoder(tiny())
    run(corpus)
    cut = replace(corpus, utterances=(replace(first, end_seconds=0.3), second))
    with pytest.raises(CacheError, match="first 'clip-000'"):
        run(cut)
    use_encoder(tiny(modality="text"))
    text = run(corpus)
    with pytest.raises(CacheError, match="the text of 1 utterances"):
        run(replace(corpus, utterances=(first, replace(second, text="other words"))))
    assert FeatureSet(text.folder).frame_counts(["clip-000"]).tolist() == [2]


def test_audio_that_went_away_keeps_its_features(make_corpus, use_encoder, tiny):
    corpus = make_corpus(3)
    use_encoder(tiny())
    run(corpus)
    (corpus.root / "clip-001.wav").unlink()
    assert run(corpus).reused == 3


def broken(corpus, *numbers):
    for number in numbers:
        (corpus.root / f"clip-{number:03d}.wav").write_text("these are notes")
    return corpus


def test_a_bad_file_costs_one_row_and_is_not_tried_again(make_corpus, use_encoder, tiny, short_tasks):
    corpus = broken(make_corpus(12), 4)
    use_encoder(tiny())
    report = run(corpus)
    assert (report.extracted, report.failed) == (11, 1)
    (failure,) = Ledger(report.folder).failures.values()
    assert (failure.utterance, failure.stage, failure.exception) == ("clip-004", "decode", "AudioError")
    assert "clip-004.wav" in failure.message
    before = shards(report.folder)
    again = run(corpus)
    assert (again.extracted, again.reused, again.failed) == (0, 11, 1)
    assert shards(report.folder) == before
    assert Ledger(report.folder).failures["clip-004"].attempts == 1


def test_retrying_counts_attempts_and_forgets_what_works(make_corpus, use_encoder, tiny):
    corpus = broken(make_corpus(6), 1, 4)
    use_encoder(tiny())
    run(corpus)
    write_wav(corpus.root / "clip-004.wav", 0.7, seed=4)
    report = run(corpus, retry_failed=True)
    assert (report.extracted, report.reused, report.failed) == (1, 4, 1)
    assert {name: failure.attempts for name, failure in Ledger(report.folder).failures.items()} == {
        "clip-001": 2
    }
    write_wav(corpus.root / "clip-001.wav", 0.7, seed=1)
    assert run(corpus).failed == 1
    assert run(corpus, retry_failed=True).failed == 0
    assert Ledger(report.folder).failures == {}


def test_too_many_failures_stop_the_run_and_keep_what_is_finished(
    make_corpus, use_encoder, tiny, short_tasks
):
    corpus = broken(make_corpus(20), 3, 7, 11)
    use_encoder(tiny())
    with pytest.raises(
        SercacheError, match=r"3 of 20 utterances failed, at most 2 may \(--max-failures\).*decode"
    ):
        run(corpus, max_failures=2)
    feature_set = Cache(corpus.root / "cache").find(TINY)
    assert len(feature_set) > 5
    assert len(Ledger(feature_set.folder).failures) == 3
    report = run(corpus, max_failures=3)
    assert (report.failed, report.reused) == (3, len(feature_set))


def test_all_rows_failing_is_never_a_success(make_corpus, use_encoder, tiny):
    use_encoder(tiny())
    with pytest.raises(SercacheError, match="2 of 2 utterances failed, at most 1 may"):
        run(broken(make_corpus(2), 0, 1))


def test_a_task_of_failures_only_is_not_done_again(make_corpus, use_encoder, tiny, short_tasks):
    corpus = make_corpus(6)
    gone = tuple(Utterance(id=f"gone-{k}", audio=f"gone-{k}.wav") for k in range(3))
    corpus = replace(corpus, utterances=corpus.utterances + gone)
    use_encoder(tiny())
    assert run(corpus).failed == 3
    encoder = use_encoder(tiny())
    assert run(corpus).failed == 3
    assert encoder.calls == []


def test_rows_without_text_are_failures_of_the_text(make_corpus, use_encoder, tiny):
    corpus = make_corpus(3)
    rows = (
        replace(corpus.utterances[0], text=None),
        replace(corpus.utterances[1], text=""),
        corpus.utterances[2],
    )
    use_encoder(tiny(modality="text"))
    report = run(replace(corpus, utterances=rows))
    stages = {
        name: (failure.stage, failure.message) for name, failure in Ledger(report.folder).failures.items()
    }
    assert stages == {"clip-000": ("text", "no text"), "clip-001": ("text", "no text")}
    assert report.audio_seconds == 0


@pytest.mark.parametrize("bad", [(), (2, 9)])
def test_an_interrupted_run_goes_on_to_the_same_bytes(make_corpus, use_encoder, tiny, short_tasks, bad):
    corpus = broken(make_corpus(20), *bad)
    use_encoder(tiny())
    (whole,) = extract(corpus, {"tiny": TINY}, corpus.root / "whole").features
    for patience in (0, 1, 0, 2, 1):
        asked = iter(range(100))
        with pytest.raises(Interrupted, match="the same command goes on"):
            run(
                corpus,
                context=Context(should_stop=lambda asked=asked, patience=patience: next(asked) >= patience),
            )
    resumed = run(corpus)
    assert shards(resumed.folder) == shards(whole.folder)
    assert set(Ledger(resumed.folder).failures) == set(Ledger(whole.folder).failures)


def test_a_crash_between_ledger_and_shard_changes_nothing(
    make_corpus, use_encoder, tiny, short_tasks, monkeypatch
):
    corpus = broken(make_corpus(20), 2, 9)
    use_encoder(tiny())
    (whole,) = extract(corpus, {"tiny": TINY}, corpus.root / "whole").features

    def crash(*arguments):
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr("sercache.extract.write.publish_shard", crash)
            with pytest.raises(KeyboardInterrupt):
                run(corpus)
    assert shards(run(corpus).folder) == shards(whole.folder)


def test_progress_starts_advances_and_finishes(make_corpus, use_encoder, tiny):
    corpus, events = broken(make_corpus(12), 3), []
    use_encoder(tiny())
    run(corpus, context=Context(listener=events.append))
    assert [event.kind for event in (events[0], events[-1])] == ["start", "finish"]
    done = [event.done for event in events if event.kind == "advance"]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(events[0].total)
    assert events[-2].values["utterances"] == "11"
    assert events[-2].values["failed"] == 1


def test_two_names_for_one_feature_set_share_it(make_corpus, use_encoder, tiny):
    corpus = make_corpus(3)
    use_encoder(tiny())
    first, second = extract(corpus, {"a": TINY, "b": TINY}, corpus.root / "cache").features
    assert first.folder == second.folder
    assert (first.extracted, second.reused) == (3, 3)


def test_a_wrong_fingerprint_is_refused(make_corpus, use_encoder, tiny):
    use_encoder(tiny())
    with pytest.raises(CacheError, match=r"wants tiny with fingerprint 00000000.*tests, revision 1"):
        run(make_corpus(2), TINY.model_copy(update={"fingerprint": "00000000"}))


def test_windows_that_cannot_move_on_are_refused_before_anything_is_encoded(make_corpus, use_encoder, tiny):
    encoder = use_encoder(tiny())
    with pytest.raises(RecipeError, match="overlap_seconds 2 must be shorter than window_seconds 2"):
        run(make_corpus(1), TINY.model_copy(update={"window_seconds": 2.0}))
    assert encoder.calls == []


def test_a_damaged_shard_is_told_and_healed_by_its_removal(make_corpus, use_encoder, tiny, short_tasks):
    corpus = make_corpus(12)
    use_encoder(tiny())
    report = run(corpus)
    before = shards(report.folder)
    path = sorted(report.folder.glob("shard-*.h5"))[1]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CacheError, match=rf"{path.name}: truncated.*sercache cache repair extracts it again"):
        run(corpus)
    path.unlink()
    run(corpus)
    assert shards(report.folder) == before


def test_what_the_encoder_took_is_kept_and_adds_up(make_corpus, use_encoder, tiny, short_tasks):
    corpus = make_corpus(8)
    use_encoder(tiny())
    feature_set = FeatureSet(run(corpus).folder)
    first = read_speeds(feature_set.folder)["cpu"]
    assert first.speech_seconds == pytest.approx(feature_set.seconds)
    assert 0 < first.encode_seconds < 60
    use_encoder(tiny())
    run(corpus)
    assert read_speeds(feature_set.folder)["cpu"] == first  # nothing was encoded again
    use_encoder(tiny())
    run(replace(corpus, utterances=corpus.utterances + make_corpus(5, first=8).utterances))
    grown = read_speeds(feature_set.folder)["cpu"]
    assert grown.speech_seconds == pytest.approx(FeatureSet(feature_set.folder).seconds)
    assert grown.encode_seconds > first.encode_seconds
