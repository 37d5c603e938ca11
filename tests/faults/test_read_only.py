"""A cache that cannot be written: reading works, and so does an extraction that has nothing to do."""

import shutil
import stat
import subprocess

import pytest

from support.fault_commands import assert_one_line, contents, extract, run, without_rights


@pytest.fixture(params=["permissions", "mount"])
def read_only(request, tmp_path):
    """Return a function that makes a cache read-only, and the wrapper under which it is."""
    if request.param == "permissions":
        wrapper = without_rights()
        changed = []

        def take_rights(cache):
            for path in [cache, *cache.rglob("*")]:
                changed.append((path, path.stat().st_mode))
                path.chmod(path.stat().st_mode & ~0o222)
            return wrapper

        yield take_rights
        for path, mode in changed:
            path.chmod(stat.S_IMODE(mode))
        return
    mount = request.getfixturevalue("mount")
    disk = mount("disk", "-t", "tmpfs", "-o", "size=8m", "tmpfs")
    caches = []

    def remount(cache):
        shutil.copytree(cache, disk / "cache")
        shutil.rmtree(cache)
        cache.symlink_to(disk / "cache")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        caches.append(cache)
        return ()

    yield remount


def test_a_complete_read_only_cache_can_be_read_and_needs_no_extraction(
    corpus, whole, whole_cache, tmp_path, read_only
):
    cache = tmp_path / "cache"
    shutil.copytree(whole_cache, cache)
    through = read_only(cache)
    for command in (("cache", "ls", cache), ("cache", "info", cache), ("cache", "verify", cache)):
        done = run(*command, through=through)
        assert (done.code, done.errors) == (0, "")
    done = extract(corpus, cache, through=through)
    assert (done.code, done.errors) == (0, "")
    assert "--retry-failed" in done.output
    assert contents(cache) == whole


def test_an_incomplete_read_only_cache_is_one_line(corpus, whole_cache, tmp_path, read_only):
    cache = tmp_path / "cache"
    shutil.copytree(whole_cache, cache)
    next(cache.glob("*/shard-*.h5")).unlink()
    before = contents(cache)
    through = read_only(cache)
    expected = ("cannot be written", "finished shards are kept")
    assert_one_line(extract(corpus, cache, through=through), 2, *expected)
    assert_one_line(extract(corpus, cache, "--retry-failed", through=through), 2, *expected)
    assert contents(cache) == before


def test_a_new_feature_set_in_a_read_only_cache_is_one_line(corpus, whole_cache, tmp_path, read_only):
    cache = tmp_path / "cache"
    shutil.copytree(whole_cache, cache)
    before = contents(cache)
    done = extract(corpus, cache, "--time-pool", 2, through=read_only(cache))
    assert_one_line(done, 2, "cannot be written", str(cache))
    assert contents(cache) == before


def test_leftovers_in_a_read_only_cache_do_not_stop_reading(corpus, whole_cache, tmp_path, read_only):
    cache = tmp_path / "cache"
    shutil.copytree(whole_cache, cache)
    (folder,) = cache.iterdir()
    (folder / ".shard-0123456789ab.h5.4194303.01234567.tmp").write_bytes(b"half a shard")
    done = extract(corpus, cache, through=read_only(cache))
    assert (done.code, done.errors) == (0, "")
