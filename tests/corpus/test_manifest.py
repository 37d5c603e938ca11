import csv
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from sercache.corpus import Attribute, Corpus, Utterance
from sercache.corpus.manifest import corpus_digest, read_corpus, write_corpus
from sercache.errors import CorpusError
from support.corpus_strategies import corpora

HEADER = "id,audio,text,speaker,split,start,end,votes:Angry,votes:Happy,votes:O,attribute:arousal[1..7]"
ROW = "u1,a.wav,hello,s1,train,,,1,2,0,4"


def write_lines(folder: Path, *lines: str, name: str = "corpus.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def assert_same_rows(first_corpus: Corpus, other: Corpus) -> None:
    assert (first_corpus.classes, first_corpus.attributes, first_corpus.ids) == (
        other.classes,
        other.attributes,
        other.ids,
    )
    for mine, theirs in zip(first_corpus.utterances, other.utterances, strict=True):
        np.testing.assert_array_equal(mine.attributes, theirs.attributes)
        assert replace(mine, attributes=(), audio=None) == replace(theirs, attributes=(), audio=None)
        if mine.audio is None:
            assert theirs.audio is None
        else:
            assert first_corpus.audio_path(mine).resolve() == other.audio_path(theirs).resolve()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_negative_zero_is_read_back_with_its_sign(suffix: str, tmp_path: Path) -> None:
    row = Utterance(id="u1", text="yes", attributes=(-0.0,))
    corpus = Corpus((), (Attribute("valence", -1.0, 1.0),), (row,), tmp_path)
    write_corpus(corpus, tmp_path / f"corpus{suffix}")
    assert corpus_digest(read_corpus(tmp_path / f"corpus{suffix}")) == corpus_digest(corpus)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@given(corpus=corpora())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_written_is_read_back(corpus: Corpus, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"corpus{suffix}"
    write_corpus(corpus, path)
    read = read_corpus(path)
    assert_same_rows(corpus, read)
    assert corpus_digest(read) == corpus_digest(corpus)


def test_audio_is_found_wherever_the_manifest_is_written(tmp_path: Path) -> None:
    recordings = tmp_path / "corpus" / "wav"
    recordings.mkdir(parents=True)
    (recordings / "a.wav").touch()
    rows = (Utterance("a", audio="wav/a.wav"), Utterance("b", audio=str(recordings / "a.wav")))
    corpus = Corpus((), (), rows, tmp_path / "corpus")
    link = tmp_path / "deep" / "link"
    (tmp_path / "elsewhere" / "below").mkdir(parents=True)
    link.parent.mkdir()
    link.symlink_to(tmp_path / "elsewhere" / "below")
    for folder in (tmp_path, tmp_path / "corpus", link):
        write_corpus(corpus, folder / "m.csv")
        read = read_corpus(folder / "m.csv")
        assert all(read.audio_path(row).is_file() for row in read.utterances)
        assert not any(Path(row.audio or "").is_absolute() for row in read.utterances)


def test_manifest_is_plain_csv_and_typed_parquet(tmp_path: Path) -> None:
    path = write_lines(tmp_path, HEADER, ROW, "u2,,text only,s1,,,,,,,")
    corpus = read_corpus(path)
    write_corpus(corpus, tmp_path / "again.csv")
    with (tmp_path / "again.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["votes:Happy"] == "2"
    assert rows[1]["votes:Happy"] == ""
    write_corpus(corpus, tmp_path / "again.parquet")
    table = pq.read_table(tmp_path / "again.parquet")
    assert str(table.schema.field("votes:Happy").type) == "double"
    assert table["audio"].to_pylist() == ["a.wav", None]


@pytest.mark.parametrize(
    ("spelling", "meant"),
    [
        ("Train", "train"),
        ("dev", "development"),
        ("validation", "development"),
        ("VAL", "development"),
        ("test", "test"),
        ("", None),
    ],
)
def test_splits_are_read_in_their_usual_spellings(tmp_path: Path, spelling: str, meant: str | None) -> None:
    corpus = read_corpus(write_lines(tmp_path, "id,text,split", f"u,t,{spelling}"))
    assert corpus.utterances[0].split == meant


def test_byte_order_mark_crlf_and_blank_lines_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    path.write_bytes(b'\xef\xbb\xbfid,text,votes:A\r\nu1,one,1\r\n\r\nu2,"two\r\nlines",2\r\nu3,x,\r\n')
    corpus = read_corpus(path)
    assert corpus.ids == ("u1", "u2", "u3")
    assert corpus.utterances[1].text == "two\r\nlines"
    assert corpus.votes[:, 0].tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER, ROW, ROW], "corpus.csv line 3: id 'u1' is already on line 2"),
        (["text", "hello"], "corpus.csv: there is no column 'id'"),
        (["id,speaker", "u,s"], "corpus.csv: there is neither a column 'audio' nor a column 'text'"),
        (["id,text,attribute:arousal", "u,t,1"], "column 'attribute:arousal' must give its range"),
        (["id,text,attribute:arousal[7..1]", "u,t,1"], "must give its range, lowest first"),
        (["id,text,attribute:a[1..7],attribute:a[1..5]", "u,t,1,1"], "attribute 'a' has 2 columns"),
        (["id,text,votes:A,votes:A", "u,t,1,1"], "column 'votes:A' comes 2 times"),
        (
            ["id,text,votes:Happy,votes2:Hapy", "u,t,1,1"],
            "unknown class 'Hapy' (classes: Happy). Did you mean",
        ),
        (["id,text,Vote: Happy", "u,t,1"], "column 'Vote: Happy' is not known. Did you mean 'votes:Happy'?"),
        (["id,text,votes:X", "u,t,1"], "names no class"),
        ([HEADER, ROW.replace(",2,", ",two,")], "line 2: number of votes for 'Happy' 'two' is not a number"),
        ([HEADER, ROW.replace(",2,", ",nan,")], "line 2: number of votes for 'Happy' 'nan' is not a number"),
        ([HEADER, ROW.replace(",2,", ",-2,")], "line 2: -2 votes for 'Happy'"),
        ([HEADER, ROW.replace(",0,4", ",0,loud")], "line 2: arousal value 'loud' is not a number"),
        (
            [HEADER, ROW.replace("train", "trian")],
            "unknown split 'trian' (splits: train, development, test). Did",
        ),
        ([HEADER, ROW.replace(",,,1", ",2,1.5,1")], "line 2: start 2 s is not before end 1.5 s"),
        ([HEADER, ROW.replace(",,,1", ",-1,,1")], "line 2: start -1 s lies before the recording"),
        ([HEADER, ROW + ",9"], "line 2: 12 cells where the header has 11"),
        ([HEADER, "," + ROW.partition(",")[2]], "line 2: the id is empty"),
        ([HEADER, "u\0" + ROW[2:]], "line 2: the id holds a NUL character"),
        ([HEADER], "has a header and no rows"),
        ([], "corpus.csv"),
        (["id;text", "u;t"], "separated by a semicolon"),
        (
            [HEADER, ROW.replace("hello", '"two\nlines"'), "u2" + ROW[2:], ROW],
            "line 5: id 'u1' is already on line 2",
        ),
    ],
)
def test_first_defect_is_one_clear_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(CorpusError) as caught:
        read_corpus(write_lines(tmp_path, *lines))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfeid", b'id,text\nu,"never closed\x00', b""])
def test_files_that_are_no_tables_are_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("corpus.csv", "corpus.parquet"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CorpusError, match=name):
            read_corpus(path)
    with pytest.raises(CorpusError, match="does not exist"):
        read_corpus(tmp_path / "nothing.csv")
    with pytest.raises(CorpusError, match="is a folder"):
        read_corpus(tmp_path)


@pytest.mark.parametrize(
    "corpus",
    [
        Corpus(("O",), (), (Utterance("u", text="t", votes=(1.0,)),), Path()),
        Corpus(("X",), (), (Utterance("u", text="t", votes=(1.0,)),), Path()),
        Corpus((), (), (Utterance("u", text="t", extras={"votes:A": "1"}),), Path()),
        Corpus((), (), (Utterance("u", text="t"), Utterance("u", text="s")), Path()),
        Corpus((), (), (Utterance(" ", text="t"),), Path()),
        Corpus((), (), (Utterance("u", text="t", extras={"id": "1"}),), Path()),
        Corpus((), (), (Utterance("u", text="t", extras={" a": "1"}),), Path()),
        Corpus((), (Attribute("a]", 1, 2),), (Utterance("u", text="t", attributes=(1.0,)),), Path()),
    ],
)
def test_what_would_not_read_back_is_not_written(tmp_path: Path, corpus: Corpus) -> None:
    with pytest.raises(CorpusError):
        write_corpus(corpus, tmp_path / "corpus.csv")
    assert not (tmp_path / "corpus.csv").exists()


@given(corpus=corpora())
@settings(deadline=None)
def test_digest_sees_training_data_only(corpus: Corpus) -> None:
    digest = corpus_digest(corpus)
    moved = [replace(row, audio="other.wav", extras={"y": "z"}) for row in reversed(corpus.utterances)]
    assert corpus_digest(replace(corpus, utterances=tuple(moved), root=Path("/new"))) == digest
    first = corpus.utterances[0]
    changes = [
        replace(first, id=first.id + "'"),
        replace(first, text=(first.text or "") + "'"),
        replace(first, speaker=(first.speaker or "") + "'"),
        replace(first, split="train" if first.split != "train" else "test"),
        replace(first, start_seconds=(first.start_seconds or 0) + 1),
        replace(first, other_votes=first.other_votes + 1),
    ]
    if corpus.classes:
        changes.append(replace(first, votes=(first.votes[0] + 1, *first.votes[1:])))
    digests = {
        corpus_digest(replace(corpus, utterances=(changed, *corpus.utterances[1:]))) for changed in changes
    }
    assert len(digests | {digest}) == len(changes) + 1


def test_hundred_thousand_rows_are_read_in_seconds(tmp_path: Path) -> None:
    row = "wav/{0}.wav,some words that were said,s{0},train,,,1,2,0,0,3,0,0,1,0,1,1,0,3,0,0,1,1,4.2,3.1"
    classes = [f"votes{kind}:c{index}" for kind in ("", "2") for index in range(8)]
    header = [
        "id,audio,text,speaker,split,start,end",
        *classes,
        "votes:O",
        "attribute:a[1..7],attribute:v[1..7]",
    ]
    path = write_lines(tmp_path, ",".join(header), *(f"u{n}," + row.format(n) for n in range(100_000)))
    start = time.process_time()
    corpus = read_corpus(path)
    assert len(corpus) == 100_000
    assert time.process_time() - start < 20
