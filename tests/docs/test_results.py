"""The picture in the README shows the README's table."""

import importlib.util
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("results", REPOSITORY / "docs" / "results.py")
results = importlib.util.module_from_spec(spec)
spec.loader.exec_module(results)


def test_the_table_has_rows_with_intervals():
    rows = results.results()
    assert len(rows) == 4
    assert all("[" in cells[-1][1] for _, cells in rows)


def test_the_picture_is_up_to_date():
    shown = results.PICTURE.read_text(encoding="utf-8")
    assert shown == results.picture(), "run python docs/results.py"
