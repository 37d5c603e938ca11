"""The command as users start it, with a real bundle; many at once, and its end."""

import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from sercache.bundle.clips import Recording, Windows
from sercache.bundle.predictor import Bundle
from support.browsing import open_page, picture, show_result
from support.bundle_runs import finish_run
from support.served import REAL, running
from support.tones import wav_bytes

GROWTH_MEGABYTES = 300


@pytest.fixture(scope="session")
def finished(tmp_path_factory, checkpoint):
    return finish_run(tmp_path_factory.mktemp("finished"), checkpoint("wavlm+layer"))


@pytest.fixture(scope="session")
def bundle_folder(finished, tmp_path_factory):
    return finished.bundle(tmp_path_factory.mktemp("served") / "small", stacker="neural").folder


@pytest.fixture(scope="session")
def clip(finished):
    return finished.corpus.audio_path(finished.corpus.utterances[5])


@pytest.fixture(scope="session")
def real(bundle_folder):
    """Process and address of a server of a real bundle."""
    with running([*REAL, "serve", bundle_folder, "--port", "0", "--queue", "20"]) as server:
        yield server


def peak_megabytes(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024


def test_the_way_through_the_server_is_the_way_through_the_library(real, bundle_folder, clip):
    _, address = real
    response = httpx2.post(
        f"{address}/api/predict",
        files={"file": ("clip.wav", clip.read_bytes())},
        data={"text": "never again", "windows": "true"},
        timeout=60,
    )
    assert response.status_code == 200, response.text
    recording = Recording("clip.wav", clip, text="never again")
    (wanted,) = Bundle.load(bundle_folder).predict([recording], windows=Windows())
    assert response.json() == json.loads(json.dumps(wanted.as_dict()))


def test_fifty_at_once_are_all_answered_or_refused_and_memory_stays_bounded(real, clip):
    process, address = real
    content = clip.read_bytes()

    def ask(number):
        files = {"file": (f"{number}.wav", content)}
        return httpx2.post(f"{address}/api/predict", files=files, data={"text": "yes"}, timeout=120)

    warm = httpx2.post(f"{address}/api/predict", files={"file": ("a.wav", content)}, timeout=60)
    assert warm.status_code == 200, warm.text
    before = peak_megabytes(process)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    after = peak_megabytes(process)
    codes = [answer.status_code for answer in answers]
    print(
        f"50 at once: {codes.count(200)} answered, {codes.count(503)} refused; "
        f"peak memory {before:.0f} MB before, {after:.0f} MB after"
    )
    assert set(codes) <= {200, 503}
    assert codes.count(200) >= 20
    assert answers
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)
    assert after - before < GROWTH_MEGABYTES
    names = {answer.json()["id"] for answer in answers if answer.status_code == 200}
    assert len(names) == codes.count(200)  # everybody got an own answer
    assert httpx2.get(f"{address}/api/health").json()["requests"] == 0


def test_a_large_upload_that_is_refused_still_sees_why(real):
    _, address = real
    big = b"\0" * 60_000_000
    response = httpx2.post(f"{address}/api/predict", files={"file": ("big.wav", big)}, timeout=60)
    assert response.status_code == 413
    assert response.json() == {"detail": "the recording is larger than 25 MB"}


def test_the_page_shows_what_a_real_bundle_hears(browser, real, clip):
    _, address = real
    with open_page(browser, address) as page:
        show_result(page, clip)
        assert page.locator("#classes tbody tr").count() == 3
        assert "Learnt from 36 recordings of 6 speakers" in page.locator("#card").inner_text()
        picture(page, "real")


def test_ctrl_c_ends_it_cleanly_though_work_is_in_flight(start):
    with start(pause=2.0) as (process, address), ThreadPoolExecutor(3) as pool:
        files = {"file": ("a.wav", wav_bytes())}
        asked = [
            pool.submit(httpx2.post, f"{address}/api/predict", files=files, timeout=60) for _ in range(3)
        ]
        while httpx2.get(f"{address}/api/health").json()["requests"] < 3:
            pass
        process.send_signal(signal.SIGINT)
        assert {future.result().status_code for future in asked} <= {200, 503}
        output, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert output.endswith("ended\n")
        assert errors == ""
