import json
from pathlib import Path

import pytest

from sercache.corpus.readers.registry import READERS
from sercache.errors import CorpusError

read = READERS["emobox"]

LABELS = {"neu": "Neutral", "hap": "Happy", "exc": "Happy", "xxx": "Other", "X": "No-agreement"}


def entry(key: str, emotion: str, **more: object) -> dict[str, object]:
    return {
        "key": f"iemocap-{key}",
        "dataset": "iemocap",
        "wav": f"downloads/iemocap/{key}.wav",
        "type": "raw",
        "sample_rate": 16000,
        "num_frame": 70312.0,
        "task": "category",
        "length": 4.3945,
        "emo": emotion,
        "channel": 1,
    } | more


ENTRIES = [
    entry("Ses01F_impro04_F000", "neu"),
    entry("Ses01F_impro04_F001", "exc"),
    entry("Ses02F_impro04_F001", "xxx", start_time=1.5, end_time=2.5),
    entry("Ses03F_impro04_F001", "X", spk="Ses03F"),
]


def write_jsonl(path: Path, entries: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in entries))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "EmoBox" / "data" / "iemocap"
    write_jsonl(folder / "iemocap.jsonl", ENTRIES)
    (folder / "label_map.json").write_text(json.dumps(LABELS))
    write_jsonl(folder / "fold_1" / "iemocap_train_fold_1.jsonl", ENTRIES[:2])
    write_jsonl(folder / "fold_1" / "iemocap_valid_fold_1.jsonl", ENTRIES[2:3])
    write_jsonl(folder / "fold_1" / "iemocap_test_fold_1.jsonl", ENTRIES[3:])
    lines = [f"{line['key']} 1 {str(line['key'])[8:14]} 0 4.3 <id=x,spk=y> neu" for line in ENTRIES[:3]]
    (folder / "data.seg.wrd.stm").write_text("\n".join(lines) + "\n")
    return folder


def test_clips_labels_and_speakers(root: Path) -> None:
    corpus = read(root, {})
    assert corpus.classes == ("Neutral", "Happy")
    assert corpus.votes.tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]
    assert corpus.other_votes.tolist() == [0, 0, 1, 0]
    assert [row.speaker for row in corpus.utterances] == ["Ses01F", "Ses01F", "Ses02F", "Ses03F"]
    assert [row.split for row in corpus.utterances] == [None] * 4
    third = corpus.utterances[2]
    assert (third.start_seconds, third.end_seconds) == (1.5, 2.5)
    assert third.extras == {"dataset": "iemocap", "label_published": "O", "seconds": "4.3945"}
    assert corpus.audio_path(third) == root.parents[1] / "downloads" / "iemocap" / "Ses02F_impro04_F001.wav"


def test_official_folds_become_splits(root: Path, tmp_path: Path) -> None:
    corpus = read(root, {"fold": "1", "audio_root": str(tmp_path)})
    assert [row.split for row in corpus.utterances] == ["train", "train", "development", "test"]
    assert corpus.root == tmp_path
    with pytest.raises(CorpusError, match=r"has no fold 7 \(folds: 1\)"):
        read(root, {"fold": "7"})


def test_corpus_that_lies_only_in_its_fold(root: Path) -> None:
    (root / "iemocap.jsonl").unlink()
    assert len(read(root, {})) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("iemocap.jsonl", "{", r"iemocap\.jsonl line 1 is not a JSON object"),
        ("iemocap.jsonl", "[1]", r"iemocap\.jsonl line 1 is not a JSON object"),
        ("iemocap.jsonl", '{"key": "a", "wav": "b"}', r"iemocap\.jsonl line 1 has no 'emo'"),
        ("iemocap.jsonl", json.dumps(entry("a", "ang")), r"line 1: label 'ang' is not in label_map"),
        ("iemocap.jsonl", "", "lists no clips"),
        ("label_map.json", "{", r"label_map\.json line 1"),
    ],
)
def test_damaged_metadata_is_refused(root: Path, name: str, content: str, message: str) -> None:
    (root / name).write_text(content)
    with pytest.raises(CorpusError, match=message):
        read(root, {})


def test_wrong_folder_is_refused(root: Path) -> None:
    with pytest.raises(CorpusError, match="give the folder"):
        read(root.parent, {})
