"""What goes with a stacker is applied, saved and refused as a whole."""

import json

import numpy as np
import pytest
from scipy.special import softmax

from sercache.errors import StackingError
from sercache.evaluation.calibration.fitted import Calibration
from sercache.evaluation.calibration.registry import CALIBRATORS

CLASSES = ("Angry", "Sad", "Happy")


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    probabilities = softmax(2 * generator.normal(size=(300, 3)), axis=1)
    return probabilities, np.asarray([generator.choice(3, p=row) for row in probabilities])


@pytest.mark.parametrize("kind", list(CALIBRATORS))
@pytest.mark.parametrize("tunes", [False, True])
def test_it_says_the_same_after_a_round_trip(rows, tmp_path, kind, tunes):
    calibration = Calibration.fit(*rows, CLASSES, kind=kind, tunes_thresholds=tunes)
    calibration.save(tmp_path / "calibration.json")
    again = Calibration.load(tmp_path / "calibration.json")
    for ours, theirs in zip(calibration.apply(rows[0]), again.apply(rows[0]), strict=True):
        np.testing.assert_allclose(ours, theirs)
    calibrated = calibration.apply(rows[0])
    assert calibrated.sets[np.arange(300), rows[1]].mean() >= 0.9
    if not tunes:
        np.testing.assert_array_equal(calibrated.classes, calibrated.probabilities.argmax(axis=1))


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop("learned"),
        lambda found: found.update(format=2),
        lambda found: found.update(kind="magic"),
        lambda found: found.update(thresholds=[1.0]),
        lambda found: found.update(learned={"temperature": "hot"}),
        lambda found: found.clear(),
    ],
)
def test_a_damaged_or_foreign_file_is_one_line(rows, tmp_path, change):
    path = tmp_path / "calibration.json"
    Calibration.fit(*rows, CLASSES).save(path)
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    with pytest.raises(StackingError) as caught:
        Calibration.load(path)
    assert "\n" not in str(caught.value)
    path.write_text("{")
    with pytest.raises(StackingError, match="not a calibration"):
        Calibration.load(path)
    path.unlink()
    with pytest.raises(StackingError, match="cannot read the calibration"):
        Calibration.load(path)
