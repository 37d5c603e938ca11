"""A large run: the page stays small, and is made in bearable time. Bounds are generous; -s prints figures."""

import time

import pytest

from sercache.reporting.report import write_report
from support.report_builder import stacked, with_extras
from support.simulated_members import simulate


@pytest.mark.slow
def test_ten_thousand_utterances_and_fourteen_members(tmp_path):
    simulation = with_extras(simulate(speakers=100, rows=100, members=14))
    run = stacked(tmp_path, simulation, stackers=["soft-vote"], repeats=1, bootstrap_samples=200)
    started = time.perf_counter()
    size = write_report(run).stat().st_size
    print(f"\n10,000 utterances: {size / 1e6:.2f} MB in {time.perf_counter() - started:.1f} s")
    assert size < 5e6
    assert time.perf_counter() - started < 120
