"""Which device work runs on."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sercache.errors import SercacheError

MANY_CELLS = 2_000_000
"""Numbers in a table above which several threads gain more than they wait for each other."""


def resolve_device(name: str) -> str:
    """Return a device as torch names it; ``auto`` is a GPU if there is one, else the CPU.

    Raises:
        SercacheError: no such device here.
    """
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SercacheError(
            f"no device '{name}' here ({str(error).splitlines()[0]}); sercache doctor lists the devices"
        ) from None
    return name


def resolve_devices(names: Sequence[str]) -> list[str]:
    """Return devices as torch names them; see :func:`resolve_device`.

    Raises:
        SercacheError: none is named, or one is not here.
    """
    if not names:
        raise SercacheError("no device is named; write auto, cpu, cuda:0, or several: cuda:0,cuda:1")
    return [resolve_device(name) for name in names]


def computes_in_bfloat16(device: str) -> bool:
    """Return whether a GPU has units for bfloat16; of a CPU only a measurement tells what it is worth."""
    import torch

    kind = torch.device(device).type
    return kind == "cuda" and bool(torch.cuda.is_bf16_supported(including_emulation=False))


def usable_cores() -> int:
    """Return how many cores this process may use, a container's quota included."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


@contextmanager
def threads_worth_having(cells: int) -> Iterator[None]:
    """Let BLAS and torch work on one thread while a table is small; a large one has all.

    On a small table threads wait for each other longer than they work, on a busy machine many times longer.
    Libraries that are loaded meanwhile keep their threads.

    Args:
        cells: numbers in the table.
    """
    if cells >= MANY_CELLS:
        yield
        return
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 0
    with threadpool_limits(limits=1):
        if torch is not None:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch is not None:
                torch.set_num_threads(before)
