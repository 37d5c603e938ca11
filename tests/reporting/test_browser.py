"""The page in a real browser: no error, no request, no violation that axe-core finds, and it can be used.

Skips where Chromium or the packages that drive it are absent.
"""

import shutil

import pytest

from sercache.reporting.blocks import render
from sercache.reporting.comparison_page import comparison_page
from sercache.reporting.report import write_report
from sercache.reporting.run_comparison import compare_runs
from support.report_builder import HOSTILE, renamed, stacked, with_extras
from support.simulated_members import simulate

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe_module = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    simulation = renamed(with_extras(simulate(seed=3), folder), HOSTILE)
    return stacked(folder, simulation, stackers=["soft-vote", "logistic"], repeats=1)


@pytest.fixture(scope="module")
def page_path(hostile_run):
    return write_report(hostile_run)


@pytest.fixture
def opened(browser, page_path):
    """The page, and what it said and asked for."""
    page = browser.new_page()
    logged, asked = [], []
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_path.as_uri())
    yield page, logged, asked
    page.close()


def violations(page):
    # The page's policy lets no foreign script in, not even axe-core: the context is one that ignores it.
    found = axe_module.Axe().run(page, options=RULES).response["violations"]
    return [
        (violation["id"], violation["help"], [node["html"][:200] for node in violation["nodes"][:3]])
        for violation in found
    ]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_no_violation_and_nothing_is_wider_than_the_screen(browser, page_path, width, scheme):
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    page.goto(page_path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page) == []
    context.close()


def test_it_says_nothing_to_the_console_and_asks_for_nothing(opened, page_path):
    page, logged, asked = opened
    page.wait_for_load_state("networkidle")
    for link in page.query_selector_all("nav a"):
        link.click()
    assert logged == []
    assert asked == [page_path.as_uri()]
    assert page.evaluate("document.querySelectorAll('script').length") == 1


def test_a_table_is_sorted_by_a_click_and_back_by_another(opened):
    page, logged, _ = opened
    head = page.locator("#comparison ~ .scroll table.sortable th button", has_text="UAR").first
    column = "#comparison ~ .scroll table.sortable tbody tr td:nth-child(3)"
    head.click()
    down = [float(text) for text in page.locator(column).all_text_contents()[:4]]
    assert down == sorted(down, reverse=True)
    head.click()
    up = [float(text) for text in page.locator(column).all_text_contents()[:4]]
    assert up == sorted(up)
    assert logged == []


def test_the_map_tells_whose_point_it_is_by_pointer_and_by_keys(opened):
    page, logged, _ = opened
    drawing = page.locator(".map svg")
    drawing.focus()
    first = page.locator(".map output").text_content()
    assert " · " in first
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.locator(".map output").text_content() != first
    point = page.locator(".map circle").nth(7)
    point.hover(force=True)
    assert " · " in page.locator(".map output").text_content()
    before = point.evaluate("(element) => getComputedStyle(element).fill")
    page.locator(".map input.by2").check()
    assert page.locator(".map .legend.of2").is_visible()
    assert not page.locator(".map .legend.of0").is_visible()
    right, wrong = (page.locator(f".map circle.c{group}").first for group in (0, 1))
    fills = [point.evaluate("(element) => getComputedStyle(element).fill") for point in (right, wrong)]
    assert fills[0] != fills[1]
    assert before.startswith("rgb")
    assert logged == []


def test_a_clip_beside_the_page_can_be_played(opened):
    page, logged, _ = opened
    length = page.evaluate(
        """() => new Promise((done) => {
            const audio = document.querySelector("audio");
            audio.addEventListener("loadedmetadata", () => done(audio.duration));
            audio.addEventListener("error", () => done(-1));
            setTimeout(() => done(-2), 10000);
            audio.load(); audio.preload = "metadata";
        })"""
    )
    assert length == pytest.approx(0.2, abs=0.01)
    assert logged == []


def test_a_comparison_is_as_clean(browser, run, tmp_path):
    path = tmp_path / "comparison.html"
    other = stacked(tmp_path, with_extras(simulate(skill=2.5)), stackers=["soft-vote"], repeats=1)
    path.write_text(render(comparison_page(compare_runs([run, other]))))
    context = browser.new_context(viewport={"width": 390, "height": 844}, bypass_csp=True)
    page = context.new_page()
    logged = []
    page.on("console", lambda message: logged.append(message.text))
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert violations(page) == []
    assert logged == []
    context.close()
