"""The report of a run that learned attributes and no classes."""

from dataclasses import replace

import numpy as np
import pytest

from sercache.errors import ReportError
from sercache.recipe import MemberRecipe
from sercache.reporting.clips_section import AudioLinks, attribute_errors
from sercache.reporting.facts import read_facts
from sercache.reporting.members_section import differences_to_baseline, disagreement
from sercache.reporting.report import make_page
from sercache.reporting.run_comparison import compare_runs
from sercache.reporting.subgroups_section import groupings
from sercache.run import DerivedMember, save_derived
from sercache.stacking.comparison import compare
from support.report_builder import with_extras
from support.simulated_attributes import lins_mean, simulate_attributes

FAST = {"stackers": ["hard-vote", "logistic"], "repeats": 2, "bootstrap_samples": 200}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run = with_extras(simulate_attributes(speakers=12, rows=24), folder).run(folder, **FAST)
    compare(run)
    return run


@pytest.fixture(scope="module")
def facts(run):
    return read_facts(run)


def test_the_page_has_what_attributes_allow_and_nothing_of_classes(run):
    page = make_page(run, AudioLinks(run.root))
    keys = [section.key for section in page.sections]
    assert keys == [
        "run",
        "comparison",
        "attributes",
        "sizes",
        "members",
        "groups",
        "map",
        "clips",
        "troubles",
    ]
    assert "2 attributes" in page.subtitle
    assert page.headlines[1].detail.startswith("mean CCC on 288 rows")
    assert "CCC" in page.headlines[2].answer
    assert page.sections
    for section in page.sections:
        assert section.blocks or section.key == "troubles"
        assert "macro-F1" not in section.lead


def test_groups_have_the_mean_ccc_of_an_oracle(facts):
    scored = facts.scored
    found = {grouping.name: grouping for grouping in groupings(facts)}
    assert list(found) == ["gender", "duration", "speaker"]
    predicted = scored.predictions[facts.choice].attribute_values
    assert found["speaker"].groups
    for group in found["speaker"].groups:
        rows = [row for row in scored.known if scored.rows.speakers[row] == group.name]
        assert group.score.value == pytest.approx(
            lins_mean(scored.rows.attribute_targets[rows], predicted[rows])
        )


def test_members_are_apart_by_the_mean_distance_on_the_scale(facts):
    values = facts.scored.rows.inputs.attribute_values
    shares = (values - [1, -1]) / [6, 2]
    apart = disagreement(facts.scored)
    assert apart.shape == (3, 3)
    assert apart[0, 2] == pytest.approx(np.abs(shares[:, 0] - shares[:, 2]).mean())
    assert np.diag(apart).tolist() == [0, 0, 0]


def test_clips_are_those_that_are_furthest_off(run, facts):
    scored = facts.scored
    errors = attribute_errors(scored, facts.choice)
    unrated = np.isnan(scored.rows.attribute_targets).all(axis=1)
    assert np.isnan(errors).tolist() == unrated.tolist()
    clips = next(
        section for section in make_page(run, AudioLinks(run.root)).sections if section.key == "clips"
    )
    first = clips.blocks[0].clips[0]
    assert first.label == scored.rows.inputs.ids[int(np.nanargmax(errors))]
    assert first.bars
    assert all(bar.words for bar in first.bars)


def test_the_linear_baseline_is_shown_by_its_mean_ccc(tmp_path):
    runs = []
    for name, noise in (("first", 1.0), ("second", 0.2)):
        simulation = simulate_attributes(noises=(2.0, 0.5, noise))
        members, table = replace(simulation, tables=simulation.tables[:2]), simulation.tables[2]
        (tmp_path / name).mkdir()
        runs.append(members.run(tmp_path / name, **FAST))
        member = MemberRecipe(name="linear-baseline", head="ridge", features=["logmel"])
        save_derived(runs[-1], DerivedMember("baseline", "the recipe", member))
        replace(table, member=member.name).save(runs[-1].posteriors_path(member.name))
        compare(runs[-1])
    facts = read_facts(runs[1])
    score = facts.score("baseline")
    assert facts.nothing_above_baseline
    differences = differences_to_baseline(facts.scored)
    truth, inputs = facts.scored.rows.attribute_targets, facts.scored.rows.inputs
    for index, name in enumerate(inputs.members):
        expected = lins_mean(truth, inputs.attribute_values[:, index])
        assert differences[name].value == pytest.approx(expected - score.value)
    page = make_page(runs[1], AudioLinks(runs[1].root))
    assert page.headlines[0].answer == "baseline"
    section = next(section for section in page.sections if section.key == "members")
    assert f"not above the baseline (mean CCC {score.value:.3f}" in section.lead
    table = section.blocks[1]
    assert [len(row) for row in table.rows] == 3 * [len(table.header)]
    assert table.rows[-1][0].text == "baseline"
    compared = compare_runs(runs)
    baselines = {entry.run: entry for entry in compared.of("baseline")}
    assert len(baselines) == 2
    assert baselines[compared.runs[1]].scores["mean_ccc"].value == pytest.approx(score.value)
    (recommended,) = (entry for entry in compared.of("recommended") if entry.run == compared.runs[1])
    assert recommended.to_baseline.value == pytest.approx(recommended.scores["mean_ccc"].value - score.value)
    assert "not above the linear baseline of the run" in compared.verdict[-1]


def test_a_run_with_classes_is_not_compared_with_one_without(run, tmp_path):
    simulation = simulate_attributes(speakers=12, rows=24)
    classes = ("Angry", "Sad")
    rows = tuple(
        replace(row, votes=(1.0, 0.0) if place % 2 else (0.0, 1.0))
        for place, row in enumerate(simulation.corpus.utterances)
    )
    even = np.tile([0.6, 0.4], (len(rows), 1))
    even[::3] = [0.4, 0.6]
    tables = [replace(table, classes=classes, class_probabilities=even) for table in simulation.tables]
    corpus = replace(simulation.corpus, classes=classes, utterances=rows)
    other = replace(simulation, corpus=corpus, tables=tables).run(tmp_path, **FAST)
    compare(other)
    with pytest.raises(ReportError, match=r"has the classes \(none\) and .* has Angry, Sad"):
        compare_runs([run, other])
