"""``sercache serve`` before it serves: what it refuses, and what it warns of."""

import subprocess
import sys

import pytest

from sercache.errors import ServingError
from sercache.serving import server


def sercache(*arguments, before="pass"):
    code = f"import sys; {before}; from sercache.cli.main import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_without_the_extra_one_line_says_what_to_install(tmp_path):
    done = sercache("serve", str(tmp_path), before="sys.modules['fastapi'] = None")
    assert done.returncode == 2
    assert done.stderr.startswith("sercache: serving needs fastapi, which is not installed: pip install")
    assert done.stderr.count("\n") == 1


def test_what_is_no_bundle_is_one_line(tmp_path):
    pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
    done = sercache("serve", str(tmp_path), "--port", "0")
    assert done.returncode == 2
    assert done.stderr.startswith("sercache: ")
    assert str(tmp_path) in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_taken_port_is_said():
    with server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=f"port {port} of 127.0.0.1 is taken"):
            server.listen("127.0.0.1", port)


def test_a_host_of_another_machine_is_said():
    with pytest.raises(ServingError, match=r"cannot listen on port 0 of 192\.0\.2\.1"):
        server.listen("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "is_private", "address"),
    [("127.0.0.1", True, "http://127.0.0.1:"), ("0.0.0.0", False, "http://localhost:")],
)
def test_the_address_can_be_typed_into_a_browser(host, is_private, address):
    with server.listen(host, 0) as listening:
        assert server.is_loopback(listening) == is_private
        assert server.address_of(listening, host).startswith(address)
