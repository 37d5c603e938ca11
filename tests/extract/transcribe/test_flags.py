import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sercache.extract.transcribe.batches import compression, flags_of, loops
from sercache.extract.transcribe.whisper import quiet_pieces

WORDS = st.lists(st.sampled_from(["so", "what", "did", "you", "say", "then"]), min_size=1, max_size=8)


@given(WORDS, st.lists(st.sampled_from(["a", "b"])), st.integers(4, 9))
def test_words_said_four_times_in_a_row_are_a_loop(words, before, times):
    assert loops(" ".join([*before, *(words * times)]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no no no",
        "ha ha ha, that is what I said",
        "I said so, and he said so, and they said so",
        "so",
    ],
)
def test_people_repeat_themselves_too(text):
    assert flags_of(text, 0.0, 0.0) == (() if text else ("empty",))


@pytest.mark.parametrize(
    ("no_speech", "mean", "flags"),
    [(0.7, -1.1, ("silence",)), (0.7, -0.9, ()), (0.5, -1.1, ()), (0.61, -3.0, ("silence",))],
)
def test_silence_needs_both_thresholds(no_speech, mean, flags):
    assert flags_of("thank you for watching", no_speech, mean) == flags


def test_a_long_loop_of_many_words_compresses_too_well():
    sentence = "and so I went to the shop and bought a lot of bread for all of my friends and then "
    assert not loops(sentence * 3)
    assert compression(sentence * 4) > 2.4
    assert flags_of(sentence * 4, 0.0, 0.0) == ("repeat",)


@given(st.integers(1, 400), st.integers(3, 40))
def test_pieces_cover_a_recording_and_none_is_too_long(length, longest):
    waveform = np.random.default_rng(length).normal(size=length).astype(np.float32)
    pieces = quiet_pieces(waveform, 10, longest / 10)
    np.testing.assert_array_equal(np.concatenate(pieces), waveform)
    assert pieces
    assert all(0 < len(piece) <= longest for piece in pieces)


def test_a_cut_falls_into_the_pause():
    waveform = np.random.default_rng(0).normal(size=40 * 100).astype(np.float32)
    waveform[2450:2500] = 0
    first, _ = quiet_pieces(waveform, 100, 30.0)
    assert 2450 <= len(first) <= 2500
