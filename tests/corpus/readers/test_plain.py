import csv
from pathlib import Path

import numpy as np
import pytest

from sercache.corpus import Attribute
from sercache.corpus.readers.registry import READERS
from sercache.corpus.targets import OTHER_INDEX, consensus
from sercache.errors import CorpusError

read = READERS["csv"]


def write_table(folder: Path, *lines: str, name: str = "labels.csv") -> Path:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_usual_column_names_need_no_options(tmp_path: Path) -> None:
    (tmp_path / "wav" / "deep").mkdir(parents=True)
    (tmp_path / "wav" / "deep" / "a.flac").touch()
    root = write_table(
        tmp_path,
        "Path,Emotion,Speaker,Transcript,Split,start,end,mood",
        "a.wav,sad,s1,hello,Train,0.5,2,odd",
        "gone/b.wav,happy,s2,,dev,,,",
        "c.wav,O,s2,,,,,",
        "d.wav,,s2,,,,,",
    )
    corpus = read(root, {})
    assert corpus.classes == ("happy", "sad")
    assert corpus.ids == ("a", "gone/b", "c", "d")
    assert corpus.votes.tolist() == [[0, 1], [1, 0], [0, 0], [0, 0]]
    assert consensus(corpus)[2] == OTHER_INDEX
    first, second, *_ = corpus.utterances
    assert first.audio == "wav/deep/a.flac"
    assert second.audio == "gone/b.wav"
    assert (first.text, first.speaker, first.split) == ("hello", "s1", "train")
    assert (first.start_seconds, first.end_seconds) == (0.5, 2.0)
    assert first.extras == {"mood": "odd"}


def test_columns_by_option(tmp_path: Path) -> None:
    root = write_table(
        tmp_path,
        "nr;feeling;who;A;val;set",
        "1;hap;x;3;-0.5;Test1",
        "2;exc;y;;1;Train",
        "3;ang;y;7;;Train",
        name="data.txt",
    )
    options = {
        "table": "data.txt",
        "delimiter": "semicolon",
        "id": "who,nr",
        "label": "feeling",
        "speaker": "who",
        "rename": "hap:Happy,exc:Happy,ang:Angry",
        "classes": "Happy,Angry,Sad",
        "splits": "Test1:test",
        "attributes": "A:arousal[1..7], val[-1..1]",
    }
    corpus = read(root, options)
    assert [row.split for row in corpus.utterances] == ["test", "train", "train"]
    assert corpus.ids == ("x-1", "y-2", "y-3")
    assert corpus.classes == ("Happy", "Angry", "Sad")
    assert corpus.votes.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert corpus.attributes == (Attribute("arousal", 1, 7), Attribute("val", -1, 1))
    np.testing.assert_array_equal(corpus.attribute_values, [[3, -0.5], [np.nan, 1], [7, np.nan]])


def test_vote_columns_by_option(tmp_path: Path) -> None:
    root = write_table(tmp_path, "id,text,N,J,rest,label", "u1,hi,2,1,0,N", "u2,ho,,0.5,3,J")
    corpus = read(root, {"votes": "N:neutral,J:joy,rest:O"})
    assert corpus.classes == ("neutral", "joy")
    assert corpus.votes.tolist() == [[2, 1], [0, 0.5]]
    assert corpus.other_votes.tolist() == [0, 3]
    assert corpus.utterances[0].extras == {"label_published": "N"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "lable"}, r"has no column 'lable' .* Did you mean 'label'"),
        ({"classes": "Happy,Sad"}, r"labels\.csv line 2: unknown class 'Hapy' .* Did you mean 'Happy'"),
        ({"attributes": "text[1..x]"}, "must give its range"),
        ({"votes": "text"}, r"labels\.csv line 2: text 'hello' is not a number"),
        ({"rename": "Hapy"}, "expected pairs"),
        ({"delimiter": "::"}, "expected comma"),
        ({"table": "other.csv"}, "does not exist"),
        ({"lable": "x"}, "unknown option 'lable'"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    root = write_table(tmp_path, "id,text,label", "u1,hello,Hapy")
    with pytest.raises(CorpusError, match=message):
        read(root, options)


def test_which_table_is_asked_for_where_there_are_several(tmp_path: Path) -> None:
    write_table(tmp_path, "id,text", "u,t", name="a.csv")
    write_table(tmp_path, "id,text", "v,t", name="b.csv")
    with pytest.raises(CorpusError, match=r"holds 2 tables \(a\.csv, b\.csv\)"):
        read(tmp_path, {})
    assert read(tmp_path, {"table": "b.csv"}).ids == ("v",)
    assert read(tmp_path / "a.csv", {}).ids == ("u",)
    assert read(tmp_path / "a.csv", {}).classes == ()


def test_real_dialogue_with_votes(shared_data: Path) -> None:
    classes = "neutral,joy,sadness,fear,anger,surprise,disgust"
    corpus = read(shared_data / "friends", {"id": "split,dia,utt", "votes": classes})
    with (shared_data / "friends" / "votes.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(corpus) == len(set(corpus.ids)) == 14503
    assert (corpus.votes.sum(axis=1) == 5).mean() > 0.99
    winners = consensus(corpus)
    for row, winner, published in zip(corpus.utterances, winners, rows, strict=True):
        assert row.speaker == published["speaker"].strip()
        if winner >= 0 and published["emotion"] in corpus.classes:
            assert corpus.classes[winner] == published["emotion"]
