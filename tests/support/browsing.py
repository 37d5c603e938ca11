"""The page, opened in a browser and watched."""

import os
from contextlib import contextmanager
from pathlib import Path

SCREENSHOTS = os.environ.get("SERCACHE_SCREENSHOTS")
"""A folder for pictures of the page, for people to look at."""

DESKTOP = {"width": 1200, "height": 900}
PHONE = {"width": 375, "height": 812}


@contextmanager
def open_page(browser, address, viewport=DESKTOP, *, path="/", expected=(), **options):
    """Yield the page; afterwards there must be no error in it, but ``expected`` ones of loading."""
    context = browser.new_context(viewport=viewport, permissions=["microphone"], **options)
    page = context.new_page()
    page.set_default_timeout(20_000)
    problems, asked = [], []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}{path}")
    yield page
    context.close()
    unexpected = [line for line in problems if not any(part in line for part in expected)]
    assert unexpected == []
    assert [url for url in asked if not url.startswith((address, f"blob:{address}", "data:"))] == []


def upload(page, path):
    page.locator("#hint").filter(has_text="up to").wait_for()
    page.set_input_files("#file", path)


def show_result(page, path):
    upload(page, path)
    page.locator("#result").wait_for()


def picture(page, name):
    if SCREENSHOTS:
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)
