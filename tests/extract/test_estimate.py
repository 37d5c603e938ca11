"""What an extraction foresees."""

import pytest

from sercache.cache.store import FeatureSet
from sercache.extract.estimate import estimate
from sercache.extract.extraction import extract
from sercache.recipe import FeatureRecipe

TINY = FeatureRecipe(encoder="tiny")


def test_the_foreseen_size_is_what_the_extraction_then_takes(make_corpus, tmp_path):
    corpus = make_corpus(12)
    recipes = {
        "sound": FeatureRecipe(encoder="logmel"),
        "pooled": FeatureRecipe(encoder="logmel", time_pool=4, dtype="float32"),
    }
    foreseen = estimate(corpus, recipes, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    done = extract(corpus, recipes, tmp_path / "cache").features
    for feature, report in zip(foreseen.features, done, strict=True):
        feature_set = FeatureSet(report.folder)
        stored = sum(feature_set.frames(name).nbytes for name in feature_set.ids)
        assert feature.size_bytes == pytest.approx(stored, rel=0.1)
        assert feature.seconds == pytest.approx(report.audio_seconds, rel=0.01)
        assert feature.utterances == 12
        assert feature.speed > 1
    assert foreseen.features[0].alternatives["float32"] == 2 * foreseen.features[0].size_bytes
    assert foreseen.features[1].alternatives["float16"] == foreseen.features[1].size_bytes / 2
    longest = max(corpus.utterances, key=lambda row: (corpus.root / row.audio).stat().st_size)
    assert foreseen.features[0].longest[0][0] == longest.id
    assert foreseen.free_bytes > 0


def test_only_what_is_missing_is_foreseen(make_corpus, tmp_path):
    corpus = make_corpus(6)
    extract(corpus.select(corpus.ids[:4]), {"sound": FeatureRecipe(encoder="logmel")}, tmp_path)
    (corpus.root / "clip-005.wav").write_text("these are notes")
    (feature,) = estimate(corpus, {"sound": FeatureRecipe(encoder="logmel")}, tmp_path).features
    assert (feature.utterances, feature.in_cache, feature.unreadable) == (2, 4, 1)


def test_whisper_says_what_trimming_saves(make_corpus, tmp_path, use_encoder, tiny):
    use_encoder(tiny(normalization="whisper log-mel"))
    corpus = make_corpus(4)
    (feature,) = estimate(corpus, {"whisper": TINY}, tmp_path).features
    assert feature.padded_bytes == pytest.approx(4 * 30 * 50 * 2 * 2)
    assert feature.size_bytes < feature.padded_bytes / 20
