import io
from pathlib import Path

import pytest

from sercache.cache.shard import USER_BLOCK_BYTES, check_user_block, user_block
from sercache.errors import CacheError

PATH = Path("some.h5")


def sealed(content, covered_bytes, kind="index"):
    size = USER_BLOCK_BYTES + len(content)
    return user_block(kind, size, [content[:covered_bytes]], covered_bytes) + content


def test_what_was_sealed_in_pieces_is_accepted_whole():
    content = bytes(range(256)) * 9000
    pieces = [content[first : first + 1000] for first in range(0, len(content), 1000)]
    block = user_block("index", USER_BLOCK_BYTES + len(content), pieces, len(content))
    assert len(block) == USER_BLOCK_BYTES
    assert check_user_block("index", PATH, io.BytesIO(block + content)) == USER_BLOCK_BYTES + len(content)


def test_what_the_digest_does_not_cover_may_be_missing():
    whole = sealed(b"abcdef", 4)
    assert check_user_block("index", PATH, io.BytesIO(whole[:-2])) == len(whole)
    with pytest.raises(CacheError, match=r"some\.h5: truncated"):
        check_user_block("index", PATH, io.BytesIO(whole[:-3]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda whole: whole[:-1] + b"x", "digest does not match"),
        (lambda whole: b"{" + whole, "damaged, or no index"),
        (lambda whole: whole.replace(b"xxh3_128", b"xxh3_129"), "digest does not match"),
        (lambda whole: b"", "damaged"),
    ],
)
def test_damage_is_an_error(change, message):
    with pytest.raises(CacheError, match=message):
        check_user_block("index", PATH, io.BytesIO(change(sealed(b"abcdef", 6))))


def test_another_kind_of_file_is_refused():
    with pytest.raises(CacheError, match="is 'sercache shard 1'; this version reads format 1"):
        check_user_block("index", PATH, io.BytesIO(sealed(b"abc", 3, kind="shard")))
