"""EmotionLines, in both of the forms in which it is passed on."""

import json
from pathlib import Path

import pytest

from sercache.corpus.readers.emotionlines import NO_LINE, PREVIOUS
from sercache.corpus.readers.registry import READERS
from sercache.errors import CorpusError

DIALOGUES = [
    [
        {"speaker": "Ross", "utterance": "Hi.", "emotion": "neutral", "annotation": "4100000"},
        {"speaker": "Joey", "utterance": "Hey! ", "emotion": "joy", "annotation": "0500000"},
    ],
    [{"speaker": "Ross", "utterance": "No!", "emotion": "non-neutral", "annotation": "1011110"}],
]


def write_json(root: Path) -> Path:
    (root / "friends_train.json").write_text(json.dumps(DIALOGUES))
    (root / "friends_test.json").write_text(json.dumps(DIALOGUES[1:]))
    return root


def test_lines_have_their_votes_and_the_line_before(tmp_path: Path) -> None:
    corpus = READERS["emotionlines"](write_json(tmp_path), {})
    assert corpus.ids == ("train/0/0", "train/0/1", "train/1/0", "test/0/0")
    assert corpus.votes.tolist()[0] == [4, 1, 0, 0, 0, 0, 0]
    assert corpus.votes.tolist()[2] == [1, 0, 1, 1, 1, 1, 0]
    assert [row.extras[PREVIOUS] for row in corpus.utterances] == [NO_LINE, "Hi.", NO_LINE, NO_LINE]
    assert [row.text for row in corpus.utterances] == ["Hi.", "Hey!", "No!", "No!"]
    assert {row.split for row in corpus.utterances} == {None}
    assert corpus.with_text_of(PREVIOUS).utterances[1].text == "Hi."


def test_splits_are_kept_where_they_are_asked_for(tmp_path: Path) -> None:
    corpus = READERS["emotionlines"](write_json(tmp_path), {"splits": "yes"})
    assert [row.split for row in corpus.utterances] == ["train", "train", "train", "test"]


def test_a_part_of_the_dialogues_is_enough_for_a_quick_look(tmp_path: Path) -> None:
    corpus = READERS["emotionlines"](write_json(tmp_path), {"dialogues": "1"})
    assert corpus.ids == ("train/0/0", "train/0/1", "test/0/0")


def test_the_table_is_read_alike(tmp_path: Path) -> None:
    lines = ["split,dia,utt,speaker,utterance,emotion,annotation"]
    for dialogue, dialogue_lines in enumerate(DIALOGUES):
        for line, cells in enumerate(dialogue_lines):
            lines.append(
                f"train,{dialogue},{line},{cells['speaker']},{cells['utterance']},,{cells['annotation']}"
            )
    (tmp_path / "votes.csv").write_text("\n".join(lines) + "\n")
    corpus = READERS["emotionlines"](tmp_path, {})
    (tmp_path / "votes.csv").unlink()
    wanted = READERS["emotionlines"](write_json(tmp_path), {})
    assert corpus.utterances == wanted.utterances[:3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[{}]]", "dialogue 0, line 0: it has no 'speaker'"),
        ("no json", "friends_train.json: not a JSON list"),
        (
            json.dumps([[{**DIALOGUES[0][0], "annotation": "41"}]]),
            "annotation '41' must have 7 digits, one for",
        ),
        (None, "holds no EmotionLines: expected friends_train.json"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "friends_train.json").write_text(content)
    with pytest.raises(CorpusError, match=message):
        READERS["emotionlines"](tmp_path, {})
