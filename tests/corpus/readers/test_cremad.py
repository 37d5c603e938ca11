import csv
from pathlib import Path

import numpy as np
import pytest

from sercache.corpus.readers.cremad import SENTENCES
from sercache.corpus.readers.registry import READERS
from sercache.corpus.targets import consensus
from sercache.errors import CorpusError

read = READERS["cremad"]

TABULATED = """"","A","D","F","H","N","S","fileName","numResponses","agreement","emoVote"
"100001",0,0,0,1,10,0,"1001_IEO_NEU_XX",11,0.909,"N"
"100009",5,5,0,0,1,1,"1001_IEO_ANG_MD",12,0.416,"A:D"
"200001",0,0,0,0,9,0,"1001_IEO_NEU_XX",9,1,"N"
"200009",8,0,0,0,1,0,"1001_IEO_ANG_MD",9,0.8,"A"
"300001",0,0,0,0,7,0,"1001_IEO_NEU_XX",7,1,"N"
"300009",9,0,0,0,1,0,"1001_IEO_ANG_MD",10,0.9,"A"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("1001_IEO_NEU_XX", "1001_IEO_ANG_MD", "1040_ITH_SAD_X"):
        for folder, suffix in (("AudioWAV", "wav"), ("AudioMP3", "mp3")):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{name}.{suffix}").touch()
    (tmp_path / "processedResults").mkdir()
    (tmp_path / "processedResults" / "tabulatedVotes.csv").write_text(TABULATED)
    (tmp_path / "VideoDemographics.csv").write_text('ActorID,Age,Sex\n1001,51,"Male"\n1040,42,"Female"\n')
    return tmp_path


def test_votes_are_those_of_the_asked_presentation(root: Path) -> None:
    votes = {mode: read(root, {"ratings": mode}).votes.tolist() for mode in ("voice", "face", "audio-visual")}
    assert votes["voice"][:2] == [[5, 5, 0, 0, 1, 1], [0, 0, 0, 1, 10, 0]]
    assert votes["face"][:2] == [[8, 0, 0, 0, 1, 0], [0, 0, 0, 0, 9, 0]]
    assert votes["audio-visual"][:2] == [[9, 0, 0, 0, 1, 0], [0, 0, 0, 0, 7, 0]]
    assert read(root, {}).votes.tolist() == votes["voice"]


def test_rows_tell_actor_sentence_and_intention(root: Path) -> None:
    corpus = read(root, {})
    assert corpus.ids == ("1001_IEO_ANG_MD", "1001_IEO_NEU_XX", "1040_ITH_SAD_XX")
    angry, _, cut_short = corpus.utterances
    assert (angry.speaker, angry.text, angry.audio) == (
        "1001",
        "It's eleven o'clock.",
        "AudioWAV/1001_IEO_ANG_MD.wav",
    )
    assert angry.extras == {"acted": "anger", "intensity": "medium", "language": "en", "gender": "male"}
    assert corpus.audio_path(cut_short).is_file()
    assert sum(cut_short.votes) == 0


def test_single_answers_are_counted(root: Path) -> None:
    (root / "processedResults" / "tabulatedVotes.csv").unlink()
    answers = [("1001_IEO_NEU_XX", 1, "N"), ("1001_IEO_NEU_XX", 1, "H"), ("1001_IEO_NEU_XX", 2, "A")]
    lines = [f'"{n}",{clip},{mode},{emotion}' for n, (clip, mode, emotion) in enumerate(answers)]
    (root / "finishedResponses.csv").write_text("\n".join(['"",clipName,queryType,respEmo', *lines]) + "\n")
    corpus = read(root, {})
    assert corpus.by_id["1001_IEO_NEU_XX"].votes == (0, 0, 0, 1, 1, 0)


def test_without_votes_the_acted_emotion_must_be_asked_for(root: Path) -> None:
    (root / "processedResults" / "tabulatedVotes.csv").unlink()
    with pytest.raises(CorpusError, match="ratings=acted"):
        read(root, {})
    corpus = read(root, {"ratings": "acted"})
    assert [corpus.classes[index] for index in consensus(corpus)] == ["anger", "neutral", "sad"]


def test_table_that_cannot_tell_voice_from_face_is_refused(root: Path) -> None:
    lines = [line.partition(",")[2] for line in TABULATED.splitlines()]
    (root / "processedResults" / "tabulatedVotes.csv").write_text("\n".join(lines))
    with pytest.raises(CorpusError, match="cannot be told apart"):
        read(root, {})


def test_options_are_checked(root: Path) -> None:
    with pytest.raises(CorpusError, match=r"option ratings=ears: .*voice"):
        read(root, {"ratings": "ears"})
    with pytest.raises(CorpusError, match="Did you mean 'ratings'"):
        read(root, {"rating": "voice"})


def test_real_votes(shared_data: Path) -> None:
    folder = shared_data / "cremad"
    with (folder / "voice_votes.csv").open(newline="") as stream:
        table = {row["fileName"]: row for row in csv.DictReader(stream)}
    assert len(read(folder, {})) == 18
    corpus = read(folder, {"without_audio": "true"})
    assert set(corpus.ids) == set(table)
    assert len({row.speaker for row in corpus.utterances}) == 91
    winners = consensus(corpus)
    for row, winner in zip(corpus.utterances, winners, strict=True):
        published = table[row.id]
        assert sum(row.votes) == float(published["numResponses"])
        assert (row.text, row.speaker) == (published["text"], published["speaker"])
        assert (winner >= 0) == (":" not in published["emoVote"])
        if winner >= 0:
            assert "ADFHNS"[winner] == published["emoVote"]
    acted = np.asarray([corpus.classes.index(row.extras["acted"]) for row in corpus.utterances])
    assert 0.4 < (acted == winners).mean() < 0.5
    assert set(SENTENCES.values()) == {row["text"] for row in table.values()}
