import json
import sys
from pathlib import Path

import pytest

from sercache.errors import ReportError
from sercache.stacking.comparison import compare as stack_run
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


def test_it_writes_the_page_and_says_where(runs, capsys):
    from sercache.cli.report import report

    report(runs[0].root)
    said = capsys.readouterr().out
    assert str(runs[0].report_path) in said.replace("\n", "")
    assert runs[0].report_path.read_text().startswith("<!doctype html>")


def test_a_folder_that_is_not_stacked_is_one_clear_line(tmp_path):
    from sercache.cli.report import report

    with pytest.raises(ReportError, match="sercache stack"):
        report(tmp_path)


def test_a_missing_library_costs_a_line_and_not_the_command(runs, capsys, monkeypatch):
    from sercache.cli.report import report_after_stacking

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert report_after_stacking(runs[0].root) is None
    said = capsys.readouterr().err
    assert "No report was written: a report needs matplotlib: pip install matplotlib" in " ".join(
        said.split()
    )


def test_runs_are_compared_in_a_table_as_json_and_as_a_page(runs, tmp_path, capsys):
    from sercache.cli.compare import compare

    folders = [run.root for run in runs]
    compare(folders, output=tmp_path / "page.html")
    said = " ".join(capsys.readouterr().out.split())
    assert "120 shared rows of 12 speakers" in said
    assert "soft-vote *" in said or "best-single *" in said
    assert (tmp_path / "page.html").is_file()
    compare(folders, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 120
    assert len(found["entries"]) in (4, 6)


def test_one_run_is_too_few(runs):
    from sercache.cli.compare import compare

    with pytest.raises(ReportError, match="two runs or more"):
        compare([Path(runs[0].root)])
