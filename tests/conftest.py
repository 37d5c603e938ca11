"""What all tests share."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tiny_checkpoints import checkpoint  # noqa: F401
from tiny_whisper import make_spoken, tiny_whisper  # noqa: F401

os.environ["HF_HUB_OFFLINE"] = "1"
# One thread: sums come out the same in every process, and small tensors gain nothing from a second one.
os.environ["OMP_NUM_THREADS"] = "1"

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real corpora beside the repository; the test skips where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real corpora are not here: ../shared/data is absent")
    return folder
