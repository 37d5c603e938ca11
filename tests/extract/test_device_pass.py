"""Several encoders in one pass over the audio, several devices, and texts from another column."""

from dataclasses import replace

import numpy as np
import pytest

from sercache.cache.store import Cache, FeatureSet
from sercache.cache.usage import SPEED_NAME
from sercache.errors import CacheError, CorpusError, Interrupted, SercacheError
from sercache.events import Context
from sercache.extract import device_pass
from sercache.extract.extraction import extract
from sercache.recipe import FeatureRecipe

LOGMEL = FeatureRecipe(encoder="logmel")
POOLED = FeatureRecipe(encoder="logmel", time_pool=3)
TINY = FeatureRecipe(encoder="tiny")
TEXT = FeatureRecipe(encoder="char-ngrams")


def contents(folder):
    return {
        path.name: path.read_bytes()
        for path in folder.glob("*")
        if path.is_file() and path.name != SPEED_NAME
    }


@pytest.fixture
def decoded(monkeypatch):
    """The ids of all utterances that are decoded, in order."""
    seen = []
    read_input = device_pass.read_input

    def counted(corpus, utterance, sample_rate_hz):
        seen.append(utterance.id)
        return read_input(corpus, utterance, sample_rate_hz)

    monkeypatch.setattr(device_pass, "read_input", counted)
    return seen


def test_encoders_of_one_pass_share_the_decoding_and_give_what_each_gives_alone(
    make_corpus, tmp_path, short_tasks, decoded
):
    corpus = make_corpus(14)
    (corpus.root / "clip-003.wav").write_text("these are notes")
    both = extract(corpus, {"a": LOGMEL, "b": POOLED}, tmp_path / "both").features
    assert sorted(decoded) == sorted(corpus.ids)
    assert [(report.extracted, report.failed) for report in both] == [(13, 1), (13, 1)]
    for recipe, report in zip((LOGMEL, POOLED), both, strict=True):
        (alone,) = extract(corpus, {"alone": recipe}, tmp_path / f"alone-{recipe.time_pool}").features
        found, expected = FeatureSet(report.folder), FeatureSet(alone.folder)
        assert sorted(found.ids) == sorted(expected.ids)
        for utterance_id in expected.ids:
            np.testing.assert_array_equal(found.frames(utterance_id), expected.frames(utterance_id))


def test_a_pass_that_lost_one_feature_sets_shard_goes_on_to_the_same_bytes(
    make_corpus, tmp_path, short_tasks
):
    corpus = make_corpus(14)
    whole = extract(corpus, {"a": LOGMEL, "b": POOLED}, tmp_path / "whole").features
    cache = tmp_path / "cache"
    asked = iter(range(100))
    with pytest.raises(Interrupted):
        extract(
            corpus, {"a": LOGMEL, "b": POOLED}, cache, context=Context(should_stop=lambda: next(asked) >= 3)
        )
    next(iter(sorted(cache.glob("logmel-*/shard-*.h5")))).unlink()
    extract(corpus, {"a": LOGMEL, "b": POOLED}, cache)
    assert whole
    for report in whole:
        assert contents(cache / report.folder.name) == contents(report.folder)


def test_a_feature_set_that_is_ahead_is_not_computed_again(make_corpus, tmp_path, short_tasks, decoded):
    corpus = make_corpus(14)
    extract(corpus, {"a": LOGMEL}, tmp_path)
    decoded.clear()
    first, second = extract(corpus, {"a": LOGMEL, "b": POOLED}, tmp_path).features
    assert (first.extracted, second.extracted) == (0, 14)
    assert sorted(decoded) == sorted(corpus.ids)


def test_two_devices_make_the_bytes_of_one(make_corpus, tmp_path, short_tasks, monkeypatch):
    corpus = make_corpus(14)
    (corpus.root / "clip-003.wav").write_text("these are notes")
    (on_one,) = extract(corpus, {"a": LOGMEL}, tmp_path / "one").features
    (on_two,) = extract(corpus, {"a": LOGMEL}, tmp_path / "two", devices=["cpu", "cpu"]).features
    assert (on_two.extracted, on_two.failed) == (on_one.extracted, on_one.failed) == (13, 1)
    assert contents(on_two.folder) == contents(on_one.folder)


def test_failures_on_several_devices_stop_the_run(make_corpus, tmp_path, short_tasks):
    corpus = make_corpus(14)
    for number in range(9):
        (corpus.root / f"clip-{number:03d}.wav").write_text("these are notes")
    with pytest.raises(SercacheError, match=r"utterances failed, at most 2 may"):
        extract(corpus, {"a": LOGMEL}, tmp_path, devices=["cpu", "cpu"], max_failures=2)


def test_a_device_that_is_not_here_is_one_line(make_corpus, tmp_path):
    with pytest.raises(SercacheError, match="no device 'cuda:7' here"):
        extract(make_corpus(1), {"a": LOGMEL}, tmp_path, devices=["cpu", "cuda:7"])
    with pytest.raises(SercacheError, match="no device is named"):
        extract(make_corpus(1), {"a": LOGMEL}, tmp_path, devices=[])


def test_a_misspelt_encoder_is_told_before_the_first_one_runs(make_corpus, tmp_path):
    with pytest.raises(SercacheError, match="Did you mean 'logmel'"):
        extract(make_corpus(1), {"a": TEXT, "b": FeatureRecipe(encoder="logmle")}, tmp_path)
    assert not list(tmp_path.glob("char-ngrams*"))


def test_text_comes_from_the_column_that_the_recipe_names(make_corpus, tmp_path):
    corpus = make_corpus(3)
    rows = [
        replace(row, extras={"text:whisper": f"machine {index}"})
        for index, row in enumerate(corpus.utterances)
    ]
    rows[2] = replace(rows[2], extras={"text:whisper": ""})
    corpus = replace(corpus, utterances=tuple(rows))
    heard = TEXT.model_copy(update={"text_column": "text:whisper"})
    written, spoken = extract(corpus, {"written": TEXT, "heard": heard}, tmp_path).features
    assert (written.extracted, spoken.extracted, spoken.failed) == (3, 2, 1)
    cache = Cache(tmp_path)
    assert cache.find(heard).folder == spoken.folder
    assert cache.find(TEXT).folder == written.folder
    direct = replace(corpus, utterances=tuple(replace(row, text=row.extras["text:whisper"]) for row in rows))
    (expected,) = extract(direct, {"direct": TEXT}, tmp_path / "direct").features
    np.testing.assert_array_equal(
        FeatureSet(spoken.folder).frames("clip-001"), FeatureSet(expected.folder).frames("clip-001")
    )
    with pytest.raises(CorpusError, match=r"no column 'text:whispr'.*Did you mean 'text:whisper'\?"):
        extract(corpus, {"heard": TEXT.model_copy(update={"text_column": "text:whispr"})}, tmp_path)
    with pytest.raises(
        CacheError, match=r"text_column text, not text:other|text_column text:whisper, not text:other"
    ):
        cache.find(TEXT.model_copy(update={"text_column": "text:other"}))
