from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from sercache.errors import StackingError
from sercache.posteriors import ALL_FOLDS, Posteriors


@pytest.fixture
def posteriors():
    return Posteriors(
        member="deepser",
        ids=("a", "b", "c/../d"),
        classes=("Angry", "Sad"),
        attributes=("arousal",),
        class_probabilities=np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]),
        attribute_values=np.array([[6.0], [2.0], [4.0]]),
        folds=np.array([0, 1, ALL_FOLDS]),
        origins=np.array(["out-of-fold", "out-of-fold", "held-out"]),
        fold_map_digest="0f",
    )


def test_a_saved_table_comes_back(tmp_path, posteriors):
    posteriors.save(tmp_path / "posteriors.parquet")
    again = Posteriors.load(tmp_path / "posteriors.parquet")
    assert again.ids == posteriors.ids
    assert again.classes == posteriors.classes
    np.testing.assert_array_equal(again.class_probabilities, posteriors.class_probabilities)
    np.testing.assert_array_equal(again.folds, posteriors.folds)
    np.testing.assert_array_equal(again.origins, posteriors.origins)


def test_columns_are_matched_by_name_not_by_place(tmp_path, posteriors):
    path = tmp_path / "posteriors.parquet"
    posteriors.save(path)
    table = pq.read_table(path)
    pq.write_table(table.select(table.column_names[::-1]), path)
    np.testing.assert_array_equal(Posteriors.load(path).class_probabilities, posteriors.class_probabilities)


def test_rows_are_joined_by_id(posteriors):
    taken = posteriors.take(["c/../d", "a"])
    assert taken.class_probabilities[:, 0].tolist() == [0.5, 0.9]
    with pytest.raises(StackingError, match="miss 1 of 2 utterances, first 'z'"):
        posteriors.take(["a", "z"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ("a", "a", "b")}, "occurs twice"),
        ({"classes": ("Angry",)}, "class probabilities for 3 ids x 1 classes"),
        ({"class_probabilities": np.array([[np.nan, 1], [0, 1], [0, 1]])}, "finite"),
        ({"class_probabilities": np.ones((3, 2))}, "sum to 1"),
        ({"origins": np.array(["guess"] * 3)}, "unknown origin"),
    ],
)
def test_a_table_that_cannot_be_is_refused(posteriors, change, message):
    with pytest.raises(StackingError, match=message):
        replace(posteriors, **change)


def test_a_damaged_file_is_one_clear_line(tmp_path):
    path = tmp_path / "posteriors.parquet"
    for content in (b"", b"PAR1 nonsense PAR1"):
        path.write_bytes(content)
        with pytest.raises(StackingError, match=r"posteriors\.parquet: not a table of posteriors"):
            Posteriors.load(path)
