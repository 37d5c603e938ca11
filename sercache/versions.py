"""Which libraries a result was made with."""

import platform
from importlib.metadata import version

from sercache._version import __version__

_RECORDED = ("torch", "numpy", "scikit-learn", "lightgbm", "h5py")


def library_versions() -> dict[str, str]:
    """Return the versions that numbers may depend on."""
    return {
        "sercache": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in _RECORDED},
    }
