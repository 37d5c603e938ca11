import csv

import pytest

from sercache.cache.ledger import Ledger
from sercache.errors import AudioError, CacheError


def test_a_ledger_survives_the_disk_and_counts_attempts(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.record('b "2", x', "decode", AudioError("b.wav: not audio,\n really"), "t1")
    ledger.save()
    again = Ledger(tmp_path)
    again.record('b "2", x', "encode", ValueError("odd"), "t2")
    again.save()
    with (tmp_path / "failures.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row == {
        "utterance": 'b "2", x',
        "stage": "encode",
        "exception": "ValueError",
        "message": "odd",
        "attempts": "2",
        "task": "t2",
    }


def test_what_is_fine_now_is_forgotten(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.record("a", "decode", AudioError("x"), "t")
    ledger.save()
    ledger.forget("a")
    ledger.forget("never there")
    ledger.save()
    assert Ledger(tmp_path).failures == {}


def test_nothing_is_written_where_nothing_failed(tmp_path):
    Ledger(tmp_path).save()
    assert list(tmp_path.iterdir()) == []


def test_two_extractions_do_not_overwrite_each_others_failures(tmp_path):
    first_ledger, other = Ledger(tmp_path), Ledger(tmp_path)
    first_ledger.record("a", "decode", AudioError("x"), "t1")
    first_ledger.save()
    other.record("b", "decode", AudioError("y"), "t2")
    other.save()
    assert list(Ledger(tmp_path).failures) == ["a", "b"]


@pytest.mark.parametrize("content", ["", "utterance\n", "a,b\n1,2\n", "\xff"])
def test_something_else_under_its_name_is_an_error(tmp_path, content):
    (tmp_path / "failures.csv").write_bytes(content.encode("latin-1"))
    if content == "utterance\n":
        assert Ledger(tmp_path).failures == {}
        return
    with pytest.raises(CacheError, match="not a ledger"):
        Ledger(tmp_path)
