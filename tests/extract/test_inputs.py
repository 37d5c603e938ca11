import threading
import time

import pytest

from sercache.corpus import Corpus, Utterance
from sercache.extract.encode import EncoderInput, read_ahead, read_input


def test_results_come_in_order_and_reading_stays_ahead_but_bounded():
    begun = []

    def read(item):
        begun.append(item)
        time.sleep(0.002 * (item % 3))
        return item * 10

    stream = read_ahead(read, ((item, 1.0) for item in range(20)), limit=4.0, workers=3)
    first = next(stream)
    time.sleep(0.05)
    assert first == 0
    assert len(begun) <= 5
    assert list(stream) == [item * 10 for item in range(1, 20)]


def test_one_item_is_read_ahead_however_long_it_is():
    assert list(read_ahead(str, [(1, 1e9), (2, 1e9)], limit=1.0, workers=1)) == ["1", "2"]


def test_an_abandoned_stream_leaves_no_thread_behind():
    before = threading.active_count()
    stream = read_ahead(str, ((item, 1.0) for item in range(100)), limit=8.0, workers=4)
    next(stream)
    stream.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("modality", "row", "stage", "message"),
    [
        ("text", {"text": None}, "text", "no text"),
        ("text", {"text": ""}, "text", "no text"),
        ("text", {"text": " \n"}, "text", "no text"),
        ("audio", {"audio": None}, "audio", "no audio"),
        ("audio", {"audio": "nowhere.wav"}, "decode", "no such file"),
        ("audio", {"audio": "notes.wav"}, "decode", "not audio"),
        ("audio", {"audio": "."}, "decode", "directory"),
    ],
)
def test_a_bad_row_is_a_failure_and_not_an_exception(tmp_path, modality, row, stage, message):
    (tmp_path / "notes.wav").write_text("these are notes")
    corpus = Corpus((), (), (), tmp_path)
    failed = read_input(corpus, Utterance(id="u", **row), 16_000 if modality == "audio" else None)
    assert failed.stage == stage
    assert message in str(failed.error)


def test_a_segment_is_cut_and_remembers_its_span(make_corpus):
    corpus = make_corpus(1)
    row = Utterance(id="u", audio="clip-000.wav", start_seconds=0.1, end_seconds=0.4)
    read = read_input(corpus, row, 16_000)
    assert isinstance(read, EncoderInput)
    assert read.seconds == pytest.approx(0.3)
    assert len(read.content) == 4800
    assert read.source.span == (0.1, 0.4)
    assert read.source.size_bytes == (corpus.root / "clip-000.wav").stat().st_size
