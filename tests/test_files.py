import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sercache.errors import Interrupted
from sercache.files import (
    read_json,
    remove_stale_temporaries,
    slug,
    write_atomically,
    write_json,
    write_lines,
)


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    path = tmp_path / "weights.bin"
    write_atomically(path, b"old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_comes_back_as_it_was_written(tmp_path):
    value = {"classes": ["Angry", "Überraschung"], "macro_f1": 0.43}
    write_json(tmp_path / "deep" / "metrics.json", value)
    assert read_json(tmp_path / "deep" / "metrics.json") == value


def test_what_a_dead_writer_left_is_removed_and_nothing_else(tmp_path):
    dead = tmp_path / f".shard.h5.{os.getpid()}.0123abcd.tmp"  # of the same process id, in another container
    bystander = tmp_path / ".notes.tmp"
    for path in (dead, bystander):
        path.touch()
    remove_stale_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == [bystander]


def test_the_temporary_of_a_living_writer_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: remove_stale_temporaries(tmp_path))
    write_atomically(tmp_path / "weights.bin", b"new")
    assert (tmp_path / "weights.bin").read_bytes() == b"new"


@given(st.text())
def test_a_slug_is_one_safe_path_component(text):
    component = slug(text)
    assert component
    assert not set(component) & set("/\\.\0 ")
    assert len(component) <= 64


def test_lines_that_end_in_an_error_are_kept(tmp_path):
    def lines():
        yield "one"
        yield "two"
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        write_lines(tmp_path / "out.csv", lines())
    assert (tmp_path / "out.csv").read_text() == "one\ntwo\n"
    assert write_lines(tmp_path / "out.csv", iter(["three"])) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "three\n"
