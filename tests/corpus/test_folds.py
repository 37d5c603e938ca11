import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.corpus import Attribute, Corpus, Utterance
from sercache.corpus.folds import FoldMap, assign_folds, inner_slice
from sercache.corpus.targets import consensus
from sercache.errors import CorpusError
from support.corpus_strategies import make_corpus


@st.composite
def spoken_corpora(draw: st.DrawFn, speakers: int = 3) -> Corpus:
    """Corpora of at least ``speakers`` known speakers, with ties, O and unlabelled rows among them."""
    known = [f"s{index}" for index in range(draw(st.integers(speakers, 12)))]
    some = draw(st.lists(st.sampled_from([*known, None]), max_size=30))
    everyone = [*known, *some]
    votes = draw(
        st.lists(
            st.lists(st.integers(0, 2), min_size=3, max_size=3),
            min_size=len(everyone),
            max_size=len(everyone),
        )
    )
    other = draw(st.lists(st.integers(0, 2), min_size=len(everyone), max_size=len(everyone)))
    return make_corpus(votes, other=other, speakers=everyone)


def group_of(corpus: Corpus, utterance_id: str) -> str | None:
    return corpus.by_id[utterance_id].speaker


@given(spoken_corpora(), st.integers(2, 3), st.integers(0, 5))
@settings(deadline=None, max_examples=300)
def test_every_row_has_one_fold_and_every_speaker_too(corpus: Corpus, count: int, seed: int) -> None:
    fold_map = assign_folds(corpus, count, seed)
    assert set(fold_map.folds) == set(corpus.ids)
    assert set(fold_map.folds.values()) == set(range(count))
    for speaker in {row.speaker for row in corpus.utterances}:
        folds = {fold_map.folds[row.id] for row in corpus.utterances if row.speaker == speaker}
        assert len(folds) == 1


@given(spoken_corpora(), st.integers(0, 5), st.randoms())
@settings(deadline=None)
def test_folds_follow_from_the_seed_and_not_from_the_order_of_rows(corpus: Corpus, seed: int, random) -> None:  # type: ignore[no-untyped-def]
    rows = list(corpus.utterances)
    random.shuffle(rows)
    shuffled = replace(corpus, utterances=tuple(rows))
    assert assign_folds(shuffled, 3, seed) == assign_folds(corpus, 3, seed)
    assert set(inner_slice(shuffled, 0.3, seed)[1]) == set(inner_slice(corpus, 0.3, seed)[1])


def test_another_seed_gives_other_folds() -> None:
    corpus = make_corpus([[1, 0], [0, 1]] * 40, speakers=[f"s{row // 4}" for row in range(80)])
    assert len({assign_folds(corpus, 4, seed).digest for seed in range(5)}) == 5


def test_classes_are_spread_evenly() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(4, size=600, p=[0.5, 0.3, 0.15, 0.05])
    corpus = make_corpus(np.eye(4)[labels].tolist(), speakers=[f"s{n}" for n in rng.integers(60, size=600)])
    folds = assign_folds(corpus, 5, 0).of(corpus.ids)
    for label in range(4):
        shares = np.bincount(folds[labels == label], minlength=5) / (labels == label).sum()
        assert np.abs(shares - 0.2).max() < 0.08


def test_rare_class_may_be_missing_from_a_fold() -> None:
    corpus = make_corpus([[1, 0]] * 9 + [[0, 1]], speakers=[f"s{row}" for row in range(10)])
    assert set(assign_folds(corpus, 3, 0).folds.values()) == {0, 1, 2}


def test_corpus_without_any_class_of_enough_rows_is_still_split() -> None:
    corpus = make_corpus(np.eye(4).tolist(), speakers=["a", "b", "c", "d"])
    assert Counter(assign_folds(corpus, 4, 0).folds.values()) == dict.fromkeys(range(4), 1)


def test_no_fold_is_left_empty_where_the_greedy_splitter_would() -> None:
    labels = [4, 1, 1, 0, 3, 2, 1, 0, 5, 1, 1, 5, 2]
    speakers = ["s0", "s1", "s2", "s3", "s4", "s1", "s1", "s0", "s0", "s1", "s0", "s0", "s0"]
    corpus = make_corpus(np.eye(6)[labels].tolist(), speakers=speakers)
    assert set(assign_folds(corpus, 5, 0).folds.values()) == set(range(5))


def test_fewer_speakers_than_folds_is_an_error_that_says_so() -> None:
    corpus = make_corpus([[1, 0]] * 6, speakers=["a", "a", "b", None, None, None])
    with pytest.raises(
        CorpusError,
        match=r"5 .*at least 5 speakers, there are 3 .folds.count in a recipe.; 3 utterances name no speaker",
    ):
        assign_folds(corpus, 5, 0)
    assert set(assign_folds(corpus, 5, 0, unknown_speakers="apart").folds.values()) == set(range(5))
    with pytest.raises(CorpusError, match="at least 2"):
        assign_folds(corpus, 1, 0)


def test_unknown_speakers_stay_together() -> None:
    corpus = make_corpus([[1, 0]] * 20, speakers=[None] * 8 + [f"s{n}" for n in range(12)])
    folds = assign_folds(corpus, 3, 1).of(corpus.ids[:8])
    assert len(set(folds.tolist())) == 1


@given(spoken_corpora(), st.floats(0.05, 0.5), st.integers(0, 3))
@settings(deadline=None, max_examples=300)
def test_inner_slice_parts_rows_by_speaker(corpus: Corpus, share: float, seed: int) -> None:
    fit, stop = inner_slice(corpus, share, seed)
    assert fit
    assert stop
    assert sorted(fit + stop) == sorted(corpus.ids)
    assert not {group_of(corpus, u) for u in fit} & {group_of(corpus, u) for u in stop}
    assert list(fit) == [utterance_id for utterance_id in corpus.ids if utterance_id in set(fit)]


def test_inner_slice_has_about_the_share_and_all_classes() -> None:
    labels = np.arange(400) % 4
    corpus = make_corpus(np.eye(4)[labels].tolist(), speakers=[f"s{row // 10}" for row in range(400)])
    _, stop = inner_slice(corpus, 0.15, 0)
    assert 0.1 <= len(stop) / 400 <= 0.2
    assert set(consensus(corpus.select(stop)).tolist()) == {0, 1, 2, 3}


def test_one_speaker_cannot_be_sliced() -> None:
    with pytest.raises(CorpusError, match="at least 2 speakers, there are 1"):
        inner_slice(make_corpus([[1, 0]] * 5, speakers=["a"] * 5), 0.2, 0)


def test_fold_map_survives_the_disk(tmp_path: Path) -> None:
    corpus = make_corpus([[1, 0], [0, 1]] * 5, speakers=[f"ä{row}" for row in range(10)])
    fold_map = assign_folds(corpus, 3, 7)
    path = tmp_path / "folds.json"
    fold_map.save(path)
    assert FoldMap.load(path) == fold_map
    ids = list(reversed(corpus.ids))
    np.testing.assert_array_equal(FoldMap.load(path).of(ids), [fold_map.folds[u] for u in ids])
    with pytest.raises(CorpusError, match="'nobody' is in no fold"):
        fold_map.of(["nobody"])


def test_changed_or_damaged_fold_maps_are_refused(tmp_path: Path) -> None:
    corpus = make_corpus([[1, 0]] * 4, speakers=list("abcd"))
    path = tmp_path / "folds.json"
    assign_folds(corpus, 2, 0).save(path)
    content = json.loads(path.read_text())
    content["folds"]["u0000"] = 1 - content["folds"]["u0000"]
    for damaged in (json.dumps(content), "{", "[]", "{}"):
        path.write_text(damaged)
        with pytest.raises(CorpusError, match=r"folds\.json"):
            FoldMap.load(path)
    with pytest.raises(CorpusError, match="does not exist"):
        FoldMap.load(tmp_path / "nothing.json")


def rated_corpus(speakers: int = 20, rows: int = 6, unrated: bool = False) -> Corpus:
    """Each speaker's ratings lie around a level of their own, from low to high."""
    generator = np.random.default_rng(0)
    utterances = tuple(
        Utterance(
            f"s{speaker}-{row}",
            speaker=f"s{speaker}",
            attributes=(
                np.nan if unrated else 1 + 6 * speaker / speakers + generator.uniform(0, 0.3),
                np.nan if row % 2 or unrated else float(generator.uniform(-1, 1)),
            ),
        )
        for speaker in range(speakers)
        for row in range(rows)
    )
    return Corpus((), (Attribute("arousal", 1, 8), Attribute("valence", -1, 1)), utterances, Path())


def test_folds_of_attributes_alone_have_alike_ratings() -> None:
    corpus = rated_corpus()
    fold_map = assign_folds(corpus, 4, 0)
    folds = fold_map.of(corpus.ids)
    assert np.bincount(folds).tolist() == [30] * 4
    for speaker in {row.speaker for row in corpus.utterances}:
        assert len({fold_map.folds[row.id] for row in corpus.utterances if row.speaker == speaker}) == 1
    arousal = corpus.attribute_values[:, 0]
    means = [arousal[folds == fold].mean() for fold in range(4)]
    assert np.ptp(means) < 1.0
    shuffled = replace(corpus, utterances=corpus.utterances[::-1])
    assert assign_folds(shuffled, 4, 0) == fold_map


def test_attributes_beside_classes_have_no_part_in_the_folds() -> None:
    corpus = make_corpus([[1, 0], [0, 1]] * 20, speakers=[f"s{row // 4}" for row in range(40)])
    values = tuple(
        replace(row, attributes=(float(place % 7),)) for place, row in enumerate(corpus.utterances)
    )
    rated = replace(corpus, attributes=(Attribute("arousal", 0, 7),), utterances=values)
    bare = replace(
        corpus, attributes=(), utterances=tuple(replace(row, attributes=()) for row in corpus.utterances)
    )
    assert assign_folds(rated, 3, 0) == assign_folds(bare, 3, 0)


def test_where_nobody_rated_folds_part_the_speakers_all_the_same() -> None:
    corpus = rated_corpus(unrated=True)
    assert set(assign_folds(corpus, 4, 0).of(corpus.ids)) == {0, 1, 2, 3}
