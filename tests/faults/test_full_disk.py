"""A disk that is full: one line, finished shards stay, no temporary does, it goes on once there is room."""

import shutil
import subprocess

import pytest

from support.fault_commands import (
    assert_one_line,
    contents,
    extract,
    run,
    shards,
    temporaries,
    write_manifest,
)

GOES_ON = "the same command goes on from there"


def fill(folder):
    """Leave not one free block."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        for size in (65_536, 4_096, 512):
            try:
                while stream.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return ballast


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request, mount, tmp_path):
    """A disk with room for some of the shards, but not for all."""
    if request.param == "tmpfs":
        return mount("disk", "-t", "tmpfs", "-o", "size=256k", "tmpfs")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4")
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(400 * 1024))
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image)], check=True)
    return mount("disk", "-o", "loop", image)


def test_a_full_disk_costs_the_task_in_flight_and_the_same_command_goes_on(corpus, whole, small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(100_000))
    cache = small_disk / "cache"
    done = extract(corpus, cache)
    assert_one_line(done, 2, "No space left on device", "finished shards are kept", GOES_ON)
    assert 0 < len(shards(cache)) < len(whole) - 2
    assert temporaries(cache) == []
    found = contents(cache)
    assert all(found[name] == whole[name] for name in found)
    assert run("cache", "verify", cache).code == 0
    assert_one_line(extract(corpus, cache), 2, "No space left on device", GOES_ON)
    assert contents(cache) == found


def test_a_disk_that_was_full_and_has_room_again_ends_in_the_same_bytes(corpus, whole, mount):
    disk = mount("disk", "-t", "tmpfs", "-o", "size=192k", "tmpfs")
    assert_one_line(extract(corpus, disk / "cache"), 2, "No space left on device")
    made_before = set(shards(disk / "cache"))
    assert 0 < len(made_before) < len(whole) - 2
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    done = extract(corpus, disk / "cache")
    assert (done.code, done.errors) == (0, "")
    assert contents(disk / "cache") == whole


def test_a_disk_too_full_for_the_description(corpus, whole, small_disk):
    ballast = fill(small_disk)
    assert_one_line(extract(corpus, small_disk / "cache"), 2, "No space left on device", GOES_ON)
    assert contents(small_disk).keys() == {"ballast"}
    ballast.unlink()
    ballast.write_bytes(bytes(100_000))
    assert_one_line(extract(corpus, small_disk / "cache"), 2, "No space left on device")
    found = contents(small_disk / "cache")
    assert found
    assert all(found[name] == whole[name] for name in found)


def test_a_disk_without_room_for_one_more_file(corpus, mount):
    disk = mount("disk", "-t", "tmpfs", "-o", "nr_inodes=7", "tmpfs")
    assert_one_line(extract(corpus, disk / "cache"), 2, "No space left on device", GOES_ON)
    assert temporaries(disk) == []
    assert len(shards(disk / "cache")) == 2


def test_a_disk_too_full_for_the_list_of_failures(corpus, tmp_path, mount):
    clips = {f"clip-{number:03d}": f"clip-{number:03d}.wav" for number in range(3)}
    for name in clips.values():
        shutil.copy(corpus.with_name(name), tmp_path)
    manifest = write_manifest(tmp_path, clips)
    disk = mount("disk", "-t", "tmpfs", "-o", "size=2m", "tmpfs")
    assert extract(manifest, disk / "cache").code == 0
    before = contents(disk / "cache")
    write_manifest(tmp_path, clips | {"gone": "gone.wav"})
    ballast = fill(disk)
    assert_one_line(extract(manifest, disk / "cache"), 2, "failures.csv", "No space left on device", GOES_ON)
    assert contents(disk / "cache") == before
    ballast.unlink()
    assert extract(manifest, disk / "cache").code == 0
    assert contents(disk / "cache").items() >= before.items()
