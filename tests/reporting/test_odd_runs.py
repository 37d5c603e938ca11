"""Whatever a corpus lacks, the report shows the rest and says what it cannot show."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from sercache.errors import Interrupted, ReportError
from sercache.events import Context
from sercache.reporting.classes_section import classes_section
from sercache.reporting.facts import read_facts
from sercache.reporting.map_section import map_section
from sercache.reporting.report import write_report
from sercache.reporting.subgroups_section import groupings
from sercache.run import Run
from support.report_builder import changed_rows, facts_of, stacked, with_extras
from support.simulated_members import simulate

FEW = {"stackers": ["soft-vote"], "repeats": 1}


def test_a_class_that_is_never_scored(tmp_path):
    def without_sad(place, row):
        return replace(row, votes=(1.0, 0.0, float(place % 3), 0.5))

    facts = facts_of(tmp_path, changed_rows(simulate(rows=10), without_sad), **FEW)
    section = classes_section(facts)
    assert "Not in the scored rows: Sad" in section.lead or facts.score(facts.choice, "f1:Sad").value == 0
    assert write_report(facts.run).exists()


@pytest.mark.parametrize("speakers", ["none", "one"])
def test_without_speakers_or_with_one_there_are_no_groups_by_speaker(tmp_path, speakers):
    simulation = simulate(rows=10, attributes=False, test_speakers=0)
    if speakers == "none":
        simulation = changed_rows(simulation, lambda place, row: replace(row, speaker=None))
    else:
        simulation = changed_rows(simulation, lambda place, row: replace(row, speaker="only"))
    run = stacked(tmp_path, simulation, **FEW)
    html = write_report(run).read_text()
    assert 'id="attributes"' not in html
    assert "speaker" not in {grouping.name for grouping in groupings(read_facts(run))}
    assert "nan" not in html.split("<main")[1].split("<script")[0]


def test_where_the_corpus_is_gone_the_rest_is_shown(tmp_path):
    run = stacked(tmp_path, with_extras(simulate(rows=10)), **FEW)
    (tmp_path / "corpus.csv").unlink()
    html = write_report(run).read_text()
    assert "Rows cannot be shown one by one" in html
    for key, is_there in {"comparison": True, "sizes": True, "map": False, "clips": False}.items():
        assert (f'id="{key}"' in html) is is_there


def test_another_corpus_than_the_stacked_one_is_noticed(tmp_path):
    run = stacked(tmp_path, simulate(rows=10), **FEW)
    lines = (tmp_path / "corpus.csv").read_text().splitlines()
    (tmp_path / "corpus.csv").write_text("\n".join(lines[:-1]) + "\n")
    facts = read_facts(run)
    assert facts.scored is None
    assert any("not in the corpus" in warning for warning in facts.warnings)


def test_what_is_not_stacked_has_no_report(tmp_path):
    with pytest.raises(ReportError, match="sercache stack"):
        write_report(Run(tmp_path))
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ReportError, match="is damaged"):
        write_report(Run(tmp_path))


def test_it_can_be_interrupted_and_writes_nothing_then(tmp_path):
    run = stacked(tmp_path, simulate(rows=10), **FEW)
    with pytest.raises(Interrupted):
        write_report(run, context=Context(should_stop=lambda: True))
    assert not run.report_path.exists()


def test_held_out_rows_are_the_scored_ones(tmp_path):
    facts = facts_of(tmp_path, simulate(rows=10, test_speakers=4), **FEW)
    assert facts.scored is not None
    assert set(facts.scored.rows.origins) == {"held-out"}


def test_without_features_the_map_shows_what_members_say(facts):
    section = map_section(facts)
    assert "log-probabilities" in section.lead
    points = section.blocks[0].points
    assert len(points) == len(facts.scored.rows)
    assert all(0 <= point.x <= 1 and 0 <= point.y <= 1 for point in points)
    assert len({point.label.split(" · ")[0] for point in points}) == len(points)


def test_members_without_history_and_curves_without_cost_are_left_out(facts, tmp_path):
    folder = shutil.copytree(facts.run.root, tmp_path / "copy")
    html = write_report(Run(folder)).read_text()
    assert 'id="training"' not in html
    assert "What it costs" not in html
    assert np.isfinite(facts.score(facts.choice).value)
