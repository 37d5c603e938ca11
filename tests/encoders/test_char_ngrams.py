"""char-ngrams: one frame per token, none dropped, whatever the script."""

import unicodedata

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from sercache.encoders.char_ngrams import CharNgramsEncoder, tokens_of
from sercache.errors import EncoderError

ENCODER = CharNgramsEncoder()


def plain_vector(token: str) -> np.ndarray:
    """The definition, one n-gram at a time."""
    marked = "<" + token + ">"
    vector = [0.0] * 256
    spans = [(start, start + length) for length in (2, 3, 4, 5) for start in range(len(marked))]
    grams = [(marked[start:end], 1.0) for start, end in spans if end <= len(marked)]
    for gram, weight in [*grams, (marked, 1.5)]:
        digest = xxhash.xxh3_64_intdigest(gram.encode())
        vector[digest % 256] += weight * (1 if digest >= 2**63 else -1)
    return np.array(vector) / np.linalg.norm(vector)


def test_one_word_gives_one_frame() -> None:
    [frames] = ENCODER.encode(["yes"])
    assert frames.shape == (1, 1, 256)
    assert np.linalg.norm(frames) == pytest.approx(1)


def test_first_and_last_word_are_there() -> None:
    [whole], [first], [last] = ENCODER.encode(["never say again", "never", "again"])
    np.testing.assert_array_equal(whole[0], first[0])
    np.testing.assert_array_equal(whole[-1], last[0])


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't GO!", ["don't", "go", "!"]),
        ("'quoted' words", ["'", "quoted", "'", "words"]),
        ("wait... what?!", ["wait", "...", "what", "?", "!"]),
        ("ＦＵＬＬ ｗｉｄｔｈ ﬁ", ["full", "width", "fi"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("Привет, мир", ["привет", ",", "мир"]),
        ("我很好。", ["我", "很", "好", "。"]),
        ("مرحبا بك", ["مرحبا", "بك"]),
        ("I ❤️ you", ["i", "❤️", "you"]),
        ("a\u200b \u200b b\x00", ["a\u200b", "b"]),
    ],
)
def test_tokens(text: str, tokens: list[str]) -> None:
    assert tokens_of(text) == tokens


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\u200b", "\x00"])
def test_text_without_token_is_an_error(text: str) -> None:
    with pytest.raises(EncoderError, match="empty"):
        ENCODER.encode(["fine", text])


@given(st.text())
def test_no_visible_character_is_lost(text: str) -> None:
    normal = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    visible = [c for c in normal if not c.isspace() and unicodedata.category(c) not in ("Cc", "Cf")]
    kept = [c for token in tokens_of(text) for c in token if unicodedata.category(c) != "Cf"]
    assert kept == visible


@given(st.lists(st.text(min_size=1).filter(tokens_of), min_size=1, max_size=5))
def test_frames_are_the_definition_and_ignore_batch_mates(texts: list[str]) -> None:
    for text, frames in zip(texts, ENCODER.encode(texts), strict=True):
        np.testing.assert_array_equal(frames, ENCODER.encode([text])[0])
        assert frames.dtype == np.float32
        for token, frame in zip(tokens_of(text), frames[0], strict=True):
            if token.isprintable():
                np.testing.assert_allclose(frame, plain_vector(token), atol=1e-6)


def test_related_words_are_nearer_than_others() -> None:
    [frames] = ENCODER.encode(["happy happily table"])
    happy, happily, table = frames[0]
    assert happy @ happily > 0.3 > abs(happy @ table)
