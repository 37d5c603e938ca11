from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sercache.corpus import Corpus, Utterance
from sercache.extract.schedule import TimedUtterance, cut_into_tasks, expected_lengths
from support.tiny_encoder import TinyEncoder

SPEC = TinyEncoder().spec

planned = st.lists(st.floats(0, 900), max_size=40).map(
    lambda lengths: [
        TimedUtterance(Utterance(id=f"u{number}", audio=f"{number}.wav"), seconds)
        for number, seconds in enumerate(lengths)
    ]
)


@given(planned, st.randoms(use_true_random=False))
def test_tasks_hold_every_row_once_whatever_the_order(rows, random):
    tasks = cut_into_tasks(rows, [SPEC], len(rows))
    members = [row.utterance.id for task in tasks for row in task.rows]
    assert sorted(members) == sorted(row.utterance.id for row in rows)
    shuffled = random.sample(rows, len(rows))
    assert cut_into_tasks(shuffled, [SPEC], len(rows)) == tasks


@given(planned, st.data())
def test_finished_tasks_can_be_taken_away_without_moving_the_later_cuts(rows, data):
    tasks = cut_into_tasks(rows, [SPEC], len(rows))
    finished = data.draw(st.integers(0, len(tasks)))
    rest = [row for task in tasks[finished:] for row in task.rows]
    assert cut_into_tasks(rest, [SPEC], len(rows)) == tasks[finished:]


@given(planned)
def test_a_task_is_ten_minutes_at_most_or_one_utterance(rows):
    for task in cut_into_tasks(rows, [SPEC], len(rows)):
        assert len(task.rows) == 1 or sum(row.seconds for row in task.rows) <= 600


def test_shards_stay_below_256_mb_and_large_corpora_have_longer_tasks():
    rows = [TimedUtterance(Utterance(id=f"u{number}"), 10.0) for number in range(400)]
    small = cut_into_tasks(rows, [SPEC], 400)
    large = cut_into_tasks(rows, [SPEC], 60_000)
    wide = cut_into_tasks(
        rows, [SPEC, replace(SPEC, dim=1024, layers=tuple("abcdefghijklmnopqrstuvwxy"))], 60_000
    )
    assert [len(task.rows) for task in small] == [60] * 6 + [40]
    assert [len(task.rows) for task in large] == [180, 180, 40]
    assert {len(task.rows) for task in wide[:-1]} == {10}


@pytest.mark.parametrize(
    "change", [{"id": "v"}, {"audio": "other.wav"}, {"start_seconds": 1.0}, {"end_seconds": 2.0}]
)
def test_a_tasks_name_stands_for_its_utterances(change):
    row = Utterance(id="u", audio="a.wav", text="yes")

    def name(utterance, spec=SPEC):
        return cut_into_tasks([TimedUtterance(utterance, 1.0)], [spec], 1)[0].name

    assert name(replace(row, **change)) != name(row)
    assert name(replace(row, text="no")) == name(row)
    text = replace(SPEC, modality="text")
    assert name(replace(row, text="no"), text) != name(row, text)
    assert name(replace(row, audio="other.wav"), text) == name(row, text)


def test_lengths_come_from_spans_headers_and_texts(make_corpus, tmp_path):
    corpus = make_corpus(1)
    rows = (
        *corpus.utterances,
        Utterance(id="span", audio="nowhere.wav", start_seconds=1.0, end_seconds=3.5),
        Utterance(id="rest", audio="clip-000.wav", start_seconds=0.2),
        Utterance(id="gone", audio="nowhere.wav"),
        Utterance(id="none"),
    )
    corpus = Corpus((), (), rows, tmp_path)
    assert [row.seconds for row in expected_lengths(corpus, rows, "audio")] == pytest.approx(
        [0.5, 2.5, 0.3, 0, 0]
    )
    assert [row.seconds for row in expected_lengths(corpus, rows[:1], "text")] == pytest.approx([6 / 15])
