from dataclasses import replace

import numpy as np
import pytest

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.ledger import Ledger
from sercache.cache.store import Cache, FeatureSet
from sercache.cache.verify import verify
from sercache.errors import CacheError
from sercache.extract.extraction import extract
from sercache.extract.repair import recipe_of, repair
from sercache.recipe import FeatureRecipe

RECIPES = {
    "sound": FeatureRecipe(
        encoder="logmel", time_pool=2, dtype="float32", window_seconds=5, overlap_seconds=1
    )
}


@pytest.fixture
def whole(make_corpus, tmp_path, short_tasks):
    corpus = make_corpus(16)
    (report,) = extract(corpus, RECIPES, tmp_path / "cache").features
    assert len(FeatureSet(report.folder).shard_paths) > 3
    return corpus, FeatureSet(report.folder)


def frames_of(folder):
    feature_set = FeatureSet(folder)
    return {name: np.array(feature_set.frames(name)) for name in feature_set.ids}


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["frames", "metadata", "truncated", "empty", "longer"])
def test_what_is_damaged_is_extracted_again_and_nothing_else(whole, damage):
    corpus, feature_set = whole
    expected = frames_of(feature_set.folder)
    first, *others = feature_set.shard_paths
    before = {path: path.read_bytes() for path in others}
    size = first.stat().st_size
    if damage == "frames":
        flip(first, size - 9)
    elif damage == "metadata":
        flip(first, 600)
    elif damage == "truncated":
        first.write_bytes(first.read_bytes()[: size - 2000])
    elif damage == "empty":
        first.write_bytes(b"")
    else:
        first.write_bytes(first.read_bytes() + b"more")
    done = repair(FeatureSet(feature_set.folder), corpus, "logmel")
    assert len(done.found) >= 1
    assert done.lost == ()
    assert (done.extracted == 0) == (damage == "longer")
    found = frames_of(feature_set.folder)
    assert found.keys() == expected.keys()
    for name, frames in expected.items():
        np.testing.assert_array_equal(found[name], frames)
    assert {path: path.read_bytes() for path in others} == before
    assert verify(FeatureSet(feature_set.folder)) == []
    assert not list(feature_set.folder.glob("*.damaged"))
    assert repair(FeatureSet(feature_set.folder), corpus, "logmel").found == ()


def test_one_flipped_bit_costs_one_utterance(whole):
    corpus, feature_set = whole
    flip(feature_set.shard_paths[0], feature_set.shard_paths[0].stat().st_size - 9)
    assert repair(FeatureSet(feature_set.folder), corpus, "logmel").extracted == 1


def test_what_the_corpus_no_longer_holds_is_told(whole):
    corpus, feature_set = whole
    path = feature_set.shard_paths[0]
    flip(path, path.stat().st_size - 9)
    (damaged,) = verify(feature_set)
    rest = corpus.select([name for name in corpus.ids if name != damaged.utterance_id])
    done = repair(FeatureSet(feature_set.folder), rest, "logmel")
    assert (done.extracted, done.lost) == (0, (damaged.utterance_id,))
    assert verify(FeatureSet(feature_set.folder)) == []


def test_audio_that_is_gone_too_is_a_failure(whole):
    corpus, feature_set = whole
    path = feature_set.shard_paths[0]
    flip(path, path.stat().st_size - 9)
    (damaged,) = verify(feature_set)
    corpus.audio_path(corpus.by_id[damaged.utterance_id]).unlink()
    assert repair(FeatureSet(feature_set.folder), corpus, "logmel").lost == (damaged.utterance_id,)
    assert set(Ledger(feature_set.folder).failures) == {damaged.utterance_id}


def test_an_encoder_that_makes_something_else_mends_nothing(whole, use_encoder, tiny):
    corpus, feature_set = whole
    path = feature_set.shard_paths[0]
    flip(path, path.stat().st_size - 9)
    damaged = path.read_bytes()
    use_encoder(tiny(encoder="logmel"))
    with pytest.raises(CacheError, match="the recipe wants logmel with fingerprint"):
        repair(FeatureSet(feature_set.folder), corpus, "logmel")
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    "recipe",
    [
        *RECIPES.values(),
        FeatureRecipe(encoder="char-ngrams"),
        FeatureRecipe(encoder="char-ngrams", text_column="heard"),
    ],
)
def test_a_specs_recipe_asks_for_that_spec(make_corpus, tmp_path, recipe):
    corpus = make_corpus(2)
    rows = tuple(replace(row, extras={"heard": "yes"}) for row in corpus.utterances)
    corpus = replace(corpus, utterances=rows)
    (report,) = extract(corpus, {"a": recipe}, tmp_path / "c").features
    again = recipe_of(FeatureSet(report.folder).spec, recipe.encoder)
    assert Cache(tmp_path / "c").find(again).folder == report.folder


def test_imported_frames_have_no_encoder():
    spec = FeatureSpec("x", "foreign 1", "audio", ("last",), 0, 4, 50.0, 16_000, "unknown", "imported")
    with pytest.raises(CacheError, match="these frames were imported"):
        recipe_of(spec, "x")
