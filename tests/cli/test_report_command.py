import json
import sys

import pytest

from sercache.errors import ReportError
from sercache.stacking.comparison import compare as stack_run
from support.command_line import invoke
from support.simulated_members import simulate

FAST = {"stackers": ["soft-vote"], "repeats": 1, "bootstrap_samples": 200}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = []
    for skill in (1.0, 2.0):
        run = simulate(skill=skill, rows=10).run(tmp_path_factory.mktemp("run"), **FAST)
        stack_run(run)
        made.append(run)
    return made


def test_it_writes_the_page_and_says_where(runs):
    assert str(runs[0].report_path) in invoke("report", runs[0].root).stdout
    assert runs[0].report_path.read_text().startswith("<!doctype html>")


def test_a_folder_that_is_not_stacked_is_one_clear_line(tmp_path):
    with pytest.raises(ReportError, match="sercache stack"):
        invoke("report", tmp_path)


def test_a_missing_library_costs_a_line_and_not_the_command(runs, capsys, monkeypatch):
    from sercache.cli.report import report_after_stacking

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert report_after_stacking(runs[0].root) is None
    printed = capsys.readouterr().err
    assert "No report was written: a report needs matplotlib: pip install matplotlib" in " ".join(
        printed.split()
    )


def test_runs_are_compared_in_a_table_as_json_and_as_a_page(runs, tmp_path):
    folders = [run.root for run in runs]
    shown = " ".join(invoke("compare", *folders, "-o", tmp_path / "page.html").stdout.split())
    assert "120 shared rows of 12 speakers" in shown
    assert "soft-vote *" in shown or "best-single *" in shown
    assert (tmp_path / "page.html").is_file()
    found = json.loads(invoke("compare", *folders, "--json").stdout)
    assert found["rows"] == 120
    assert len(found["entries"]) in (4, 6)


def test_one_run_is_too_few(runs):
    with pytest.raises(ReportError, match="two runs or more"):
        invoke("compare", runs[0].root)
