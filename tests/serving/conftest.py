"""Lets tests import ``fake_bundle`` and ``tones``; servers in processes of their own, and a browser."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)


@contextmanager
def running(command):
    """Run a server until the block ends; yields its process and the first address that it prints."""
    with (
        tempfile.TemporaryDirectory() as folder,  # a server that is killed leaves its own behind
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": folder},
        ) as process,
    ):
        try:
            line = process.stdout.readline()
            assert "http://" in line, line + process.stderr.read()
            yield process, "http://" + line.split("http://")[1].split()[0]
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


@pytest.fixture
def start():
    """Start a server of the fake bundle: ``with start(pause=0.1) as (process, address)``."""

    def begin(pause=0.0, queue=32, max_bytes=2_000_000):
        return running([HERE / "fake_server.py", pause, queue, max_bytes])

    return begin


@pytest.fixture(scope="session")
def address():
    """The address of a server that all tests share."""
    with running([HERE / "fake_server.py", 0, 32, 2_000_000]) as (_, address):
        yield address


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=found, args=list(CHROMIUM_OPTIONS))
        yield opened
        opened.close()
