"""The page of a corpus: whatever the corpus holds, it is one safe file that says all there is."""

from pathlib import Path

import pytest

from sercache.corpus import Corpus, Utterance
from sercache.corpus.report import report_corpus
from sercache.reporting.blocks import Table
from sercache.reporting.corpus_page import corpus_page, write_corpus_page

HOSTILE = "<script>alert(1)</script>\x07"


def corpus_of(classes=("A", "B"), **changes):
    rows = []
    for place in range(40):
        given = {"id": f"u{place}", "text": f"{'word ' * (place % 9)}{place}", "speaker": f"s{place % 6}"}
        given |= {"votes": (3.0, place % 4), "extras": {"seconds": str(1 + place / 8)}}
        rows.append(Utterance(**(given | changes)))
    return Corpus(classes, (), tuple(rows), Path())


def page_of(corpus):
    return corpus_page(report_corpus(Path("corpus.csv"), corpus))


def test_every_part_has_its_section():
    page = page_of(corpus_of())
    assert [section.key for section in page.sections] == [
        *("classes", "agreement", "lengths", "speakers", "leaks"),
    ]
    assert page.headlines[0].answer.startswith("alpha ")


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"votes": (1.0, 0.0)}, {"agreement"}),
        ({"votes": (0.0, 0.0)}, {"agreement"}),
        ({"speaker": None}, {"speakers"}),
        ({"text": None, "extras": {}}, {"lengths"}),
    ],
)
def test_a_part_that_is_not_known_has_none(changes, gone):
    keys = {section.key for section in page_of(corpus_of(**changes)).sections}
    assert keys == {"classes", "agreement", "lengths", "speakers", "leaks"} - gone


def test_a_leak_is_the_headline_and_a_caution():
    rows = corpus_of().utterances
    split = tuple(
        Utterance(row.id, speaker=row.speaker, votes=row.votes, split="test" if place < 9 else "train")
        for place, row in enumerate(rows)
    )
    page = page_of(Corpus(("A", "B"), (), split, Path()))
    assert (page.headlines[2].answer, page.headlines[2].is_accented) == ("Yes", True)
    assert page.cautions[0].startswith("Train and test share 6 speakers")
    leaks = page.sections[-1].blocks[0]
    assert isinstance(leaks, Table)
    assert leaks.rows[0][1].text == "train and test"


def test_hostile_names_and_texts_stay_text(tmp_path):
    corpus = corpus_of((HOSTILE, "B"), text=f"{HOSTILE} and four words more", speaker=HOSTILE)
    html = write_corpus_page(report_corpus(tmp_path / "c.csv", corpus), tmp_path / "c.html").read_text()
    assert "<script>alert" not in html
    assert "\x07" not in html
    assert "&lt;script&gt;alert" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
