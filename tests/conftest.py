"""What all tests share."""

import os
from pathlib import Path

import pytest

from support.tiny_checkpoints import checkpoint  # noqa: F401
from support.tiny_whisper import make_spoken, tiny_whisper  # noqa: F401

os.environ["HF_HUB_OFFLINE"] = "1"
# One thread: sums come out the same in every process, and small tensors gain nothing from a second one.
os.environ["OMP_NUM_THREADS"] = "1"

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real corpora: ``SERCACHE_TEST_DATA``, or one beside the repository; skips without it."""
    beside = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("SERCACHE_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"there are no real corpora in {folder}; set SERCACHE_TEST_DATA to their folder")
    return folder
