"""Ctrl-C and SIGTERM: it stops at a safe point, says how to go on, and does."""

import os
import signal
import subprocess
import sys

import pytest

from support.fault_commands import (
    TIMEOUT_SECONDS,
    assert_one_line,
    begin_extract,
    contents,
    extract,
    finish,
    shards,
    temporaries,
    wait_for_shards,
)

SIGNALLED_WHILE_LOADING = """
import os, sys
from importlib.abc import MetaPathFinder
from sercache.cli.main import main

class Signal(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == wanted:
            os.kill(os.getpid(), number)

number, wanted = int(sys.argv[1]), sys.argv[2]
sys.argv = ["sercache", *sys.argv[3:]]
sys.meta_path.insert(0, Signal())
main()
"""

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture
def running(corpus, tmp_path):
    """A command, leader of a process group of its own, that is in the middle of its work."""
    process = begin_extract(corpus, tmp_path / "cache", fsync_seconds=0.03, start_new_session=True)
    wait_for_shards(tmp_path / "cache", 2, process)
    assert process.poll() is None
    return process


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("whole_group", [False, True])
def test_one_signal_stops_at_a_safe_point(corpus, whole, tmp_path, running, number, whole_group):
    cache = tmp_path / "cache"
    if whole_group:
        os.killpg(running.pid, number)
    else:
        running.send_signal(number)
    assert_one_line(finish(running), 130, "logmel: stopped", "the same command goes on from there")
    assert 2 <= len(shards(cache)) < len(whole) - 2
    assert temporaries(cache) == []
    assert extract(corpus, cache).code == 0
    assert contents(cache) == whole


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_it_at_once_and_loses_nothing_that_was_finished(
    corpus, whole, tmp_path, running, number
):
    cache = tmp_path / "cache"
    os.killpg(running.pid, number)
    os.killpg(running.pid, number)
    done = finish(running)
    assert done.code in (130, -number)
    assert "Traceback" not in done.errors
    found = contents(cache)
    assert found
    assert all(found[name] == whole[name] for name in found if not name.endswith(".tmp"))
    assert extract(corpus, cache).code == 0
    assert contents(cache) == whole


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("module", ["numpy", "h5py", "soundfile", "sercache.encoders.logmel"])
def test_a_signal_while_it_is_still_loading_shows_no_traceback(corpus, tmp_path, number, module):
    command = [sys.executable, "-c", SIGNALLED_WHILE_LOADING, str(int(number)), module]
    arguments = ["extract", str(corpus), "--cache", str(tmp_path / "cache"), "--encoder", "logmel"]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert done.returncode in (130, -number), done.stderr
    assert "Traceback" not in done.stderr
    assert temporaries(tmp_path) == []
