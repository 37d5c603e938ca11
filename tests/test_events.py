import os
import signal
import subprocess
import sys
import threading

import pytest

from sercache.events import stop_flag


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sets_the_flag_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with stop_flag() as should_stop:
        assert not should_stop()
        os.kill(os.getpid(), number)
        assert should_stop()
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_the_process():
    code = (
        "import os, signal; from sercache.events import stop_flag\n"
        "with stop_flag():\n"
        "    os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT)\n"
        "    raise SystemExit('still here')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGINT


def test_other_threads_are_never_told_to_stop():
    seen = []

    def work():
        with stop_flag() as should_stop:
            seen.append(should_stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
