"""The page as people use it, in headless Chromium; it may neither stumble nor ask another server."""

import pytest

from support.browsing import DESKTOP, PHONE, open_page, picture, show_result, upload
from support.tones import wav_bytes

LOADED_DURATION = """player => new Promise(done => {
    const tell = () => done(player.duration);
    player.readyState > 0 ? tell() : player.addEventListener("loadedmetadata", tell);
})"""


@pytest.fixture
def clips(tmp_path):
    """Recordings: a good one of 14 s in which it gets louder, one that is none, one that is too large."""
    (tmp_path / "louder.wav").write_bytes(wav_bytes(14, levels=(0.05, 0.4, 0.9, 0.4)))
    (tmp_path / "notes.wav").write_bytes(b"these are words, not sounds " * 20)
    (tmp_path / "long.wav").write_bytes(wav_bytes(70))
    return tmp_path


def test_a_recording_is_chosen_and_its_result_shown(browser, address, clips):
    with open_page(browser, address) as page:
        show_result(page, clips / "louder.wav")
        assert page.locator("#bundle-name").inner_text() == "sample-bundle"
        assert "louder.wav, 14.0 s" in page.locator("#result-facts").inner_text()
        rows = page.locator("#classes tbody tr")
        assert rows.count() == 8
        shares = [float(text.split()[0]) for text in page.locator("#classes td:last-child").all_inner_texts()]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(100, abs=1)
        assert page.locator("#classes .in-set").count() == 2
        top = rows.first.locator("th").inner_text()
        assert page.locator("#result-heading").inner_text().split(",")[0] in top
        assert page.locator("#attributes .scale").count() == 3
        seconds = page.locator("#player").evaluate(LOADED_DURATION)
        assert seconds == pytest.approx(14, abs=0.1)
        page.locator("#members-box summary").click()
        assert page.locator("#members tbody tr").count() == 3
        assert page.locator("#error").is_hidden()


def test_the_timeline_is_walked_with_the_keyboard(browser, address, clips):
    with open_page(browser, address) as page:
        show_result(page, clips / "louder.wav")
        windows = page.locator("#timeline button")
        assert windows.count() == 4
        assert page.locator("#timeline button[tabindex='0']").count() == 1
        windows.first.focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("#window").inner_text().startswith("3.0 to 9.0 s")
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        assert page.locator("#window").inner_text().startswith("8.0 to 14.0 s")
        assert page.locator("#player").evaluate("player => player.currentTime") == pytest.approx(8, abs=0.1)
        widths = windows.evaluate_all("all => all.reduce((sum, one) => sum + one.offsetWidth, 0)")
        whole = page.locator("#timeline").evaluate("strip => strip.offsetWidth")
        assert widths == pytest.approx(whole, abs=4)


def test_a_dropped_recording_without_windows_has_no_timeline(browser, address, clips):
    with open_page(browser, address) as page:
        page.locator("#hint").filter(has_text="up to").wait_for()
        page.locator("#windows").uncheck()
        content = list(wav_bytes(0.5))
        transfer = page.evaluate_handle(
            """bytes => { const all = new DataTransfer();
            all.items.add(new File([new Uint8Array(bytes)], "dropped.wav")); return all; }""",
            content,
        )
        page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
        page.locator("#result").wait_for()
        assert "dropped.wav" in page.locator("#result-facts").inner_text()
        assert page.locator("#timeline-box").is_hidden()


def test_the_microphone_is_recorded_and_sent_as_wav(browser, address):
    with open_page(browser, address) as page:
        page.locator("#hint").filter(has_text="up to").wait_for()
        sent = []
        page.on("request", lambda request: sent.append(request) if "predict" in request.url else None)
        page.locator("#record").click()
        page.locator("#record[aria-pressed='true']").wait_for()
        page.wait_for_timeout(1500)
        page.locator("#record").click()
        page.locator("#result").wait_for()
        assert "recording.wav" in page.locator("#result-facts").inner_text()
        assert len(sent) == 1
        assert page.locator("#record").get_attribute("aria-pressed") == "false"


def test_a_bad_file_is_told_in_one_line_and_the_page_goes_on(browser, address, clips):
    refused = "status of 400"
    with open_page(browser, address, expected=[refused]) as page:
        upload(page, clips / "notes.wav")
        page.locator("#error").wait_for()
        assert page.locator("#error").inner_text().startswith("notes.wav: not audio that can be decoded")
        assert page.locator("#result").is_hidden()
        picture(page, "bad-file")
        show_result(page, clips / "louder.wav")
        assert page.locator("#error").is_hidden()


def test_an_oversized_file_is_refused_by_the_page_and_by_the_server(browser, address, clips):
    with open_page(browser, address, expected=["status of 413"]) as page:
        upload(page, clips / "long.wav")
        page.locator("#error").wait_for()
        assert page.locator("#error").inner_text() == "long.wav is larger than 2 MB."
        answer = page.evaluate(
            """async () => {
            const form = new FormData(); form.append("file", new Blob([new Uint8Array(5e6)]), "a.wav");
            const response = await fetch("/api/predict", {method: "POST", body: form});
            return [response.status, (await response.json()).detail]; }"""
        )
        assert answer == [413, "the recording is larger than 2 MB"]


def test_a_server_that_is_gone_is_told(browser, start, clips):
    with start() as (process, address), open_page(browser, address, expected=["ERR_CONNECTION"]) as page:
        page.locator("#hint").filter(has_text="up to").wait_for()
        process.kill()
        process.wait(20)
        upload(page, clips / "louder.wav")
        page.locator("#error").wait_for()
        assert "does not answer" in page.locator("#error").inner_text()


def test_the_documentation_is_drawn_without_a_network(browser, address):
    with open_page(browser, address, path="/docs") as page:
        page.locator("#schemas article").first.wait_for()
        assert "/api/predict" in page.locator("#operations").inner_text()
        assert "conformal_set" in page.locator("#schemas").inner_text()
        picture(page, "docs")


def test_another_page_cannot_ask(browser, address):
    expected = ["CORS", "ERR_FAILED", "Content Security Policy", "status of 403", "Failed to fetch"]
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(address.replace("127.0.0.1", "localhost"))
    problems = []
    page.on("console", lambda message: problems.append(message.text))
    outcome = page.evaluate(
        """async address => {
        const form = new FormData(); form.append("file", new Blob(["x"]), "a.wav");
        try { await fetch(address + "/api/predict", {method: "POST", body: form}); return "answered"; }
        catch { return "refused"; } }""",
        address,
    )
    assert outcome == "refused"
    assert all(any(part in line for part in expected) for line in problems)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_is_wider_than_the_screen_and_words_can_be_read(browser, address, clips, scheme, viewport):
    with open_page(browser, address, viewport, color_scheme=scheme) as page:
        page.locator("#hint").filter(has_text="up to").wait_for()
        picture(page, f"empty-{viewport['width']}-{scheme}")
        show_result(page, clips / "louder.wav")
        page.locator("#members-box summary").click()
        picture(page, f"result-{viewport['width']}-{scheme}")
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        for selector in ("h1", ".hint", "#result-heading", "#choose", "footer p", ".scale-ends", "a"):
            assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector
        for index in range(4):
            assert page.locator("#timeline button").nth(index).evaluate(CONTRAST) >= 4.5


CONTRAST = """element => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let behind = element;
  while (behind.parentElement && (numbers(getComputedStyle(behind).backgroundColor)[3] === 0)) {
    behind = behind.parentElement;
  }
  const pair = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor]
    .map(color => luminance(numbers(color))).sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05);
}"""
