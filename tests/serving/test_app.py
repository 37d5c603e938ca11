"""What the server answers, to whatever it is asked."""

import asyncio
import json
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from support.fake_bundle import CLASSES, AttributesAlone, FakeBundle
from support.tones import wav_bytes

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from starlette.testclient import TestClient

from sercache.serving.answers import Prediction
from sercache.serving.app import create_app
from sercache.serving.limits import Limits

HOME = "http://localhost"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder in which temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def serving(bundle=None, **limits):
    app = create_app(bundle or FakeBundle(), Limits(**limits))
    return TestClient(app, base_url=HOME)


def uploads(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def detail(response, status):
    assert response.status_code == status, response.text
    assert set(response.json()) == {"detail"}
    line = response.json()["detail"]
    assert "\n" not in line
    assert str(tempfile.gettempdir()) not in line
    return line


def test_a_form_is_answered_with_a_prediction_and_nothing_is_left(temporary):
    with serving() as client:
        response = client.post(
            "/api/predict",
            files={"file": ("clip.wav", wav_bytes(8, levels=(0.05, 0.9)))},
            data={"windows": "true", "text": "so it is"},
        )
        assert response.status_code == 200, response.text
        answer = response.json()
        Prediction.model_validate(answer, extra="forbid")
        assert answer["id"] == "clip.wav"
        assert answer["seconds"] == pytest.approx(8)
        assert answer["text"] == "so it is"
        assert tuple(answer["probabilities"]) == CLASSES
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert [window["start_seconds"] for window in answer["windows"]] == [0, 2]
        assert uploads(temporary) == []
    assert list(temporary.iterdir()) == []


def test_attributes_alone_are_answered_without_a_class(temporary):
    with serving(AttributesAlone()) as client:
        facts = client.get("/api/bundle").json()
        assert facts["classes"] == []
        assert set(facts["card"]["evaluation"]["scores"]) == {"mean_ccc"}
        files = {"file": ("clip.wav", wav_bytes(8))}
        response = client.post("/api/predict", files=files, data={"windows": "true"})
        assert response.status_code == 200, response.text
        answer = response.json()
        Prediction.model_validate(answer, extra="forbid")
        assert not answer.get("label")
        assert not answer.get("probabilities")
        assert set(answer["attributes"]) == set(answer["windows"][0]["attributes"])
        assert set(answer["members"]["member-0"]) == {"arousal", "valence", "dominance"}


def test_the_body_itself_may_be_the_recording(temporary):
    with serving() as client:
        response = client.post(
            "/api/predict?windows=true&text=so",
            content=wav_bytes(kind="FLAC"),
            headers={"content-type": "audio/flac"},
        )
        assert response.status_code == 200, response.text
        assert response.json()["id"] == "recording"
        assert response.json()["text"] == "so"
        assert len(response.json()["windows"]) == 1
        assert uploads(temporary) == []


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..\\..\\x.wav", "a\x00b.wav", "..", ""])
def test_a_name_is_only_ever_shown(temporary, name):
    before = set(temporary.parent.rglob("*"))
    content = wav_bytes()
    boundary = "frontier"
    quoted = name.replace("\\", "\\\\")
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n\r\n'.encode()
        + content
        + f"\r\n--{boundary}--\r\n".encode()
    )
    with serving() as client:
        response = client.post(
            "/api/predict",
            content=body,
            headers={"content-type": f"multipart/form-data; boundary={boundary}"},
        )
        if response.status_code == 200:
            shown = response.json()["id"]
            assert "/" not in shown
            assert "\\" not in shown
            assert ".." not in shown
            assert shown
        else:
            detail(response, 400)
    assert set(temporary.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not audio at all", "not audio that can be decoded"),
        (b"", "empty"),
        (wav_bytes()[:-4000], "truncated"),
        (wav_bytes(0.01), "too short"),
        (wav_bytes(levels=(0.0,)), "silent"),
    ],
    ids=["text", "empty", "truncated", "short", "silent"],
)
def test_bad_audio_is_one_line_with_the_senders_name(temporary, content, words):
    with serving() as client:
        line = detail(client.post("/api/predict", files={"file": ("My clip.wav", content)}), 400)
        assert line.startswith("My clip.wav: ")
        assert words in line
        assert uploads(temporary) == []


def test_too_large_is_refused_by_its_length(temporary):
    with serving(max_bytes=10_000) as client:
        assert "0.01 MB" in detail(
            client.post("/api/predict", files={"file": ("a.wav", b"x" * 400_000)}), 413
        )
        raw = client.post("/api/predict", content=b"x" * 10_001, headers={"content-type": "audio/wav"})
        assert "0.01 MB" in detail(raw, 413)
        assert uploads(temporary) == []


def test_too_large_is_refused_while_it_comes_and_never_kept(temporary):
    taken = []

    def endless():
        for _ in range(200):
            taken.append(sum(path.stat().st_size for path in uploads(temporary)))
            yield b"\0" * 1000

    with serving(max_bytes=10_000) as client:
        response = client.post("/api/predict", content=endless(), headers={"content-type": "audio/wav"})
        detail(response, 413)
        assert max(taken) <= 10_000
        assert uploads(temporary) == []


def test_a_form_without_length_is_held_to_the_same_size(temporary):
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'

    def endless():
        yield head
        for _ in range(200):
            yield b"\0" * 1000

    with serving(max_bytes=10_000) as client:
        response = client.post(
            "/api/predict", content=endless(), headers={"content-type": "multipart/form-data; boundary=b"}
        )
        detail(response, 413)
        assert uploads(temporary) == []


def test_too_long_or_too_dense_audio_is_refused_before_it_is_decoded():
    bundle = FakeBundle()
    with serving(bundle, max_seconds=2.0) as client:
        assert "3 s long" in detail(client.post("/api/predict", files={"file": ("a.wav", wav_bytes(3))}), 413)
        dense = wav_bytes(1.9, rate_hz=192_000, kind="FLAC")
        assert "samples" in detail(client.post("/api/predict", files={"file": ("a.flac", dense)}), 413)
    assert bundle.batches == []


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "audio/wav", "content-encoding": "gzip"},
    ],
    ids=lambda headers: " ".join(headers.values()),
)
def test_other_types_are_refused(headers):
    with serving() as client:
        detail(client.post("/api/predict", content=b"{}", headers=headers), 415)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": {"text": "alone"}, "files": {"other": ("a", b"")}}, "unknown"),
        ({"files": [("file", ("a", wav_bytes())), ("file", ("b", wav_bytes()))]}, "several"),
        ({"files": {"file": ("a", wav_bytes())}, "data": {"windows": "perhaps"}}, "true or false"),
        ({"files": {"file": ("a", wav_bytes())}, "data": {"text": "x" * 10_001}}, "10,000"),
        ({"files": {"text": ("a", b"so")}}, "no recording"),
        ({"files": {"file": ("a", wav_bytes())}, "params": {"windows": "perhaps"}}, "windows"),
    ],
    ids=["unknown field", "two files", "windows", "long text", "no file", "windows in the query"],
)
def test_what_makes_no_sense_is_said(temporary, options, words):
    with serving() as client:
        assert words in detail(client.post("/api/predict", **options), 422)
        assert uploads(temporary) == []


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nhalf']
)
def test_a_damaged_form_is_refused(temporary, body):
    with serving() as client:
        response = client.post(
            "/api/predict", content=body, headers={"content-type": "multipart/form-data; boundary=b"}
        )
        detail(response, 400)
        assert uploads(temporary) == []


def test_a_form_without_boundary_or_with_an_endless_header_is_refused():
    with serving() as client:
        form = {"content-type": "multipart/form-data"}
        detail(client.post("/api/predict", content=b"--b", headers=form), 400)
        form = {"content-type": "multipart/form-data; boundary=b"}
        detail(client.post("/api/predict", content=b"--b\r\nX: " + b"y" * 20_000, headers=form), 400)


def test_a_bundle_that_reads_words_says_so():
    with serving(FakeBundle(needs_text=True)) as client:
        assert "text" in detail(client.post("/api/predict", files={"file": ("a", wav_bytes())}), 422)
        given = client.post("/api/predict", files={"file": ("a", wav_bytes())}, data={"text": "so"})
        assert given.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:8001"},
        {"host": "evil.example", "origin": "http://evil.example"},
        {"host": "evil.example"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    ],
    ids=lambda headers: " ".join(headers.values()),
)
def test_other_pages_and_rebound_names_are_refused(headers):
    bundle = FakeBundle()
    with serving(bundle) as client:
        detail(client.post("/api/predict", files={"file": ("a.wav", wav_bytes())}, headers=headers), 403)
    assert bundle.batches == []


@pytest.mark.parametrize(
    "host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "10.1.2.3", "emotion.example"]
)
def test_own_pages_are_answered(host):
    app = create_app(FakeBundle(), hosts=["Emotion.example"])
    headers = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
    with TestClient(app, base_url=HOME) as client:
        response = client.post("/api/predict", files={"file": ("a.wav", wav_bytes())}, headers=headers)
        assert response.status_code == 200, response.text


def test_a_link_from_elsewhere_opens_the_page():
    with serving() as client:
        headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        assert client.get("/", headers=headers).status_code == 200


def test_a_full_house_refuses_at_once_and_says_when_to_come_again():
    bundle = FakeBundle()
    bundle.gate.clear()
    with serving(bundle, queue=2) as client, ThreadPoolExecutor(2) as pool:

        def ask():
            return client.post("/api/predict", files={"file": ("a.wav", wav_bytes())})

        waiting = [pool.submit(ask) for _ in range(2)]
        while client.get("/api/health").json()["requests"] < 2:
            pass
        refused = ask()
        assert "too many" in detail(refused, 503)
        assert 1 <= int(refused.headers["retry-after"]) <= 61
        bundle.gate.set()
        assert [future.result().status_code for future in waiting] == [200, 200]
        assert ask().status_code == 200


def test_those_who_wait_together_are_predicted_together():
    bundle = FakeBundle()
    bundle.gate.clear()
    with serving(bundle, batch=3) as client, ThreadPoolExecutor(5) as pool:

        def ask():
            return client.post("/api/predict", files={"file": ("a.wav", wav_bytes())})

        first = pool.submit(ask)
        assert bundle.begun.wait(10)
        others = [pool.submit(ask) for _ in range(4)]
        while client.get("/api/health").json()["requests"] < 5:
            pass
        wait_for_line(client, 4)
        bundle.gate.set()
        assert {future.result().status_code for future in [first, *others]} == {200}
    assert [len(batch) for batch in bundle.batches] == [1, 3, 1]


def wait_for_line(client, count):
    """Wait until so many jobs stand in the worker's line: they have been received and looked at."""
    worker = client.app.state.worker
    while worker.waiting < count:
        pass


def test_what_takes_too_long_is_given_up_and_its_work_dropped(temporary):
    bundle = FakeBundle()
    bundle.gate.clear()
    bundle.is_deaf = True
    with serving(bundle, timeout_seconds=0.3) as client, ThreadPoolExecutor(2) as pool:

        def ask():
            return client.post("/api/predict", files={"file": ("a.wav", wav_bytes())})

        first = pool.submit(ask)
        assert bundle.begun.wait(10)
        second = pool.submit(ask)
        assert "0.3 s" in detail(first.result(), 504)
        detail(second.result(), 504)
        assert uploads(temporary) == []
        bundle.gate.set()
        assert ask().status_code == 200
    assert len(bundle.batches) == 2  # the second was never begun


def test_what_nobody_waits_for_is_interrupted():
    bundle = FakeBundle()
    bundle.gate.clear()
    with serving(bundle, timeout_seconds=0.2) as client:
        detail(client.post("/api/predict", files={"file": ("a.wav", wav_bytes())}), 504)
        bundle.begun.clear()
        detail(client.post("/api/predict", files={"file": ("a.wav", wav_bytes())}), 504)
        assert bundle.begun.is_set()


@pytest.mark.parametrize("error", [RuntimeError("secret"), MemoryError(), ValueError("no")])
def test_an_unexpected_error_is_no_secret_and_not_the_end(error, caplog):
    bundle = FakeBundle()
    bundle.error = error
    with serving(bundle) as client:
        line = detail(client.post("/api/predict", files={"file": ("a.wav", wav_bytes())}), 500)
        assert "secret" not in line
        assert "prediction failed" in caplog.text
        bundle.error = None
        assert client.post("/api/predict", files={"file": ("a.wav", wav_bytes())}).status_code == 200


def test_a_server_that_stops_refuses_what_waits():
    bundle = FakeBundle()
    bundle.gate.clear()
    with serving(bundle) as client, ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(client.post, "/api/predict", files={"file": ("a.wav", wav_bytes())})
        assert bundle.begun.wait(10)
        client.app.state.worker.stop()
        assert "stopped" in detail(waiting.result(), 503)
        detail(client.post("/api/predict", files={"file": ("a.wav", wav_bytes())}), 503)
        detail(client.get("/api/health"), 503)


def test_a_client_that_goes_away_leaves_nothing(temporary):
    bundle = FakeBundle()
    bundle.gate.clear()
    app = create_app(bundle)
    body = wav_bytes()
    sent = []

    async def go_away():
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if messages:
                return messages.pop()
            while not bundle.begun.is_set():
                await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-type", b"audio/wav")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/predict",
            "query_string": b"",
            "headers": headers,
        }
        async with app.router.lifespan_context(app):
            await app({**scope, "http_version": "1.1", "scheme": "http", "root_path": ""}, receive, send)
            assert app.state.handler.requests == 0
            assert uploads(temporary) == []

    with ThreadPoolExecutor(1) as pool:  # a browser that is open in this thread has a loop of its own
        pool.submit(asyncio.run, go_away()).result(20)


def test_the_uploads_folder_is_private(temporary):
    with serving():
        (folder,) = temporary.iterdir()
        assert folder.stat().st_mode & 0o077 == 0


def test_every_answer_forbids_what_comes_from_elsewhere():
    with serving() as client:
        for path in ("/", "/docs", "/static/page.js", "/api/bundle", "/openapi.json", "/nowhere"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "http" not in policy
            assert headers["x-content-type-options"] == "nosniff"


def test_pages_hold_no_inline_code_and_name_no_other_server():
    import sercache.serving

    for path in (Path(sercache.serving.__file__).parent / "static").iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
        if path.suffix == ".html":
            assert " style=" not in text
            assert " onclick=" not in text
            assert '<script type="module" src="/static/' in text


def test_the_bundle_and_the_limits_are_told():
    with serving(max_bytes=1000) as client:
        facts = client.get("/api/bundle").json()
        assert facts["classes"] == list(CLASSES)
        assert facts["attributes"][0] == {"name": "arousal", "low": 1, "high": 7}
        assert facts["limits"]["max_bytes"] == 1000
        assert client.get("/api/health").json()["status"] == "ok"


def test_the_interface_describes_itself():
    with serving() as client:
        api = client.get("/openapi.json").json()
        predict = api["paths"]["/api/predict"]["post"]
        assert {"200", "400", "403", "413", "415", "422", "503", "504"} <= set(predict["responses"])
        assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "audio/*"}
        assert json.dumps(api)


def test_unknown_paths_and_methods_are_one_line():
    with serving() as client:
        detail(client.get("/nowhere"), 404)
        detail(client.get("/api/predict"), 405)
        detail(client.get("/static/../app.py"), 404)
        detail(client.get("/static/%2e%2e/app.py"), 404)


def test_many_clients_with_all_kinds_of_wishes_are_all_answered(temporary):
    generator = np.random.default_rng(0)
    bodies = [b"junk", wav_bytes(), wav_bytes(40), wav_bytes(0.01), b""]
    with serving(max_seconds=30, queue=4) as client, ThreadPoolExecutor(16) as pool:

        def ask(number):
            body = bodies[number]
            return client.post("/api/predict", files={"file": ("a", body)}, data={"windows": str(number % 2)})

        answers = list(pool.map(ask, generator.integers(0, len(bodies), 60).tolist()))
        assert {answer.status_code for answer in answers} <= {200, 400, 413, 503}
        assert uploads(temporary) == []
        assert client.get("/api/health").json()["requests"] == 0
    assert threading.active_count() < 50
