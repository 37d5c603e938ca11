from pathlib import Path

import pytest

from sercache.corpus import Corpus, Utterance
from sercache.corpus.leaks import find_leaks
from sercache.errors import Interrupted
from sercache.events import Context


def corpus_of(rows: list[Utterance], root: Path = Path()) -> Corpus:
    return Corpus(("A",), (), tuple(rows), root)


def found(corpus: Corpus) -> dict[tuple[str, ...], tuple[int, tuple[int, ...]]]:
    return {(leak.kind, *leak.between): (leak.shared, leak.rows) for leak in find_leaks(corpus)}


def test_a_speaker_in_two_splits_is_a_leak() -> None:
    rows = [
        Utterance("a", speaker="s", split="train"),
        Utterance("b", speaker="s", split="train"),
        Utterance("c", speaker="s", split="test"),
        Utterance("d", speaker="t", split="development"),
    ]
    assert found(corpus_of(rows)) == {("speaker", "train", "test"): (1, (2, 1))}


def test_a_row_without_split_is_a_training_row() -> None:
    rows = [Utterance("a", speaker="s"), Utterance("b", speaker="s", split="test")]
    assert found(corpus_of(rows)) == {("speaker", "train", "test"): (1, (1, 1))}


def test_the_same_content_under_another_name_is_a_leak_and_the_same_size_is_none(tmp_path: Path) -> None:
    for name, content in (("1.wav", b"abc"), ("2.wav", b"abc"), ("3.wav", b"xyz"), ("4.wav", b"longer")):
        (tmp_path / name).write_bytes(content)
    rows = [
        Utterance("a", audio="1.wav", split="train"),
        Utterance("b", audio="2.wav", split="test"),
        Utterance("c", audio="3.wav", split="test"),
        Utterance("d", audio="4.wav", split="train"),
        Utterance("e", audio="gone.wav", split="test"),
    ]
    (leak,) = find_leaks(corpus_of(rows, tmp_path))
    assert (leak.kind, leak.shared, leak.rows, leak.examples) == ("audio", 1, (1, 1), ("a = b",))


def test_spans_that_overlap_are_a_leak_and_spans_that_touch_are_none() -> None:
    def span(name: str, start: float, end: float | None, split: str, audio: str = "x.wav") -> Utterance:
        return Utterance(name, audio=audio, split=split, start_seconds=start, end_seconds=end)

    rows = [
        span("a", 0, 2, "train"),
        span("b", 2, 4, "test"),
        span("c", 3.5, 6, "train"),
        span("d", 9, None, "train"),
        span("e", 20, 21, "test"),
        span("f", 0, 2, "test", "y.wav"),
    ]
    leaks = find_leaks(corpus_of(rows))
    assert [(leak.kind, leak.shared, leak.rows) for leak in leaks] == [("span", 2, (2, 2))]
    assert set(leaks[0].examples) == {"c = b", "d = e"}


def test_texts_are_the_same_whatever_their_case_and_marks() -> None:
    rows = [
        Utterance("a", text="Oh my good God.", split="train"),
        Utterance("b", text="oh, my good god", split="test"),
        Utterance("c", text="Yes!", split="train"),
        Utterance("d", text="yes", split="test"),
        Utterance("e", text="...", split="train"),
        Utterance("f", text="!", split="test"),
    ]
    assert found(corpus_of(rows)) == {
        ("text", "train", "test"): (2, (2, 2)),
        ("sentence", "train", "test"): (1, (1, 1)),
    }


def test_without_splits_it_is_speakers_that_must_share_nothing(tmp_path: Path) -> None:
    (tmp_path / "1.wav").write_bytes(b"abc")
    rows = [
        Utterance("a", audio="1.wav", speaker="s"),
        Utterance("b", audio="1.wav", speaker="t"),
        Utterance("c", audio="1.wav", speaker="t"),
        Utterance("d", audio="1.wav"),
    ]
    assert found(corpus_of(rows, tmp_path)) == {("audio", "speakers"): (1, (3,))}


def test_it_can_be_stopped(tmp_path: Path) -> None:
    for name in ("1.wav", "2.wav"):
        (tmp_path / name).write_bytes(b"abc")
    rows = [Utterance("a", audio="1.wav", speaker="s"), Utterance("b", audio="2.wav", speaker="t")]
    with pytest.raises(Interrupted, match="after 0 of 2 recordings"):
        find_leaks(corpus_of(rows, tmp_path), context=Context(should_stop=lambda: True))
