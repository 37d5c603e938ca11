"""How an extraction checks itself."""

import numpy as np
import pytest

from sercache.errors import EncoderError
from sercache.extract.extraction import extract
from sercache.extract.self_check import check_features
from sercache.recipe import FeatureRecipe

TINY = FeatureRecipe(encoder="tiny")


def test_a_sound_encoder_passes_its_check_and_the_cache_too(make_corpus, tmp_path):
    corpus = make_corpus(6)
    recipes = {"sound": FeatureRecipe(encoder="logmel"), "words": FeatureRecipe(encoder="char-ngrams")}
    assert len(check_features(corpus, recipes, tmp_path / "cache", clips=4)) == 2
    assert not (tmp_path / "cache").exists()
    extract(corpus, recipes, tmp_path / "cache")
    findings = check_features(corpus, recipes, tmp_path / "cache", clips=4)
    assert [finding.what for finding in findings] == 2 * [
        "float32: in a batch, alone", "in the cache, computed now",
    ]  # fmt: skip
    assert all(finding.is_fine and finding.clips == 4 for finding in findings)


def test_an_encoder_whose_clips_see_each_other_is_found(make_corpus, tmp_path, use_encoder, tiny):
    class Leaking(tiny):
        def encode(self, inputs):
            loudest = max(float(np.abs(clip).max()) for clip in inputs)
            return [frames * (1 + loudest * len(inputs)) for frames in super().encode(inputs)]

    use_encoder(Leaking())
    (finding,) = check_features(make_corpus(5), {"tiny": TINY}, tmp_path, clips=4)
    assert not finding.is_fine
    assert finding.error > 0.1
    assert finding.utterance_id.startswith("clip-")


def test_a_cache_of_other_numbers_is_found(make_corpus, tmp_path, use_encoder, tiny):
    corpus = make_corpus(5)
    use_encoder(tiny())
    extract(corpus, {"tiny": TINY}, tmp_path)
    use_encoder(tiny(gain=1.01))
    *_, finding = check_features(corpus, {"tiny": TINY}, tmp_path, clips=4)
    assert finding.what == "in the cache, computed now"
    assert finding.error == pytest.approx(0.01, rel=0.1)
    assert not finding.is_fine


def test_a_corpus_without_a_readable_clip_cannot_be_checked(make_corpus, tmp_path):
    corpus = make_corpus(2)
    for row in corpus.utterances:
        (corpus.root / row.audio).write_text("these are notes")
    with pytest.raises(EncoderError, match="no utterance of the corpus can be read"):
        check_features(corpus, {"sound": FeatureRecipe(encoder="logmel")}, tmp_path)
