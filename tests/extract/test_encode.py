import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sercache.cache.sources import Source
from sercache.corpus import Corpus, Utterance
from sercache.errors import AudioError
from sercache.extract.encode import (
    EncoderInput,
    FailedRow,
    encode_rows,
    pool_over_time,
    read_ahead,
    read_input,
)
from support.tiny_encoder import RATE_HZ, TinyEncoder


def clip(name, seconds):
    waveform = np.random.default_rng(len(name)).normal(size=round(seconds * RATE_HZ)).astype(np.float32)
    return EncoderInput(Utterance(id=name), waveform, seconds, Source("0" * 32, 1))


def text(name, content):
    return EncoderInput(Utterance(id=name), content, float("nan"), Source("0" * 32, 1))


def encode(encoder, rows):
    return list(encode_rows(encoder, encoder.spec, rows, 20.0))


@given(
    arrays(
        np.float32, st.tuples(st.integers(1, 3), st.integers(1, 20), st.just(2)), elements=st.integers(-9, 9)
    ),
    st.integers(1, 8),
)
def test_pooling_is_the_mean_of_every_k_frames(frames, count):
    pooled = pool_over_time(frames, count)
    wanted = [frames[:, start : start + count].mean(axis=1) for start in range(0, frames.shape[1], count)]
    np.testing.assert_allclose(pooled, np.stack(wanted, axis=1), rtol=1e-6)
    assert pooled.dtype == np.float32


def test_neighbours_share_a_call_up_to_a_bounded_length():
    encoder = TinyEncoder()
    encode(encoder, [clip("u", 5.0) for _ in range(9)])
    assert encoder.calls == [4, 4, 1]


def test_audio_longer_than_a_window_goes_alone_through_windows():
    encoder = TinyEncoder(window_seconds=2.0, overlap_seconds=0.5)
    rows = [clip("long", 7.0), clip("short", 1.0), clip("short", 1.0)]
    long, *_ = encode(encoder, rows)
    whole = TinyEncoder().encode([rows[0].content])[0]
    np.testing.assert_allclose(long.frames, whole, atol=1e-6)
    assert encoder.calls[0] == 2  # the short ones together
    assert encoder.calls[1] == 1  # the first window, which tells how far apart the others lie


def test_a_bad_row_fails_alone_and_order_is_kept():
    encoder = TinyEncoder(modality="text", refuse={"..."})
    missing = FailedRow(Utterance(id="gone"), "decode", AudioError("no such file"))
    rows = [text("a", "so what"), missing, text("b", "..."), text("c", "yes")]
    first, second, third, fourth = encode(encoder, rows)
    assert first.frames.shape == (1, 2, 2)
    assert second is missing
    assert (third.utterance.id, third.stage) == ("b", "encode")
    assert fourth.row.utterance.id == "c"


@pytest.mark.parametrize("gain", [np.nan, np.inf])
def test_values_that_are_not_finite_are_a_failure(gain):
    with np.errstate(invalid="ignore"):
        (failed,) = encode(TinyEncoder(gain=gain), [clip("u", 1.0)])
    assert "not finite" in str(failed.error)


def test_frames_of_another_shape_than_promised_are_a_failure():
    (failed,) = encode(TinyEncoder(dim=3), [clip("u", 1.0)])
    assert "frames of shape (1, 50, 2), not (1, T, 3)" in str(failed.error)


def test_an_encoder_that_runs_out_of_memory_on_a_group_goes_one_by_one():
    class Narrow(TinyEncoder):
        def encode(self, inputs):
            if len(inputs) > 1:
                raise RuntimeError("out of memory")
            return super().encode(inputs)

    assert len(encode(Narrow(), [clip("u", 1.0) for _ in range(3)])) == 3


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
