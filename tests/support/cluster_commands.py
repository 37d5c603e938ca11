"""Commands of sercache in processes of their own, and who of their workers did what."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from sercache.cache.usage import SPEED_NAME
from support.processes import environment

COMMAND = ("-m", "support.counted_command")


@dataclass
class Done:
    code: int
    output: str
    errors: str


def begin(*arguments, **how):
    command = [sys.executable, *COMMAND, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), **how
    )


def finish(process, timeout=240):
    output, errors = process.communicate(timeout=timeout)
    return Done(process.returncode, output, errors)


def attempts(folder):
    """How often each task was begun, by name."""
    return {path.name: len(path.read_text().splitlines()) for path in (folder / "attempts").iterdir()}


def wait_for_attempts(folder, number, process):
    ends = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < ends:
        if (folder / "attempts").exists() and len(attempts(folder)) >= number:
            return
        time.sleep(0.05)
    raise AssertionError(finish(process).errors if process.poll() is not None else "no progress")


def kill_the_latest(folder):
    """SIGKILL to the worker that began its task last."""
    latest = max((folder / "attempts").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    os.kill(int(latest.read_text().splitlines()[-1].split()[0]), signal.SIGKILL)


def contents(cache):
    return {
        str(path.relative_to(cache)): path.read_bytes()
        for path in sorted(cache.rglob("*"))
        if path.is_file() and path.name != SPEED_NAME
    }
