import io
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.cache.frames import STORED_AS
from sercache.cache.shard import (
    USER_BLOCK_BYTES,
    build_shard,
    check_user_block,
    plain_dataset,
    read_index,
    read_whole,
    user_block,
)
from sercache.errors import CacheError
from support.stored_utterances import SPEC, utterance

ids = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), unique=True, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(
    ids=ids,
    counts=st.lists(st.integers(1, 40), min_size=12, max_size=12),
    layers=st.integers(1, 26),
    dim=st.integers(1, 9),
    dtype=st.sampled_from(["float16", "bfloat16", "float32"]),
)
def test_what_is_put_in_comes_out(tmp_path_factory, ids, counts, layers, dim, dtype):
    spec = replace(SPEC, layers=tuple(f"layer-{k}" for k in range(layers)), dim=dim, dtype=dtype)
    rows = [utterance(name, count, spec) for name, count in zip(ids, counts, strict=False)]
    path = tmp_path_factory.mktemp("shard") / "shard.h5"
    path.write_bytes(build_shard(rows, spec))

    index = read_index(path, spec)
    again, content = read_whole(path, spec)
    assert index.ids == again.ids == tuple(row.id for row in rows)
    for row, (stored, is_intact) in zip(rows, again.utterances(content, spec), strict=True):
        assert is_intact
        assert (stored.seconds, stored.source) == (row.seconds, row.source)
        for plane, wanted in zip(stored.frames, row.frames, strict=True):
            assert plane.dtype == STORED_AS[dtype]
            np.testing.assert_array_equal(plane, wanted)


def test_the_same_utterances_give_the_same_bytes(spec, make_utterance, monkeypatch):
    rows = [make_utterance(f"clip-{k}", 10 + k, spec) for k in range(5)]
    first = build_shard(rows, spec)
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert build_shard(rows, spec) == first


def test_plain_h5py_reads_it(spec, make_utterance, tmp_path):
    rows = [make_utterance("Überraschung/1", 7, spec), make_utterance("b", 3, spec)]
    path = tmp_path / "shard.h5"
    path.write_bytes(build_shard(rows, spec))
    with h5py.File(path, "r") as shard:
        assert shard["frames"].shape == (10, 5)
        np.testing.assert_array_equal(shard["frames"][7:], rows[1].frames[0])
        assert shard["frames"].chunks is None
        assert shard["offsets"][...].tolist() == [0, 7, 10]
        ends = shard["id_ends"][...]
        assert bytes(shard["ids"][: ends[0]]).decode() == "Überraschung/1"
        assert shard.attrs["format_version"] == 1
        assert shard.attrs["fingerprint"].decode() == spec.fingerprint
        assert b'"encoder": "microsoft/wavlm-large"' in shard.attrs["provenance"]


def test_layers_lie_apart_and_bfloat16_says_so(spec, make_utterance):
    spec = replace(spec, layers=("layer-0", "last"), dtype="bfloat16")
    with h5py.File(io.BytesIO(build_shard([make_utterance("a", 4, spec)], spec))) as shard:
        assert sorted(shard["frames"]) == ["last", "layer-0"]
        assert shard["frames/last"].dtype == np.uint16
        assert shard["frames/last"].attrs["dtype"] == b"bfloat16"


def test_no_bit_of_the_metadata_flips_unseen(spec, make_utterance, tmp_path):
    content = build_shard([make_utterance(f"clip-{k}", 3, spec) for k in range(4)], spec)
    with h5py.File(io.BytesIO(content)) as shard:
        metadata_end = shard["frames"].id.get_offset()
    path = tmp_path / "shard.h5"
    generator = np.random.default_rng(0)
    positions = {*range(0, USER_BLOCK_BYTES, 7), *generator.integers(0, metadata_end, 300).tolist()}
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(CacheError, match=r"damaged|truncated|not a shard|reads format"):
            read_index(path, spec)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 4000, -1])
def test_a_truncated_shard_is_not_opened(spec, make_utterance, tmp_path, size):
    content = build_shard([make_utterance("a", 400, spec)], spec)
    path = tmp_path / "shard.h5"
    path.write_bytes(content[:size])
    with pytest.raises(CacheError, match=r"shard\.h5: .*(truncated|damaged)"):
        read_index(path, spec)


def test_a_shard_of_another_feature_set_is_refused(spec, make_utterance, tmp_path):
    other = replace(spec, layers=("layer-12",))
    path = tmp_path / "shard.h5"
    path.write_bytes(build_shard([make_utterance("a", 4, other)], other))
    with pytest.raises(CacheError, match="another feature set"):
        read_index(path, spec)


def test_links_and_foreign_storage_are_refused(spec, make_utterance, tmp_path):
    path = tmp_path / "forged.h5"
    with h5py.File(path, "w") as shard:
        shard["real"] = np.zeros(4)
        shard["soft"] = h5py.SoftLink("/real")
        shard["away"] = h5py.ExternalLink("/etc/passwd", "/")
        shard.create_dataset("outside", (4,), "u1", external=[("/etc/passwd", 0, 4)])
        layout = h5py.VirtualLayout((4,), "f8")
        layout[:] = h5py.VirtualSource("other.h5", "real", (4,))
        shard.create_virtual_dataset("virtual", layout)
        shard.create_dataset("chunked", (4,), "u1", chunks=(2,))
        assert plain_dataset(shard, "real")
        for name in ("soft", "away", "outside", "virtual", "chunked", "absent"):
            with pytest.raises(ValueError, match=f"/{name} is"):
                plain_dataset(shard, name)


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
