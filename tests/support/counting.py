"""Tasks that note every attempt in a file of their own: which process, on which node."""

import os
import signal
import time

from sercache.extract.device_pass import run_device_pass as real_run_device_pass
from sercache.training.member import train_folds as real_train_folds

SECONDS = 0.3


def run_device_pass(device_pass, encoders=(), **options):
    note(device_pass.cache_root.parent, device_pass.tasks[0].name)
    poison = device_pass.cache_root.parent / "poison"
    if poison.exists() and poison.read_text() == device_pass.tasks[0].name:
        os.kill(os.getpid(), signal.SIGKILL)
    real_run_device_pass(device_pass, encoders, **options)


def train_folds(jobs, **options):
    note(jobs[0].run_root.parent, jobs[0].name)
    real_train_folds(jobs, **options)


def note(folder, name):
    import ray

    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"
    attempts = folder / "attempts"
    attempts.mkdir(exist_ok=True)
    with (attempts / name.replace("/", "_")).open("a") as stream:
        stream.write(f"{os.getpid()} {node}\n")
    time.sleep(SECONDS)
