import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sercache.cache.sources import Source
from sercache.corpus import Utterance
from sercache.errors import AudioError
from sercache.extract.encode import EncoderInput, FailedRow, encode_rows, pool_over_time
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
