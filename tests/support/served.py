"""Servers in processes of their own."""

import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager

from support.processes import environment

FAKE = ("-m", "support.fake_server")
REAL = ("-m", "support.sercache_command")


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
            env=environment(TMPDIR=folder),
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
