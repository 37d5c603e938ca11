import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sercache.corpus.check import Problem, check_corpus
from sercache.corpus.manifest import read_corpus, write_corpus
from sercache.errors import CorpusError, Interrupted
from sercache.events import Context, Event

HEADER = "id,audio,text,speaker,split,start,end,votes:Angry,votes:Happy,votes:O,attribute:arousal[1..7]"


def write_tone(path: Path, seconds: float = 0.5, rate: int = 16000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.1 * np.sin(np.arange(int(seconds * rate)) / 10)
    soundfile.write(path, np.stack([tone] * channels, axis=1), rate)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tone(tmp_path / "a.wav")
    write_tone(tmp_path / "b.wav", rate=44100, channels=2)
    return tmp_path


def problems_of(folder: Path, *lines: str, header: str = HEADER, decode: bool = True) -> list[Problem]:
    path = folder / "corpus.csv"
    path.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return check_corpus(path, decode=decode)


def lines_of(problems: list[Problem], severity: str | None = None) -> list[str]:
    return [
        f"{problem.line} {problem.id}: {problem.what}"
        for problem in problems
        if severity in (None, problem.severity)
    ]


GOOD = ("u1,a.wav,hello,s1,train,,,1,0,,4", "u2,b.wav,,s2,test,0.1,0.4,0,2,1,")


def test_sound_corpus_has_no_problems(folder: Path) -> None:
    assert problems_of(folder, *GOOD) == []


def test_all_defects_are_told_at_once_each_with_its_line(folder: Path) -> None:
    (folder / "text.wav").write_text("this is no audio")
    (folder / "empty.wav").touch()
    write_tone(folder / "short.wav", seconds=0.05)
    soundfile.write(folder / "silent.wav", np.zeros(16000), 16000)
    whole = (folder / "a.wav").read_bytes()
    (folder / "half.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "dir.wav").mkdir()
    os.mkfifo(folder / "pipe.wav")
    problems = problems_of(
        folder,
        *GOOD,
        "u3,text.wav,,s1,train,,,1,0,,",
        "u4,empty.wav,,s1,train,,,1,0,,",
        "u5,missing.wav,,s1,train,,,1,0,,",
        "u6,short.wav,,s1,train,,,1,0,,",
        "u7,silent.wav,,s1,train,,,1,0,,",
        "u8,half.wav,,s1,train,,,1,0,,",
        "u9,dir.wav,,s1,train,,,1,0,,",
        "u10,pipe.wav,,s1,train,,,1,0,,",
        "u11,a.wav,,s1,train,0,9,1,0,,",
        "u12,a.wav,,s1,train,0.3,0.2,1,0,,",
        "u13,a.wav,,s1,train,0.2,0.25,1,0,,",
        "u1,,again,s1,train,,,1,0,,",
        "u14,,text,s1,train,,,-1,2,,",
        "u15,,text,s1,train,,,0,0,0,",
        "u16,,text,s1,train,,,1,one,,",
        "u17,,text,s1,trian,,,1,0,,",
        "u18,,text,s1,test,,,1,0,,",
        "u19,,text,s1,train,,,1,0,,7.5",
        "u20,,,s1,train,,,1,0,,",
        ",,text,s1,train,,,1,0,,",
        "u21,,text,s1,train,,,1,0,",
    )
    errors = lines_of(problems, "error")
    expected = [
        ("4 u3", "not audio"),
        ("5 u4", "empty"),
        ("6 u5", "missing.wav: no such file"),
        ("7 u6", "too short, 0.050 s (minimum 0.1 s)"),
        ("8 u7", "silent"),
        ("9 u8", "truncated"),
        ("10 u9", "directory"),
        ("11 u10", "not a regular file"),
        ("12 u11", "end 9 s lies beyond the recording, which has 0.50 s"),
        ("13 u12", "start 0.3 s is not before end 0.2 s"),
        ("14 u13", "too short, 0.050 s"),
        ("15 u1", "id 'u1' is already on line 2"),
        ("16 u14", "-1 votes for 'Angry': votes cannot be negative"),
        ("17 u15", "the votes sum to zero"),
        ("18 u16", "'one' is not a number"),
        ("19 u17", "unknown split 'trian' (splits: train, development, test). Did you mean 'train'?"),
        ("20 u18", "speaker 's1' is in split 'test' and in 'train' (line 2)"),
        ("21 u19", "arousal 7.5 is out of range [1..7]"),
        ("22 u20", "neither audio nor text"),
        ("23 ", "the id is empty"),
        ("24 u21", "10 cells where the header has 11"),
    ]
    for place, what in expected:
        assert any(line.startswith(f"{place}: ") and what in line for line in errors), (place, what, errors)
    assert {int(line.split()[0]) for line in errors} == set(range(4, 25))
    assert [problem.line for problem in problems] == sorted(problem.line for problem in problems)
    assert all("\n" not in problem.what and str(folder) not in problem.what for problem in problems)


def test_doubtful_rows_are_warnings(folder: Path) -> None:
    problems = problems_of(
        folder,
        *GOOD,
        "u3,./a.wav,,s1,train,,,1,0,,",
        "u4,,text,,train,,,1,0,,",
        "u5,,text,s1,train,,,,,,",
        "u6,,text,s2,test,,,,,,",
        "u7,,text,s3,dev,,,0,1,,",
        "u8,,text,s3,validation,,,0,1,,",
    )
    assert lines_of(problems, "error") == []
    assert lines_of(problems) == [
        "1 : splits 'dev' and 'validation' are all read as 'development'",
        "4 u3: the same recording as line 2: ./a.wav",
        "5 u4: no speaker: such rows count as one speaker",
        "6 u5: no votes: the row is left out of training",
    ]


def test_header_problems_come_with_those_of_the_rows(folder: Path) -> None:
    problems = problems_of(
        folder, "u1,t,1,2,,3", "u1,t,1,2,x,3", header="id,text,votes:A,votes:A,attribute:v,votes2:B"
    )
    assert [problem.line for problem in problems if problem.severity == "error"] == [1, 1, 1, 3]


def test_unknown_class_in_a_label_column(folder: Path) -> None:
    header = "id,text,speaker,votes:Angry,votes:Happy,label"
    problems = problems_of(folder, "u1,t,s,1,0,Angry", "u2,t,s,0,1,Hapy", "u3,t,s,1,1,X", header=header)
    assert lines_of(problems) == [
        "3 u2: unknown class 'Hapy' in column 'label' (classes: Angry, Happy). Did you mean 'Happy'?"
    ]


def test_duration_that_the_file_does_not_have(folder: Path) -> None:
    header = "id,audio,speaker,votes:A,votes:B,seconds"
    problems = problems_of(folder, "u1,a.wav,s,1,0,0.5", "u2,b.wav,s,0,1,1.0", header=header)
    assert lines_of(problems) == ["3 u2: b.wav: 0.50 s, where column 'seconds' says 1.00 s: cut off?"]


def test_headers_alone_miss_what_only_decoding_finds(folder: Path) -> None:
    soundfile.write(folder / "silent.wav", np.zeros(16000), 16000)
    row = "u3,silent.wav,,s1,train,,,1,0,,"
    assert problems_of(folder, *GOOD, row, decode=False) == []
    assert len(problems_of(folder, *GOOD, row)) == 1


def test_table_without_votes_or_speakers_is_usable_and_said_to_be_so(folder: Path) -> None:
    problems = problems_of(folder, "u1,hello", header="id,text")
    assert {problem.severity for problem in problems} == {"warning"}
    assert [problem.line for problem in problems] == [1, 1]


def test_what_is_no_table_raises(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="does not exist"):
        check_corpus(tmp_path / "corpus.csv")


def test_rows_that_check_accepts_can_be_read(folder: Path) -> None:
    problems_of(folder, *GOOD)
    corpus = read_corpus(folder / "corpus.csv")
    write_corpus(corpus, folder / "corpus.parquet")
    assert check_corpus(folder / "corpus.parquet") == []


def test_progress_is_told_and_stopping_obeyed(folder: Path) -> None:
    problems_of(folder, *GOOD)
    events: list[Event] = []
    check_corpus(folder / "corpus.csv", context=Context(listener=events.append))
    assert [event.kind for event in events] == ["start", "advance", "advance", "finish"]
    assert [event.done for event in events] == [0, 1, 2, 2]
    before = threading.active_count()
    with pytest.raises(Interrupted):
        check_corpus(folder / "corpus.csv", context=Context(should_stop=lambda: True))
    assert threading.active_count() <= before + 1


ATTRIBUTES_ALONE = "id,audio,speaker,split,attribute:arousal[1..7],attribute:valence[1..7]"


def test_attributes_alone_are_a_sound_corpus(folder: Path) -> None:
    problems = problems_of(folder, "u1,a.wav,s1,,4,2", "u2,b.wav,s2,,5,", header=ATTRIBUTES_ALONE)
    assert problems == []


def test_of_attributes_alone_unrated_rows_and_columns_are_told(folder: Path) -> None:
    lines = ("u1,a.wav,s1,,,", "u2,b.wav,s2,,8,", "u3,b.wav,s3,test,,")
    assert lines_of(problems_of(folder, *lines, header=ATTRIBUTES_ALONE)) == [
        "1 : attribute 'valence' has no value anywhere",
        "2 u1: no attribute is rated: the row is left out of training",
        "3 u2: arousal 8 is out of range [1..7]",
        "4 u3: the same recording as line 3: b.wav",
    ]


def test_a_row_with_attributes_and_no_votes_is_not_left_out(folder: Path) -> None:
    lines = ("u1,a.wav,hello,s1,train,,,,,,4", "u2,b.wav,,s2,test,,,0,2,1,")
    lines = lines_of(problems_of(folder, *lines))
    assert "2 u1: no votes: the row is learned from for its attributes only" in lines
    assert not [line for line in lines if "left out" in line]


def test_nothing_to_learn_is_told(folder: Path) -> None:
    lines = lines_of(problems_of(folder, "u1,a.wav,s1", header="id,audio,speaker"))
    assert [line for line in lines if "features can be extracted, but nothing can be trained" in line]
