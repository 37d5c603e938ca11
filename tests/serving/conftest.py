"""Lets tests import what lies beside them; a server and a browser."""

import shutil

import pytest

from support.served import FAKE, running

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


@pytest.fixture
def start():
    """Start a server of the fake bundle: ``with start(pause=0.1) as (process, address)``."""

    def begin(pause=0.0, queue=32, max_bytes=2_000_000):
        return running([*FAKE, pause, queue, max_bytes])

    return begin


@pytest.fixture(scope="session")
def address():
    """The address of a server that all tests share."""
    with running([*FAKE, 0, 32, 2_000_000]) as (_, address):
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
