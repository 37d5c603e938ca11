"""Recordings that disappear while the command runs."""

import signal

import pytest

from support.fault_commands import (
    assert_one_line,
    begin_extract,
    contents,
    failures,
    finish,
    run,
    wait_for_shards,
    write_long_corpus,
)

RECORDINGS = 16
"""More than are decoded ahead."""

VANISHING = range(12, RECORDINGS)


@pytest.fixture
def manifest(tmp_path):
    return write_long_corpus(tmp_path, RECORDINGS)


def begin_and_unlink(manifest, cache, *more):
    """Let recordings vanish that the command has planned, but not yet decoded."""
    process = begin_extract(manifest, cache, *more, "--time-pool", 10, task_seconds=60.0, fsync_seconds=0.01)
    wait_for_shards(cache, 1, process)
    process.send_signal(signal.SIGSTOP)
    for number in VANISHING:
        manifest.with_name(f"clip-{number:02d}.wav").unlink()
    process.send_signal(signal.SIGCONT)
    return finish(process)


def test_vanished_recordings_are_rows_of_the_ledger(manifest, tmp_path):
    cache = tmp_path / "cache"
    done = begin_and_unlink(manifest, cache)
    assert (done.code, done.errors) == (0, "")
    rows = failures(cache)
    assert rows
    assert rows.keys() <= {f"clip-{number:02d}" for number in VANISHING}
    assert {(row["stage"], row["exception"], row["attempts"]) for row in rows.values()} == {
        ("decode", "AudioError", "1")
    }
    assert all("no such file" in row["message"] for row in rows.values())
    assert f"{len(rows)} utterances have no features" in done.output
    verified = run("cache", "verify", cache)
    assert verified.code == 0
    assert f": {RECORDINGS - len(rows)} utterances" in verified.output


def test_too_many_vanished_recordings_end_the_run(manifest, tmp_path):
    cache = tmp_path / "cache"
    done = begin_and_unlink(manifest, cache, "--max-failures", 0)
    assert_one_line(done, 2, f"of {RECORDINGS} utterances failed, at most 0 may (--max-failures)")
    assert failures(cache)
    assert run("cache", "verify", cache).code == 0
    assert not [name for name in contents(cache) if name.endswith(".tmp")]
