"""``char-ngrams``: hashed character n-grams of every token of a text, in any language, without a download."""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import xxhash
from numpy.typing import NDArray

from sercache.cache.fingerprint import FeatureSpec
from sercache.encoders.protocol import Frames, Waveform
from sercache.errors import EncoderError

DIM = 256
SHORTEST, LONGEST = 2, 5

_SPACELESS = ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
"""Kana and Han: written without spaces, so every character is a token."""


class CharNgramsEncoder:
    """One frame per word or punctuation mark: the signed, hashed sum of its character n-grams.

    The n-grams (2 to 5 characters of ``<token>``, and ``<token>`` itself) of inflected, misspelt and related
    words overlap, so their vectors are near each other; vectors have unit length. The hashing trick with
    signs is that of Weinberger et al. 2009; the n-grams are those of Bojanowski et al. 2017.

    >>> CharNgramsEncoder().encode(["So what?", "yes"])[0].shape
    (1, 3, 256)
    """

    @property
    def spec(self) -> FeatureSpec:
        """What the fingerprint hashes."""
        return FeatureSpec(
            encoder="char-ngrams",
            revision="1",
            modality="text",
            layers=("last",),
            num_layers=0,
            dim=DIM,
            frame_rate_hz=None,
            sample_rate_hz=None,
            normalization="NFKC, lower case",
            library="sercache",
            options={"shortest": SHORTEST, "longest": LONGEST},
        )

    def encode(self, inputs: Sequence[Waveform] | Sequence[str]) -> list[Frames]:
        """Encode texts; returns one ``(1, T_i, 256)`` array each, one frame per token of :func:`tokens_of`.

        Raises:
            EncoderError: a text has no token.
        """
        return [_encode_text(text) for text in inputs]


def tokens_of(text: str) -> list[str]:
    """Split a text into words and punctuation; no token is ever dropped, in any script.

    Words are runs of letters, marks and digits, with apostrophes inside; any other character is a token of
    its own together with its repetitions and modifiers (``!!!``, an emoji). Kana and Han characters are
    tokens; scripts without spaces other than these (Thai) give one token per stretch.

    >>> tokens_of("Don't you DARE... okay?")
    ["don't", 'you', 'dare', '...', 'okay', '?']
    """
    normal = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    return [token for stretch in normal.split() for token in _split(stretch)]


def _encode_text(text: Waveform | str) -> Frames:
    if not isinstance(text, str):
        raise EncoderError("encoder 'char-ngrams' reads text, not audio")
    tokens = tokens_of(text)
    if not tokens:
        raise EncoderError("the text is empty: there is no token to encode")
    return np.stack([_token_vector(token) for token in tokens])[None]  # (1, T, 256)


def _split(stretch: str) -> Iterator[str]:
    """Cut a stretch without spaces wherever two neighbouring characters do not belong together."""
    visible = "".join(character for character in stretch if unicodedata.category(character) != "Cc")
    kinds = _kinds(visible)
    cuts = [index for index, (left, right) in enumerate(pairwise(kinds), 1) if left != right]
    for start, end in pairwise([0, *cuts, len(visible)]):
        token = visible[start:end]
        if any(unicodedata.category(character) != "Cf" for character in token):
            yield token


def _kinds(text: str) -> list[str]:
    """Return what each character is part of: a word, or something that only its own repetition continues."""
    kinds: list[str] = []
    for index, character in enumerate(text):
        category = unicodedata.category(character)
        if any(low <= ord(character) <= high for low, high in _SPACELESS):
            kinds.append(f"{character}{index}")
        elif kinds and (category in ("Cf", "Sk") or category.startswith("M")):
            kinds.append(kinds[-1])
        elif category[0] in "LMN" or _is_inner_apostrophe(text, index):
            kinds.append("word")
        else:
            kinds.append(character)
    return kinds


def _is_inner_apostrophe(text: str, index: int) -> bool:
    inside = 0 < index < len(text) - 1
    return text[index] in "'’" and inside and text[index - 1].isalpha() and text[index + 1].isalpha()


@lru_cache(maxsize=65536)
def _token_vector(token: str) -> NDArray[np.float32]:
    """Return the ``(256,)`` vector of a token, of unit length."""
    marked = f"<{token}>"
    ngrams = [
        marked[start : start + length]
        for length in range(SHORTEST, LONGEST + 1)
        for start in range(len(marked) - length + 1)
    ]
    vector = np.zeros(DIM)
    weights = [1.0] * len(ngrams) + [1.5]  # not a whole number, so that the sum is never zero
    for ngram, weight in zip([*ngrams, marked], weights, strict=True):
        digest = xxhash.xxh3_64_intdigest(ngram.encode("utf-8", "surrogatepass"))
        vector[digest % DIM] += weight if digest >> 63 else -weight
    normal = (vector / np.linalg.norm(vector)).astype(np.float32)
    normal.setflags(write=False)
    return normal
