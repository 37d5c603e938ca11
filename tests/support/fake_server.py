"""Serve a fake bundle: ``python -m support.fake_server PAUSE_SECONDS QUEUE MAX_BYTES``."""

import sys

from sercache.events import stop_flag
from sercache.serving import server
from sercache.serving.limits import Limits
from support.fake_bundle import FakeBundle

if __name__ == "__main__":
    pause, queue, max_bytes = sys.argv[1:]
    with stop_flag():
        listening = server.listen("127.0.0.1", 0)
        print(server.address_of(listening, "127.0.0.1"), flush=True)
        limits = Limits(queue=int(queue), max_bytes=int(max_bytes))
        server.serve(FakeBundle(pause_seconds=float(pause)), listening, limits)
    print("ended", flush=True)
