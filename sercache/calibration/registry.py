"""Calibrators by name; a new one is one file and one line here."""

from sercache.calibration.protocol import Calibrator
from sercache.errors import StackingError
from sercache.registry import Registry

CALIBRATORS: Registry[type[Calibrator]] = Registry(
    "calibrator",
    {
        "none": "sercache.calibration.uncalibrated:Uncalibrated",
        "temperature": "sercache.calibration.temperature:Temperature",
        "dirichlet": "sercache.calibration.dirichlet:Dirichlet",
    },
    StackingError,
)
