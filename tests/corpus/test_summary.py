from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from sercache.corpus import Attribute, Corpus
from sercache.corpus.summary import NO_SPLIT, UNLABELLED, distribution_of, summarize
from support.corpus_strategies import corpora, make_corpus


def test_counts_by_hand() -> None:
    corpus = make_corpus(
        [[3, 1], [2, 2], [0, 0], [0, 1], [0, 0]], other=[0, 0, 4, 0, 0], speakers=["a", "a", "b", None, "c"]
    )
    splits = ["train", "train", "test", "test", None]
    rows = tuple(replace(row, split=split) for row, split in zip(corpus.utterances, splits, strict=True))
    summary = summarize(replace(corpus, utterances=rows))
    assert summary.total.classes == {"c0": 1, "c1": 1, "X": 1, "O": 1, UNLABELLED: 1}
    assert summary.splits["train"].classes == {"c0": 1, "c1": 0, "X": 1, "O": 0, UNLABELLED: 0}
    assert list(summary.splits) == ["train", "test", NO_SPLIT]
    assert summary.total.speakers == 3
    assert summary.speakers == {"a": 2, "b": 1, None: 1, "c": 1}
    assert (summary.no_agreement_share, summary.other_share) == (0.25, 0.25)
    assert summary.total.votes_per_utterance == pytest.approx(13 / 4)


def test_ambiguity_is_the_mean_entropy_over_its_maximum() -> None:
    votes = np.random.default_rng(0).integers(0, 6, size=(50, 4)) + np.eye(4)[np.arange(50) % 4]
    expected = entropy(votes, axis=1, base=4).mean()
    assert summarize(make_corpus(votes.tolist())).total.ambiguity == pytest.approx(expected)
    assert summarize(make_corpus([[1, 0], [0, 5]])).total.ambiguity == 0
    assert summarize(make_corpus([[2, 2]])).total.ambiguity == pytest.approx(1)
    assert summarize(make_corpus([[0, 0]])).total.ambiguity is None


def test_hours_come_from_the_manifest_or_from_the_recording(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(32000, 0.1), 16000)
    base = make_corpus([[1, 0]] * 5)
    changes = [
        {"start_seconds": 1.0, "end_seconds": 4.0},
        {"extras": {"seconds": "10.5"}},
        {"audio": "a.wav"},
        {"audio": "a.wav", "start_seconds": 0.5},
        {"audio": "missing.wav"},
    ]
    rows = tuple(replace(row, **change) for row, change in zip(base.utterances, changes, strict=True))  # type: ignore[arg-type]
    corpus = replace(base, utterances=rows, root=tmp_path)
    total = summarize(corpus).total
    assert total.hours * 3600 == pytest.approx(3 + 10.5 + 2 + 1.5)
    assert total.timed == 4
    assert summarize(corpus, read_headers=False).total.timed == 2


def test_attribute_means_leave_missing_values_out() -> None:
    base = make_corpus([[1, 0], [0, 1]])
    values = [(2.0, float("nan")), (4.0, float("nan"))]
    rows = tuple(replace(row, attributes=pair) for row, pair in zip(base.utterances, values, strict=True))
    corpus = replace(base, attributes=(Attribute("a", 1, 7), Attribute("v", 1, 7)), utterances=rows)
    assert summarize(corpus).attribute_means == {"a": 3.0, "v": None}


@given(corpora())
@settings(deadline=None)
def test_parts_add_up_for_any_corpus(corpus: Corpus) -> None:
    summary = summarize(corpus, read_headers=False)
    assert sum(part.utterances for part in summary.splits.values()) == len(corpus)
    assert sum(summary.total.classes.values()) == len(corpus)
    assert sum(summary.speakers.values()) == len(corpus)
    assert summary.total.ambiguity is None or 0 <= summary.total.ambiguity <= 1 + 1e-12


numbers = st.lists(st.floats(0, 1e5), min_size=1, max_size=60)


@given(numbers)
def test_every_number_is_in_one_bin(values):
    spread = distribution_of(values)
    assert sum(spread.counts) == spread.count == len(values)
    assert len(spread.edges) == len(spread.counts) + 1
    assert list(spread.edges) == sorted(set(spread.edges))
    assert len(spread.counts) <= 15


def test_a_long_tail_is_one_bin():
    spread = distribution_of([*np.linspace(0, 9.9, 1000), 5000.0])
    assert spread.edges[-2] <= 11
    assert spread.edges[-1] == 5000
    assert spread.counts[-1] == 1


def test_what_is_not_known_is_left_out():
    assert distribution_of([1.0, float("nan"), 3.0]).mean == 2
    assert distribution_of([float("nan")]) is None
    assert distribution_of([]) is None
