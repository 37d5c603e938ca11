"""Frames out of the cache and in again, and folders that other tools wrote."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from sercache.cache.exchange.exporting import export, file_names
from sercache.cache.exchange.importing import ForeignFrames, import_npy
from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.frames import from_storage, to_storage
from sercache.cache.ledger import Ledger
from sercache.cache.shard import StoredUtterance
from sercache.cache.sources import Source
from sercache.cache.store import Cache, FeatureSet
from sercache.cache.verify import verify
from sercache.cache.writer import publish_shard, start_feature_set
from sercache.corpus import Corpus, Utterance
from sercache.corpus.table import read_table
from sercache.errors import CacheError, Interrupted
from sercache.events import Context
from sercache.recipe import FeatureRecipe

SPEC = FeatureSpec(
    "wavlm", "1", "audio", ("last",), 12, 6, 50.0, 16_000, "none", "tests", dtype="float16",
    window_seconds=30.0, overlap_seconds=2.0,
)  # fmt: skip
IDS = ("plain", "../../etc/passwd", "a/b", "ü", "PLAIN", "x" * 200, "con.", "two words")


@given(st.lists(st.text(min_size=1), unique=True, max_size=30))
def test_names_are_safe_and_all_different(ids):
    names = file_names(ids)
    assert list(names) == ids
    assert len({name.lower() for name in names.values()}) == len(ids)
    for name in names.values():
        assert "/" not in name
        assert not name.startswith((".", "-"))
        assert len(name.encode()) < 120


def make(root, spec=SPEC, ids=IDS):
    feature_set = start_feature_set(root, spec)
    generator = np.random.default_rng(0)
    stored = []
    for number, name in enumerate(ids):
        frames = generator.normal(size=(len(spec.layers), 3 + number, spec.dim)).astype(np.float32)
        planes = tuple(to_storage(frames, spec.dtype))
        stored.append(StoredUtterance(name, planes, 0.1, Source("0" * 32, 1)))
    publish_shard(feature_set, "a", stored)
    return FeatureSet(feature_set.folder)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("as_float32", [False, True])
def test_npy_files_hold_the_frames_of_every_id(tmp_path, dtype, as_float32):
    feature_set = make(tmp_path / "c", replace(SPEC, dtype=dtype))
    done = export(feature_set, tmp_path / "out", "npy", as_float32=as_float32)
    table = read_table(tmp_path / "out" / "index.csv")
    assert [row[0] for row in table.rows] == list(IDS)
    assert done.files == len(IDS)
    for name, file, frames, _ in table.rows:
        found = np.load(tmp_path / "out" / file, allow_pickle=False)
        expected = from_storage(feature_set.frames(name), dtype)
        assert found.shape == (int(frames), 6)
        np.testing.assert_array_equal(found.astype(np.float32), expected)
        assert found.dtype == (np.float16 if dtype == "float16" and not as_float32 else np.float32)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_safetensors_hold_the_frames_by_id_in_their_own_dtype(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr("sercache.cache.exchange.exporting.SAFETENSORS_BYTES", 200)
    feature_set = make(tmp_path / "c", replace(SPEC, dtype=dtype))
    done = export(feature_set, tmp_path / "out", "safetensors")
    assert done.files > 2
    for name, file, *_ in read_table(tmp_path / "out" / "index.csv").rows:
        with safe_open(tmp_path / "out" / file, "pt") as stored:
            found = stored.get_tensor(name)
            assert '"encoder": "wavlm"' in stored.metadata()["sercache"]
        assert found.dtype == getattr(torch, dtype)
        np.testing.assert_array_equal(found.float(), from_storage(feature_set.frames(name), dtype))


def test_an_interrupted_export_goes_on_and_another_one_is_refused(tmp_path):
    feature_set = make(tmp_path / "c")
    asked = iter(range(9))
    with pytest.raises(Interrupted, match="the same command goes on"):
        export(feature_set, tmp_path / "out", "npy", context=Context(should_stop=lambda: next(asked) >= 3))
    first = min((tmp_path / "out").glob("*.npy"), key=lambda path: path.stat().st_mtime_ns)
    written = first.stat().st_mtime_ns
    assert export(feature_set, tmp_path / "out", "npy").files == len(IDS)
    assert first.stat().st_mtime_ns == written
    with pytest.raises(CacheError, match="holds something else already"):
        export(feature_set, tmp_path / "out", "safetensors")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(CacheError, match="holds something else already"):
        export(feature_set, tmp_path / "mine", "npy")


def test_damaged_frames_are_not_exported(tmp_path):
    feature_set = make(tmp_path / "c")
    (path,) = feature_set.shard_paths
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match="not what was written"):
        export(FeatureSet(feature_set.folder), tmp_path / "out", "npy")


def test_one_of_several_layers_is_exported(tmp_path):
    feature_set = make(tmp_path / "c", replace(SPEC, layers=("layer-6", "last")))
    with pytest.raises(CacheError, match="none was named"):
        export(feature_set, tmp_path / "none", "npy")
    export(feature_set, tmp_path / "out", "npy", layer="layer-6")
    np.testing.assert_array_equal(
        np.load(tmp_path / "out" / "plain.npy"), feature_set.frames("plain", "layer-6")
    )


@pytest.fixture
def corpus(tmp_path):
    rows = tuple(Utterance(id=f"u{k}", audio=f"wav/Ses01_{k}.wav", text="yes") for k in range(4))
    return Corpus((), (), rows, tmp_path)


def write(folder, name, array):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def frames(count, dim=6, scale=1.0):
    return (np.random.default_rng(count).normal(size=(count, dim)) * scale).astype(np.float32)


def test_a_folder_of_another_tool_becomes_a_feature_set_that_recipes_find(tmp_path, corpus):
    folder = tmp_path / "npy"
    write(folder, "u0.npy", frames(5))
    write(folder, "deep/Ses01_1.npy", frames(7)[None])
    write(folder, "u2.npy", frames(1)[0])
    write(folder, "stranger.npy", frames(2))
    foreign = ForeignFrames("microsoft/wavlm-large", layers=("sum-21-24",), num_layers=24)
    done = import_npy(folder, tmp_path / "c", corpus, foreign)
    assert (done.utterances, done.without_file, done.unused_files) == (3, ("u3",), 1)
    found = Cache(tmp_path / "c").find(FeatureRecipe(encoder="microsoft/wavlm-large", layers="last4"))
    assert found.spec.library == "imported"
    assert found.spec.revision.startswith("foreign ")
    assert found.frame_counts(["u0", "u1", "u2"]).tolist() == [5, 7, 1]
    np.testing.assert_array_equal(found.frames("u1"), frames(7).astype(np.float16))
    assert set(Ledger(found.folder).failures) == {"u3"}
    assert verify(found) == []
    before = {path.name: path.read_bytes() for path in found.folder.glob("*.h5")}
    import_npy(folder, tmp_path / "c", corpus, foreign)
    assert {path.name: path.read_bytes() for path in found.folder.glob("*.h5")} == before


def test_other_content_is_another_feature_set_and_loud_features_are_not_cut(tmp_path, corpus):
    write(tmp_path / "one", "u0.npy", frames(5))
    write(tmp_path / "two", "u0.npy", frames(5, scale=1e6))
    first = import_npy(tmp_path / "one", tmp_path / "c", corpus, ForeignFrames("x")).feature_set
    second = import_npy(tmp_path / "two", tmp_path / "c", corpus, ForeignFrames("x")).feature_set
    assert first.folder != second.folder
    assert second.is_bfloat16


def test_what_was_exported_comes_back_the_same(tmp_path):
    feature_set = make(tmp_path / "c")
    export(feature_set, tmp_path / "out", "npy")
    corpus = Corpus((), (), tuple(Utterance(id=name, text="yes") for name in feature_set.ids), tmp_path)
    back = import_npy(tmp_path / "out", tmp_path / "d", corpus, ForeignFrames("wavlm", "text")).feature_set
    for name in feature_set.ids:
        np.testing.assert_array_equal(back.frames(name), feature_set.frames(name))


class Gadget:
    def __reduce__(self):
        return (print, ("a pickle was loaded",))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([Gadget()], dtype=object), "not an array that can be read"),
        (np.zeros((2, 3, 6), np.float32), r"holds float32 of shape \(2, 3, 6\)"),
        (np.zeros((0, 6), np.float32), r"holds float32 of shape \(0, 6\)"),
        (np.full((2, 6), np.nan, np.float32), "not finite"),
        (np.zeros((2, 7), np.float32), "is 7 wide, the files before it are 6 wide"),
        (np.array([["a"]]), "holds <U1"),
    ],
    ids=["pickle", "batch", "empty", "nan", "width", "text"],
)
def test_files_that_are_no_frames_are_one_line(tmp_path, corpus, capsys, array, message):
    folder = tmp_path / "npy"
    write(folder, "u0.npy", frames(5))
    np.save(folder / "u1.npy", array, allow_pickle=True)
    with pytest.raises(CacheError, match=message) as caught:
        import_npy(folder, tmp_path / "c", corpus, ForeignFrames("x"))
    assert "u1.npy" in str(caught.value)
    assert "a pickle was loaded" not in capsys.readouterr().out
    assert not (tmp_path / "c").exists()


def test_an_index_that_names_what_is_not_there_is_one_line(tmp_path, corpus):
    write(tmp_path / "npy", "u0.npy", frames(2))
    (tmp_path / "npy" / "index.csv").write_text("id,file\nu1,../../u9.npy\n")
    with pytest.raises(CacheError, match=r"the file of 'u1', ../../u9.npy, is not there"):
        import_npy(tmp_path / "npy", tmp_path / "c", corpus, ForeignFrames("x"))
    (tmp_path / "npy" / "index.csv").write_text("name,file\nu1,u0.npy\n")
    with pytest.raises(CacheError, match="not an index of files"):
        import_npy(tmp_path / "npy", tmp_path / "c", corpus, ForeignFrames("x"))


def test_folders_that_fit_nothing_are_one_line(tmp_path, corpus):
    with pytest.raises(CacheError, match="no such folder"):
        import_npy(tmp_path / "nowhere", tmp_path / "c", corpus, ForeignFrames("x"))
    write(tmp_path / "npy", "stranger.npy", frames(2))
    with pytest.raises(CacheError, match=r"no .npy file is named after .*stranger.npy; ids such as 'u0'"):
        import_npy(tmp_path / "npy", tmp_path / "c", corpus, ForeignFrames("x"))
    write(tmp_path / "npy", "a/u0.npy", frames(2))
    write(tmp_path / "npy", "b/u0.npy", frames(2))
    with pytest.raises(CacheError, match="two files of one name"):
        import_npy(tmp_path / "npy", tmp_path / "c", corpus, ForeignFrames("x"))
