"""A bucket that somebody else wrote: its names and numbers never leave the cache's folder."""

import json

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from sercache.benchmarks.synthetic import synthetic_feature_set
from sercache.cache.remote.bucket import Bucket, Commit
from sercache.cache.remote.mirror import make_mirror
from sercache.cache.remote.transfer import pull, push
from sercache.cache.store import Cache
from sercache.errors import CacheError
from support.command_line import invoke

GOOD = {
    "shard": "shard-000001.h5",
    "object_name": "shard-000001-0123456789ab.h5",
    "size_bytes": 2000,
    "head_bytes": 700,
    "digest": "0" * 32,
}


@pytest.fixture
def bucket(tmp_path):
    """A pushed cache in a folder, by its URL, and the path of its only commit."""
    synthetic_feature_set(tmp_path / "cache", 5, 30, 8)
    url = f"file://{tmp_path}/bucket"
    push(url=url, root=tmp_path / "cache")
    commit, *_ = sorted((tmp_path / "bucket").glob("*/commits/*.json"))
    return url, commit


@pytest.mark.parametrize(
    "changed",
    [
        {"shard": "../../../outside.h5"},
        {"shard": "shard-../../x.h5"},
        {"shard": "/tmp/shard-1.h5"},
        {"shard": "feature_set.json"},
        {"shard": "shard-.h5/../../x"},
        {"object_name": "../../other/objects/shard-1.h5"},
        {"object_name": 3},
        {"size_bytes": -1},
        {"size_bytes": 10**18},
        {"size_bytes": True},
        {"head_bytes": 0},
        {"digest": None},
        {"more": 1},
    ],
)
@pytest.mark.parametrize("get", [pull, lambda url, root: make_mirror(url, root, limit_bytes=10**9)])
def test_a_commit_whose_names_or_numbers_are_no_shards_writes_nothing(bucket, tmp_path, changed, get):
    url, path = bucket
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CacheError, match="commits: damaged"):
        get(url, tmp_path / "mine" / "deep" / "cache")
    after = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert after == [path for path in before if path.is_file()]


def test_the_command_names_what_is_wrong(bucket, tmp_path):
    url, path = bucket
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shard": "../../../.bashrc"}))
    with pytest.raises(CacheError, match=r"'\.\./\.\./\.\./\.bashrc' is not the file name of a shard"):
        invoke("cache", "pull", url, tmp_path / "mine")


def test_a_local_shard_of_equal_size_and_other_content_is_replaced(bucket, tmp_path):
    url, _ = bucket
    pull(url, tmp_path / "mine")
    (feature_set,) = Cache(tmp_path / "mine").feature_sets()
    path, *_ = feature_set.shard_paths
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + bytes(8))
    assert path.read_bytes() != whole
    assert pull(url, tmp_path / "mine").shards == 1
    assert path.read_bytes() == whole


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), st.text() | st.integers() | st.none() | st.floats()))
def test_whatever_a_commit_says_its_paths_stay_below_their_folder(tmp_path_factory, changes):
    folder = tmp_path_factory.getbasetemp()
    try:
        commit = Commit.parse(GOOD | changes)
    except ValueError:
        return
    for name in (commit.shard, commit.object_name):
        assert (folder / name).resolve().parent == folder.resolve()


def test_a_folder_that_is_no_name_is_refused(monkeypatch):
    monkeypatch.setattr(MemoryFileSystem, "glob", lambda self, pattern: ["/cache/../feature_set.json"])
    with pytest.raises(CacheError, match="not the name of a feature set"):
        Bucket("memory://cache").feature_sets()
