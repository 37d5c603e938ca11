"""What all tests share."""

import os
from pathlib import Path

import pytest

from support.tiny_checkpoints import checkpoint  # noqa: F401
from support.tiny_whisper import make_spoken, tiny_whisper  # noqa: F401

os.environ["HF_HUB_OFFLINE"] = "1"
# One thread: sums come out the same in every process, and small tensors gain nothing from a second one.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real corpora: ``SERCACHE_TEST_DATA``, or ``../shared/data``; skips without either."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SERCACHE_TEST_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"no real corpora: set SERCACHE_TEST_DATA to their folder ({folder} is absent)")
    return folder
