"""What docs/reference/cache-format.md states of the files, held against files that sercache writes.

``read_shard`` is docs/examples/read_shard.py: numpy, struct, h5py and xxhash, nothing of sercache.
"""

import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import xxhash
from read_shard import check_user_block, list_shards, read_description
from read_shard import main as read_feature_set

from sercache.cache import index_file
from sercache.cache.ledger import Ledger
from sercache.cache.store import FeatureSet
from support.small_corpus import write_feature_set

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
LAYERS = [("last",), ("layer-6", "sum-9-12", "last")]
TOLERANCE = {"float16": 1e-3, "bfloat16": 1e-2, "float32": 0.0}


def test_the_reference_reader_needs_nothing_of_sercache():
    imports = re.findall(r"^(?:import|from) (\w+)", (EXAMPLES / "read_shard.py").read_text(), re.MULTILINE)
    assert "sercache" not in imports
    assert {"struct", "h5py", "numpy", "xxhash"} <= set(imports)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_frames_are_read_by_the_specification_alone(tmp_path, dtype, layers):
    feature_set, written = write_feature_set(tmp_path, dtype, layers)
    read = read_feature_set(feature_set.folder)
    assert list(read) == list(written)
    for utterance_id, frames in written.items():
        assert read[utterance_id].shape == frames.shape
        np.testing.assert_allclose(read[utterance_id], frames, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_a_shard_without_frames_is_one(tmp_path):
    feature_set, _ = write_feature_set(tmp_path, counts=((), (0, 0)))
    assert [frames.shape for frames in read_feature_set(feature_set.folder).values()] == [(1, 0, 4)] * 2
    for path in list_shards(feature_set.folder):
        content = path.read_bytes()
        assert json.loads(content[:512])["metadata_bytes"] == len(content) - 512


def test_the_first_shard_that_has_an_id_counts(tmp_path):
    feature_set, written = write_feature_set(tmp_path)
    first = list_shards(feature_set.folder)[0]
    first.with_name("shard-zzz.h5").write_bytes(first.read_bytes())
    assert (
        list(read_feature_set(feature_set.folder))
        == list(written)
        == list(FeatureSet(feature_set.folder).ids)
    )


def test_names_fingerprint_and_description(tmp_path):
    feature_set, _ = write_feature_set(tmp_path)
    described = read_description(feature_set.folder)
    assert feature_set.folder.name == f"made-up-{described['fingerprint'][:12]}"
    with h5py.File(list_shards(feature_set.folder)[0]) as shard:
        assert shard.attrs["format_version"] == 1
        assert shard.attrs["provenance"].decode() == json.dumps(
            {key: value for key, value in described.items() if key != "fingerprint"}, sort_keys=True
        )
        assert hashlib.sha256(shard.attrs["provenance"]).hexdigest() == described["fingerprint"]


@pytest.mark.parametrize("layers", LAYERS)
def test_the_user_block_byte_by_byte(tmp_path, layers):
    feature_set, _ = write_feature_set(tmp_path, layers=layers)
    path = list_shards(feature_set.folder)[0]
    content = path.read_bytes()
    with h5py.File(path) as shard:
        assert shard.userblock_size == 512
        names = ["frames"] if len(layers) == 1 else [f"frames/{layer}" for layer in layers]
        positions = [shard[name].id.get_offset() for name in names]
    covered = min(positions) - 512
    digest = xxhash.xxh3_128_hexdigest(f"{len(content)} {covered}".encode() + content[512 : 512 + covered])
    stated = (
        f'{{"format": "sercache shard 1", "size_bytes": {len(content)}, "metadata_bytes": {covered}, '
        f'"xxh3_128": "{digest}"}}'
    )
    assert content[:512] == stated.encode().ljust(511, b" ") + b"\n"
    assert content[512:520] == b"\x89HDF\r\n\x1a\n"
    assert positions == sorted(positions)
    assert all(position % 64 == 0 for position in positions)


@pytest.mark.parametrize("layers", LAYERS)
def test_datasets_have_the_stated_types_and_shapes(tmp_path, layers):
    feature_set, written = write_feature_set(tmp_path, "bfloat16", layers, counts=((3, 0, 5),))
    stated = {
        "ids": ("|u1", (len("".join(written).encode()),)),
        "id_ends": ("<i8", (3,)),
        "offsets": ("<i8", (4,)),
        "seconds": ("<f8", (3,)),
        "spans": ("<f8", (3, 2)),
        "source_hash": ("|u1", (3, 16)),
        "source_bytes": ("<i8", (3,)),
        "checksums": ("<u8", (3,)),
    }
    frames = ["frames"] if len(layers) == 1 else [f"frames/{layer}" for layer in layers]
    stated |= dict.fromkeys(frames, ("<u2", (8, 4)))
    with h5py.File(list_shards(feature_set.folder)[0]) as shard:
        found = {}
        shard.visititems(
            lambda name, node: found.update({name: node}) if isinstance(node, h5py.Dataset) else None
        )
        assert {name: (dataset.dtype.str, dataset.shape) for name, dataset in found.items()} == stated
        assert all(
            dataset.chunks is None and not dataset.is_virtual and not dataset.external
            for dataset in found.values()
        )
        assert frames
        assert all(shard[name].attrs["dtype"] == b"bfloat16" for name in frames)
        assert all(dataset.id.get_offset() % 64 == 0 for dataset in found.values())
        assert [shard.attrs[name].dtype.kind for name in ("fingerprint", "provenance")] == ["S", "S"]
        assert shard["offsets"][:].tolist() == [0, 3, 3, 8]
        assert np.isnan(shard["spans"][0]).all()
        assert shard["spans"][1].tolist() == [0.5, 2.0]
        assert shard["source_hash"][0].tobytes().hex() == "0123456789abcdef" * 2


def test_sercache_opens_what_was_written_by_the_specification(tmp_path):
    described = {
        "format_version": 1,
        "encoder": "élan/vital",
        "revision": "3",
        "modality": "text",
        "layers": ["layer-1", "last"],
        "num_layers": 2,
        "dim": 3,
        "frame_rate_hz": None,
        "sample_rate_hz": None,
        "normalization": "none",
        "library": "another 1.0",
        "options": {"deep": True, "scale": 0.5},
        "time_pool": 1,
        "dtype": "float32",
        "window_seconds": None,
        "overlap_seconds": None,
    }
    canonical = json.dumps(described, sort_keys=True)
    fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
    folder = tmp_path / f"lan-vital-{fingerprint[:12]}"
    folder.mkdir()
    stated = json.dumps(described | {"fingerprint": fingerprint})
    (folder / "feature_set.json").write_text(stated, encoding="utf-8")
    ids = ["one", "zwölf"]
    frames = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("<f4")
    offsets = [0, 2, 5]
    path = folder / "shard-by-hand.h5"
    with h5py.File(path, "w", userblock_size=512) as shard:
        shard.attrs["format_version"] = 1
        shard.attrs["fingerprint"] = np.bytes_(fingerprint)
        shard.attrs["provenance"] = np.bytes_(canonical)
        encoded = [utterance_id.encode() for utterance_id in ids]
        columns = {
            "ids": np.frombuffer(b"".join(encoded), "u1"),
            "id_ends": np.cumsum([len(name) for name in encoded], dtype="<i8"),
            "offsets": np.asarray(offsets, "<i8"),
            "seconds": np.full(2, np.nan),
            "spans": np.full((2, 2), np.nan),
            "source_hash": np.zeros((2, 16), "u1"),
            "source_bytes": np.asarray([4, 5], "<i8"),
            "checksums": np.asarray(
                [
                    xxhash.xxh3_64_intdigest(b"".join(plane[first:last].tobytes() for plane in frames))
                    for first, last in pairwise(offsets)
                ],
                "<u8",
            ),
        }
        for name, column in columns.items():
            shard[name] = column
        for layer in described["layers"]:
            plane = shard.create_dataset(f"frames/{layer}", (5, 3), "<f4")
            plane.attrs["dtype"] = np.bytes_("float32")
        shard.flush()
        for layer, frame in zip(described["layers"], frames, strict=True):
            shard[f"frames/{layer}"][...] = frame
        position = min(shard[f"frames/{layer}"].id.get_offset() for layer in described["layers"])
    content = bytearray(path.read_bytes())
    covered = position - 512
    digest = xxhash.xxh3_128_hexdigest(f"{len(content)} {covered}".encode() + content[512 : 512 + covered])
    block = {
        "format": "sercache shard 1",
        "size_bytes": len(content),
        "metadata_bytes": covered,
        "xxh3_128": digest,
    }
    content[:512] = json.dumps(block).encode().ljust(511) + b"\n"
    path.write_bytes(content)
    opened = FeatureSet(folder)
    assert list(opened.ids) == ids
    for (first, last), utterance_id in zip(pairwise(offsets), ids, strict=True):
        for layer, plane in zip(described["layers"], frames, strict=True):
            np.testing.assert_array_equal(opened.frames(utterance_id, layer), plane[first:last])
    opened.check(opened.locate(ids))
    assert list(read_feature_set(folder)) == ids


def test_what_is_damaged_is_found(tmp_path):
    feature_set, _ = write_feature_set(tmp_path)
    path = list_shards(feature_set.folder)[0]
    content = path.read_bytes()
    for place in (3, 600, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises((AssertionError, ValueError)):
            read_feature_set(feature_set.folder)
    path.write_bytes(content[:-1])
    with pytest.raises(AssertionError, match="truncated"):
        read_feature_set(feature_set.folder)


def test_the_index_repeats_the_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(index_file, "WORTH_A_FILE", 1)
    layers = ("layer-6", "last")
    feature_set, written = write_feature_set(tmp_path, layers=layers)
    again = list_shards(feature_set.folder)[0]
    again.with_name("shard-zzz.h5").write_bytes(again.read_bytes())
    assert len(FeatureSet(feature_set.folder).ids) == 4  # which writes the index
    path = feature_set.folder / "index.h5"
    content = np.memmap(path, np.uint8, "r")
    check_user_block(content, "index")
    assert json.loads(content[:512].tobytes())["metadata_bytes"] == len(content) - 512
    with h5py.File(path) as file:
        column = {name: file[name][...] for name in file}
        assert file.attrs["fingerprint"].decode() == feature_set.spec.fingerprint
    shards = list_shards(feature_set.folder)
    ids = _cut(column["ids"], column["id_ends"])
    assert ids == [*written, "ä0/0", "ä0/1", "ä0/2"]
    assert _cut(column["shard_names"], column["shard_name_ends"]) == [shard.name for shard in shards]
    assert column["shard_bytes"].tolist() == [shard.stat().st_size for shard in shards]
    assert column["shard_modified"].tolist() == [shard.stat().st_mtime_ns for shard in shards]
    assert column["shard_rows"].tolist() == [3, 4, 7]
    assert column["repeats"].tolist() == [4, 5, 6]
    hashes = [xxhash.xxh3_64_intdigest(utterance_id.encode()) for utterance_id in ids]
    assert column["hashes"].tolist() == sorted(set(hashes))
    assert [hashes[row] for row in column["order"]] == column["hashes"].tolist()
    digests = [xxhash.xxh3_64_intdigest(shard.read_bytes()[:512]) for shard in shards]
    assert column["shard_digests"].tolist() == digests
    first = 0
    for shard, end in enumerate(column["shard_rows"].tolist()):
        with h5py.File(shards[shard]) as file:
            positions = [file[f"frames/{layer}"].id.get_offset() for layer in layers]
            assert column["frame_positions"][shard].tolist() == positions
            assert column["starts"][first:end].tolist() == file["offsets"][:-1].tolist()
            assert column["counts"][first:end].tolist() == np.diff(file["offsets"][:]).tolist()
            for name in ("seconds", "spans", "source_hash", "source_bytes", "checksums"):
                np.testing.assert_array_equal(column[name][first:end], file[name][...])
        first = end


def test_the_ledger_has_the_stated_columns(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.record("b", "decode", ValueError('a "bad", file'), "0" * 12)
    ledger.record("a", "audio", OSError("none"), "1" * 12)
    ledger.save()
    assert (tmp_path / "failures.csv").read_bytes() == (
        b"utterance,stage,exception,message,attempts,task\n"
        b"a,audio,OSError,none,1,111111111111\n"
        b'b,decode,ValueError,"a ""bad"", file",1,000000000000\n'
    )


def _cut(joined, ends):
    content, starts = joined.tobytes(), [0, *ends.tolist()]
    return [content[begin:end].decode() for begin, end in pairwise(starts)]
