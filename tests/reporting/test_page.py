"""One file, safe whatever a corpus holds, and every drawing with its words and numbers."""

import re
from html.parser import HTMLParser

import pytest

from sercache.reporting.blocks import Figure, Table
from sercache.reporting.clips_section import AudioLinks
from sercache.reporting.report import make_page, write_report
from support.report_builder import HOSTILE, renamed, stacked, with_extras
from support.simulated_members import simulate


class Outline(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def figures_of(blocks):
    for block in blocks:
        if block.kind == "figures":
            yield from block.figures
        if block.kind == "folded":
            yield from figures_of(block.blocks)


@pytest.fixture(scope="module")
def html(run):
    return write_report(run).read_text()


def test_it_has_every_section_in_order(html):
    keys = [attributes["aria-labelledby"] for attributes in Outline(html).all("section")]
    assert keys == [
        *(
            "summary",
            "run",
            "comparison",
            "classes",
            "calibration",
            "attributes",
            "sizes",
            "members",
            "groups",
        ),
        *("map", "clips", "troubles"),
    ]


def test_nothing_is_fetched_from_anywhere(html):
    outline = Outline(html)
    assert "default-src 'none'" in outline.all("meta")[1]["content"]
    for tag, attributes in outline.tags:
        for name in ("src", "href", "xlink:href", "action", "poster", "srcset"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:,", "./", "../")), (tag, target)
    assert not re.search(r"url\((?!#)|@import", html)


def test_every_drawing_has_a_title_a_description_and_its_numbers(run, html):
    outline = Outline(html)
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    drawings = outline.all("svg")
    assert len(drawings) > 8
    for drawing in drawings:
        assert drawing["role"] == "img"
        words = drawing["aria-labelledby"].split() + drawing.get("aria-describedby", "").split()
        assert len(words) == 2
        assert set(words) <= set(ids)
    page = make_page(run, AudioLinks(run.root))
    found = [figure for section in page.sections for figure in figures_of(section.blocks)]
    assert len(found) == len(drawings) - 1  # the map is drawn by the template
    assert all(figure.description and figure.numbers.rows for figure in found)


def test_a_figure_without_words_is_no_figure():
    empty = Table("", ("a",), ())
    with pytest.raises(ValueError, match="lacks its title, description or numbers"):
        Figure("<svg/>", "title", "description", empty)


def test_the_same_run_gives_the_same_page(run, html):
    assert write_report(run).read_text() == html


def test_hostile_ids_texts_and_speakers_are_text(tmp_path):
    simulation = renamed(with_extras(simulate(seed=3)), HOSTILE)
    run = stacked(tmp_path, simulation, stackers=["soft-vote"], repeats=1)
    html = write_report(run).read_text()
    outline = Outline(html)
    assert len(outline.all("script")) == 1
    assert len(outline.all("style")) == 1
    assert not outline.all("img")
    assert not [name for _, attributes in outline.tags for name in attributes if name.startswith("on")]
    assert "x" * 1000 not in html
    assert "\u0007" not in html
    assert "\u202e" not in html
    assert "49" not in "".join(text for text in outline.text if "raw" in text)
    assert any("<script>alert" in text for text in outline.text)


def test_recordings_are_linked_beside_the_page_and_embedded_only_when_asked(run, tmp_path):
    linked = Outline(write_report(run).read_text()).all("audio")
    assert linked
    for audio in linked:
        assert audio["src"].startswith("./../audio%20%231/")
        assert audio["preload"] == "none"
    html = write_report(run, tmp_path / "page.html", embed_audio=True).read_text()
    assert {audio["src"][:21] for audio in Outline(html).all("audio")} == {"data:audio/ogg;base64"}
