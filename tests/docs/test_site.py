"""The site builds without a warning, and its pages load nothing from anywhere else."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|audio|video)\b[^>]*\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b[^>]*\bhref=["']?(?:https?:)?//|@import|url\(\s*["']?(?:https?:)?//"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_no_page_names_a_resource_of_another_server(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= 10
    for path in [*pages, *site.rglob("*.css")]:
        found = LOADED.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path.name}: {found and found[0]}"


@pytest.mark.parametrize(
    "example", sorted((REPOSITORY / "docs" / "examples").glob("*.py")), ids=lambda path: path.stem
)
def test_every_example_is_on_a_page(site, example):
    docstring = example.read_text(encoding="utf-8").splitlines()[0].strip('"')
    assert any(docstring in path.read_text(encoding="utf-8") for path in site.rglob("*.html"))


def test_the_reference_shows_docstrings_as_markdown(site):
    reference = (site / "reference" / "api.html").read_text(encoding="utf-8")
    assert 'id="sercache.cache.store.FeatureSet.frames"' in reference
    assert 'id="sercache.recipe.TrainingRecipe"' in reference
    assert not re.search(r":(?:class|func|meth|mod|data):", reference)


def test_a_browser_asks_no_other_server_and_finds_no_error(site):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    handler = functools.partial(_Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    requests, errors, too_wide = [], [], []
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        for path in sorted(site.rglob("*.html")):
            page.goto(address + path.relative_to(site).as_posix())
            for width in (390, 1280):
                page.set_viewport_size({"width": width, "height": 900})
                if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                    too_wide.append((path.name, width))
        browser.close()
    server.shutdown()
    server.server_close()
    assert not errors
    assert not too_wide
    assert not [url for url in requests if not url.startswith((address, "data:", "blob:"))]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *arguments):
        pass
