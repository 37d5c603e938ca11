"""Processes that a test starts, and where their Python looks for modules."""

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def environment(*folders, **changes):
    """Return this process's environment with ``changes``, whose Python finds ``support`` and ``folders``."""
    paths = [*map(str, folders), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **changes}
