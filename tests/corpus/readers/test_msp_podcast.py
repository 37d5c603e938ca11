import logging
from pathlib import Path

import numpy as np
import pytest

from sercache.corpus import Corpus
from sercache.corpus.manifest import read_corpus, write_corpus
from sercache.corpus.readers.registry import READERS
from sercache.errors import CorpusError

read = READERS["msp-podcast"]

CONSENSUS = """FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set
MSP-PODCAST_0001_0008.wav,N,2.2,4.0,2.6,127,Male,Test1
MSP-PODCAST_0001_0019.wav,X,4.5,3.0,5.25,127,Male,Train
MSP-PODCAST_0002_0001.wav,O,1,7,3,Unknown,Female,Development
"""
RATINGS = [
    ("MSP-PODCAST_0001_0008.wav", "Neutral", "Neutral,Concerned"),
    ("MSP-PODCAST_0001_0008.wav", "Neutral", ""),
    ("MSP-PODCAST_0001_0008.wav", "Sad", "Sad,Neutral,Neutral"),
    ("MSP-PODCAST_0001_0019.wav", "Angry", "Angry, Contempt"),
    ("MSP-PODCAST_0001_0019.wav", "Contempt", "Other-well, both"),
    ("MSP-PODCAST_0002_0001.wav", "Other-relaxed, I think", "Happy"),
    ("MSP-PODCAST_0002_0001.wav", "Other", ""),
    ("MSP-PODCAST_0002_0001.wav", "Surprise", "Surprise"),
]


def wide(worker: str) -> str:
    rows = [f'{name},W{n},"{first}","{second}",1,2,3' for n, (name, first, second) in enumerate(RATINGS)]
    return "\n".join([f"FileName,{worker},EmoClass_Major,EmoClass_Second,EmoAct,EmoVal,EmoDom", *rows]) + "\n"


def detail(first: str, second: str) -> str:
    return (
        "; ".join(["WORKER00000001", first, *([second] if second else []), "A:1.0", "V:2.0", "D:3.0"]) + ";"
    )


def single_field() -> str:
    rows = [f'{name},"{detail(first, second)}"' for name, first, second in RATINGS]
    return "\n".join(["FileName,EmoDetail", *rows]) + "\n"


def blocks() -> str:
    lines, last = ["Labels of MSP-Podcast", ""], ""
    for name, first, second in RATINGS:
        if name != last:
            lines += ["", f"{name}; N; A:2.2; V:4.0; D:2.6;"]
        lines.append(detail(first, second))
        last = name
    return "\n".join(lines) + "\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("Labels", "Audios", "Transcripts"):
        (tmp_path / folder).mkdir()
    (tmp_path / "Labels" / "labels_consensus.csv").write_text(CONSENSUS)
    (tmp_path / "Labels" / "labels_detailed.csv").write_text(single_field())
    (tmp_path / "Transcripts" / "MSP-PODCAST_0001_0008.txt").write_text("so it goes\n")
    return tmp_path


def assert_is_the_corpus(corpus: Corpus) -> None:
    votes = dict(zip(corpus.classes, corpus.votes.T.tolist(), strict=True))
    assert corpus.classes == ("Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral")
    assert votes["Neutral"] == [2, 0, 0]
    assert votes["Sad"] == [1, 0, 0]
    assert votes["Angry"] == votes["Contempt"] == [0, 1, 0]
    assert votes["Surprise"] == [0, 0, 1]
    assert corpus.other_votes.tolist() == [0, 0, 2]
    second = dict(zip(corpus.classes, corpus.secondary_votes.T.tolist(), strict=True))
    assert second["Neutral"] == [2, 0, 0]
    assert second["Contempt"] == [0, 1, 0]
    assert second["Happy"] == second["Surprise"] == [0, 0, 1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels_detailed.csv", wide("Workers")),
        ("labels_detailed.csv", wide("WorkerID")),
        ("labels_detailed.csv", single_field()),
        ("labels.txt", blocks()),
    ],
)
def test_all_forms_of_the_ratings_say_the_same(root: Path, name: str, content: str) -> None:
    (root / "Labels" / "labels_detailed.csv").unlink()
    (root / "Labels" / name).write_text(content)
    assert_is_the_corpus(read(root, {}))


def test_rows_keep_what_was_published(root: Path, tmp_path: Path) -> None:
    corpus = read(root, {})
    first, second, third = corpus.utterances
    assert first.id == "MSP-PODCAST_0001_0008"
    assert first.audio == "Audios/MSP-PODCAST_0001_0008.wav"
    assert (first.text, second.text) == ("so it goes", None)
    assert (first.speaker, third.speaker) == ("127", None)
    assert [row.split for row in corpus.utterances] == ["test", "train", "development"]
    assert [row.extras["partition"] for row in corpus.utterances] == ["Test1", "Train", "Development"]
    assert [row.extras["label_published"] for row in corpus.utterances] == ["Neutral", "X", "O"]
    assert corpus.attribute_names == ("arousal", "valence", "dominance")
    np.testing.assert_array_equal(corpus.attribute_values, [[2.2, 4, 2.6], [4.5, 3, 5.25], [1, 7, 3]])
    write_corpus(corpus, tmp_path / "corpus.csv")
    assert_is_the_corpus(read_corpus(tmp_path / "corpus.csv"))


def test_old_releases_misspell_their_names(root: Path) -> None:
    labels = root / "Labels"
    (labels / "labels_consensus.csv").rename(labels / "labels_concensus.csv")
    (labels / "labels_concensus.csv").write_text(CONSENSUS.replace("Development", "Validation"))
    labels.rename(root / "label")
    corpus = read(root, {})
    assert_is_the_corpus(corpus)
    assert corpus.utterances[2].split == "development"


def test_without_raters_the_published_label_is_one_vote(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "Labels" / "labels_detailed.csv").unlink()
    with caplog.at_level(logging.WARNING):
        corpus = read(root, {})
    assert "3 of 3 segments have no row per rater" in caplog.text
    assert corpus.votes.sum(axis=1).tolist() == [1, 0, 0]
    assert corpus.other_votes.tolist() == [0, 0, 1]


def test_test3_comes_without_labels(root: Path) -> None:
    (root / "Audios" / "MSP-PODCAST_test3_0001.wav").touch()
    (root / "Audios" / "MSP-PODCAST_0001_0008.wav").touch()
    (root / "Partitions.txt").write_text(
        "Test1; MSP-PODCAST_0001_0008.wav\nTest3; MSP-PODCAST_9999_0001.wav\n"
    )
    added = read(root, {}).utterances[3:]
    assert [row.id for row in added] == ["MSP-PODCAST_9999_0001", "MSP-PODCAST_test3_0001"]
    for row in added:
        assert (row.split, row.extras["partition"], sum(row.votes), row.speaker) == ("test", "Test3", 0, None)
        assert np.isnan(row.attributes).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Split_Set", "Split", r"has no column 'Split_Set' .*Did you mean 'Split'"),
        ("Test1", "Test9", r"labels_consensus.csv line 2: unknown partition 'Test9'"),
        ("4.5", "high", r"labels_consensus.csv line 3: EmoAct 'high' is not a number"),
    ],
)
def test_damaged_labels_are_refused_with_their_line(root: Path, old: str, new: str, message: str) -> None:
    (root / "Labels" / "labels_consensus.csv").write_text(CONSENSUS.replace(old, new))
    with pytest.raises(CorpusError, match=message):
        read(root, {})


def test_other_damage(root: Path) -> None:
    detailed = root / "Labels" / "labels_detailed.csv"
    detailed.write_text("FileName,EmoDetail\nMSP-PODCAST_0001_0008.wav,WORKER1; A:1; V:1; D:1;\n")
    with pytest.raises(CorpusError, match=r"labels_detailed.csv line 2: .* is no rating"):
        read(root, {})
    detailed.write_text("FileName,Emotion\nMSP-PODCAST_0001_0008.wav,Sad\n")
    with pytest.raises(CorpusError, match="neither a column 'EmoClass_Major'"):
        read(root, {})
    with pytest.raises(CorpusError, match=r"has no Labels/labels_consensus\.csv"):
        read(root / "Audios", {})
