"""Several commands into one cache at once."""

import signal

import pytest

from support.fault_commands import (
    begin_extract,
    contents,
    extract,
    finish,
    freeze_while_writing,
    process_namespace,
    wait_for_shards,
)


@pytest.mark.parametrize("count", [2, 3])
def test_commands_at_once_all_succeed_and_end_in_the_same_bytes(corpus, whole, tmp_path, count):
    cache = tmp_path / "cache"
    processes = [begin_extract(corpus, cache, fsync_seconds=0.01) for _ in range(count)]
    assert [(done.code, done.errors) for done in map(finish, processes)] == [(0, "")] * count
    assert contents(cache) == whole


def test_a_command_that_is_killed_does_not_disturb_the_other(corpus, whole, tmp_path):
    cache = tmp_path / "cache"
    killed, other = (begin_extract(corpus, cache, fsync_seconds=0.03) for _ in range(2))
    wait_for_shards(cache, 5, killed)
    killed.kill()
    finish(killed)
    done = finish(other)
    assert (done.code, done.errors) == (0, "")
    assert extract(corpus, cache).code == 0
    assert contents(cache) == whole


def test_a_command_in_another_container_leaves_the_file_of_a_living_writer(corpus, whole, tmp_path):
    cache, container = tmp_path / "cache", process_namespace()
    writer = begin_extract(corpus, cache, fsync_seconds=0.05)
    freeze_while_writing(writer, cache)
    assert extract(corpus, cache, through=container).code == 0
    writer.send_signal(signal.SIGCONT)
    done = finish(writer)
    assert (done.code, done.errors) == (0, "")
    assert contents(cache) == whole
