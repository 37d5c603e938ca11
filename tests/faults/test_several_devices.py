"""Several devices, each with a process of its own, that are killed or stopped in the middle of their work."""

import os
import signal
from pathlib import Path

import pytest

from support.fault_commands import (
    assert_one_line,
    begin_extract,
    contents,
    extract,
    finish,
    wait_for_shards,
    wait_until,
    write_long_corpus,
)

OPTIONS = ("--time-pool", 10)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_long_corpus(tmp_path_factory.mktemp("corpus"), 8)


@pytest.fixture(scope="module")
def alone(manifest, tmp_path_factory):
    """What one device makes, undisturbed."""
    return on_one_device(manifest, tmp_path_factory.mktemp("alone") / "cache")


def on_one_device(manifest, cache):
    done = extract(manifest, cache, *OPTIONS, "--devices", "cpu", task_seconds=60.0)
    assert (done.code, done.errors) == (0, "")
    return contents(cache)


def workers_of(process):
    """Processes of devices that a command has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("/proc does not tell the children of a process")
    return [child for child in map(int, children.read_text().split()) if is_worker(child)]


def is_worker(child):
    try:
        return b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def is_running(child):
    try:
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def running(manifest, tmp_path):
    """A command with two devices that has published a shard, and its workers."""
    options = {"task_seconds": 60.0, "start_new_session": True}
    process = begin_extract(manifest, tmp_path / "cache", *OPTIONS, "--devices", "cpu,cpu", **options)
    wait_for_shards(tmp_path / "cache", 1, process)
    workers = workers_of(process)
    assert len(workers) == 2
    return process, workers


def test_workers_do_not_outlive_a_command_that_is_killed(manifest, alone, tmp_path, running):
    process, workers = running
    process.kill()
    finish(process)
    wait_until(lambda: not any(map(is_running, workers)), "the end of the workers")
    assert on_one_device(manifest, tmp_path / "cache") == alone


def test_a_worker_that_is_killed_is_replaced(manifest, alone, tmp_path, running):
    process, workers = running
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.h5")}
    os.kill(workers[0], signal.SIGKILL)
    done = finish(process)
    assert done.code == 0, done.errors
    assert "Traceback" not in done.errors
    assert not any(map(is_running, workers))
    assert {path: path.stat().st_mtime_ns for path in before} == before  # what was finished was not redone
    assert on_one_device(manifest, tmp_path / "cache") == alone


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_to_all_of_them_stops_at_a_safe_point(manifest, alone, tmp_path, running, number):
    process, workers = running
    os.killpg(process.pid, number)
    assert_one_line(finish(process), 130, "the same command goes on from there")
    assert not any(map(is_running, workers))
    assert on_one_device(manifest, tmp_path / "cache") == alone
