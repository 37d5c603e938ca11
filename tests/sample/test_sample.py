from collections import Counter
from importlib.resources import files

import numpy as np
import pytest

from sercache.audio import load_audio
from sercache.corpus.check import check_corpus
from sercache.corpus.manifest import read_corpus
from sercache.corpus.targets import NO_AGREEMENT_INDEX, consensus
from sercache.data import make_sample as script
from sercache.data.lexicon import CARRIERS, COLOURED, PHONEMES, WORDS
from sercache.data.raters import CLASSES, RaterPool
from sercache.data.synthesizer import SAMPLE_RATE_HZ, Voice, synthesize
from sercache.files import copy_sample
from sercache.recipe import load_recipe

SAMPLE = files("sercache.data")

VOICE = Voice(
    pitch_hz=140.0,
    pitch_range=0.0,
    final_rise=0.0,
    rate=1.0,
    loudness_db=0.0,
    tension=0.5,
    breath=0.2,
    jitter=0.003,
    pause=0.0,
    tract=1.0,
)


@pytest.fixture(scope="module")
def corpus():
    return read_corpus(SAMPLE / "corpus.csv")


def test_the_sample_is_what_its_readme_promises(corpus):
    assert check_corpus(SAMPLE / "corpus.csv") == []
    assert corpus.classes == CLASSES
    assert corpus.attribute_names == ("arousal", "valence", "dominance")
    assert 250 <= len(corpus) <= 400
    speakers = Counter(row.speaker for row in corpus.utterances)
    assert len(speakers) >= 8
    labels = consensus(corpus)
    assert min(Counter(labels[labels >= 0].tolist()).values()) >= 15
    assert (labels == NO_AGREEMENT_INDEX).any()
    raters = corpus.votes.sum(axis=1) + corpus.other_votes
    assert set(raters.tolist()) <= {5.0, 6.0, 7.0, 8.0}
    size = sum(path.stat().st_size for path in (SAMPLE / "audio").iterdir())
    assert size < 5_000_000


def test_raters_agree_less_where_a_clip_lies_between_two_emotions():
    pool = RaterPool(20, np.random.default_rng(0))
    pure, blend = np.eye(len(CLASSES))[0], 0.5 * np.eye(len(CLASSES))[[0, 5]].sum(axis=0)

    def agreement(mixture):
        votes = [pool.rate(mixture).votes for _ in range(200)]
        return np.mean([counts.max() / counts.sum() for counts in votes])

    assert agreement(pure) > agreement(blend) + 0.1


def test_making_it_again_gives_the_same_manifest_and_sounds(tmp_path, corpus):
    first, again = (script.make_sample(tmp_path / name, speakers_per_gender=1) for name in ("one", "two"))
    assert (tmp_path / "one/corpus.csv").read_bytes() == (tmp_path / "two/corpus.csv").read_bytes()
    for utterance, other in zip(first.utterances[:5], again.utterances[:5], strict=True):
        np.testing.assert_array_equal(
            load_audio(first.audio_path(utterance), SAMPLE_RATE_HZ),
            load_audio(again.audio_path(other), SAMPLE_RATE_HZ),
        )


@pytest.mark.slow
def test_the_committed_manifest_is_what_the_script_makes(tmp_path):
    script.make_sample(tmp_path)
    assert (tmp_path / "corpus.csv").read_text() == (SAMPLE / "corpus.csv").read_text()


def test_every_sentence_can_be_said():
    sentences = [*CARRIERS, *(sentence for ones in COLOURED.values() for sentence in ones)]
    words = {word for sentence in sentences for word in sentence.split()}
    assert words == set(WORDS)
    assert {name for word in WORDS.values() for name in word.split()} | {"_"} == set(PHONEMES)


def test_the_voice_has_the_pitch_and_the_formants_it_was_asked_for():
    samples = synthesize("book book book book", VOICE, np.random.default_rng(0)).astype(float)
    middle = samples[len(samples) // 4 : len(samples) // 4 + 4096]
    correlation = np.correlate(middle, middle, "full")[len(middle) :]
    lags = np.arange(60, 200)
    assert SAMPLE_RATE_HZ / (lags[correlation[lags - 1].argmax()]) == pytest.approx(140, rel=0.1)
    louder = Voice(**{name: getattr(VOICE, name) for name in VOICE.__slots__} | {"loudness_db": 6.0})
    loud = synthesize("book book book book", louder, np.random.default_rng(0))
    assert np.std(loud) / np.std(samples) == pytest.approx(2.0, rel=0.05)


def test_the_demo_keeps_a_recipe_that_its_user_changed(tmp_path):
    path = copy_sample(tmp_path)
    assert load_recipe(path).corpus == tmp_path / "corpus.csv"
    path.write_text(path.read_text().replace("count: 4", "count: 3"))
    (tmp_path / "corpus.csv").write_text("damaged")
    copy_sample(tmp_path)
    assert load_recipe(path).folds.count == 3
    assert len(read_corpus(tmp_path / "corpus.csv")) == 336


@pytest.mark.parametrize("path", sorted((SAMPLE / "recipes").iterdir()), ids=lambda path: path.name)
def test_the_shipped_recipes_are_valid(path):
    assert load_recipe(path).members
