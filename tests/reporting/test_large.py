"""A large run: the page stays small."""

import pytest

from sercache.reporting.report import write_report
from support.report_builder import stacked, with_extras
from support.simulated_members import simulate


@pytest.mark.slow
def test_ten_thousand_utterances_and_fourteen_members(tmp_path):
    simulation = with_extras(simulate(speakers=100, rows=100, members=14))
    run = stacked(tmp_path, simulation, stackers=["soft-vote"], repeats=1, bootstrap_samples=200)
    size = write_report(run).stat().st_size
    print(f"\n10,000 utterances: {size / 1e6:.2f} MB")
    assert size < 5e6
