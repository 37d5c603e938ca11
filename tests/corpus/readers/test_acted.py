"""EMO-DB and RAVDESS: everything is in the file names."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from sercache.corpus import Corpus
from sercache.corpus.readers.registry import READERS
from sercache.corpus.targets import consensus
from sercache.errors import CorpusError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def labels(corpus: Corpus) -> list[str]:
    return [corpus.classes[index] for index in consensus(corpus)]


def read_table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


def test_emodb_from_file_names(tmp_path: Path) -> None:
    root = touch(tmp_path, "wav/16b10Wb.wav", "wav/03a01Fa.wav", "wav/notes.wav", "lablaut/03a01Fa.lablaut")
    corpus = READERS["emodb"](root, {})
    assert corpus.ids == ("03a01Fa", "16b10Wb")
    assert labels(corpus) == ["happiness", "anger"]
    first, last = corpus.utterances
    assert (first.speaker, first.extras["gender"], first.audio) == ("03", "male", "wav/03a01Fa.wav")
    assert first.text == "Der Lappen liegt auf dem Eisschrank."
    assert (last.speaker, last.extras["gender"], sum(last.votes)) == ("16", "female", 1)
    assert corpus.audio_path(first).is_file()


def test_ravdess_leaves_songs_and_mute_pictures_out(tmp_path: Path) -> None:
    root = touch(
        tmp_path,
        "Actor_12/03-01-06-02-02-01-12.wav",
        "Actor_01/03-01-01-01-01-02-01.wav",
        "Actor_01/03-02-01-01-01-02-01.wav",
        "Actor_01/02-01-01-01-01-02-01.wav",
        "audio_speech_actors_01-24/Actor_01/03-01-01-01-01-02-01.wav",
    )
    corpus = READERS["ravdess"](root, {})
    assert corpus.ids == ("03-01-01-01-01-02-01", "03-01-06-02-02-01-12")
    assert labels(corpus) == ["neutral", "fearful"]
    neutral, fearful = corpus.utterances
    assert (neutral.speaker, neutral.extras["gender"]) == ("01", "male")
    assert (fearful.speaker, fearful.extras["gender"]) == ("12", "female")
    assert fearful.extras["intensity"] == "strong"
    assert fearful.text == "Dogs are sitting by the door."


@pytest.mark.parametrize("kind", ["emodb", "ravdess"])
def test_folder_of_something_else_is_refused(tmp_path: Path, kind: str) -> None:
    touch(tmp_path, "song.wav")
    with pytest.raises(CorpusError, match=r"holds no recording of .* \(names like"):
        READERS[kind](tmp_path, {})
    with pytest.raises(CorpusError, match="is not there"):
        READERS[kind](tmp_path / "nothing", {})
    with pytest.raises(CorpusError, match=r"unknown option 'fold' \(options: none\)"):
        READERS[kind](tmp_path, {"fold": "1"})


def test_real_emodb(shared_data: Path) -> None:
    corpus = READERS["emodb"](shared_data / "emodb", {})
    table = read_table(shared_data / "emodb" / "labels.csv")
    assert set(corpus.ids) == set(table)
    assert len(corpus) == 535
    for row, label in zip(corpus.utterances, labels(corpus), strict=True):
        published = table[row.id]
        assert (label, row.text) == (published["emotion"], published["text"])
        assert row.extras["gender"][0] == published["gender"]
        assert f"emodb_{row.speaker}" == published["speaker"]
        assert row.extras.get("recognised", "") == published["recognised"]
        assert corpus.audio_path(row).is_file()


def test_real_ravdess(shared_data: Path) -> None:
    corpus = READERS["ravdess"](shared_data / "ravdess", {})
    table = read_table(shared_data / "ravdess" / "labels.csv")
    assert set(corpus.ids) == set(table)
    assert Counter(row.speaker for row in corpus.utterances) == dict.fromkeys(
        [f"{actor:02}" for actor in range(1, 13)], 60
    )
    for row, label in zip(corpus.utterances, labels(corpus), strict=True):
        assert (label, row.text) == (table[row.id]["emotion"], table[row.id]["text"])
        assert row.extras["gender"][0] == table[row.id]["gender"]
