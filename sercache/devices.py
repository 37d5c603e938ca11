"""Choose devices and threads, and diagnose what is installed."""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sercache
from sercache.errors import SercacheError

MANY_CELLS = 2_000_000
"""Numbers in a table above which several threads are faster than one."""


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
    """Return whether a device is a GPU with units for bfloat16; a CPU's speed has to be measured."""
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
def threads_for_table(cells: int) -> Iterator[None]:
    """Limit BLAS and torch to one thread while a table is small.

    On a small table threads wait for each other longer than they compute, above all on a busy machine.
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


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis; ``advice`` is empty where nothing is to be done."""

    topic: str
    name: str
    value: str
    advice: str = ""
    is_blocking: bool = False


def diagnose(folder: Path) -> list[Finding]:
    """Return versions, devices, free disk under ``folder``, and what is missing with what to do about it."""
    return [*_versions(), *_devices(), *_disk(folder), *_hub()]


def _versions() -> list[Finding]:
    findings = [
        Finding("version", "sercache", sercache.__version__),
        Finding("version", "python", platform.python_version()),
    ]
    for requirement in importlib.metadata.requires("sercache") or []:
        if "extra ==" in requirement:
            continue
        name, minimum = re.match(r"([A-Za-z0-9_.-]+)(?:>=([0-9.]+))?", requirement).groups()  # type: ignore[union-attr]
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding("version", name, "missing", f"pip install '{requirement}'", True))
            continue
        is_old = bool(minimum) and _numbers(installed) < _numbers(minimum)
        advice = f"needs {minimum} or newer: pip install -U '{requirement}'" if is_old else ""
        findings.append(Finding("version", name, installed, advice, is_old))
    return findings


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def _devices() -> list[Finding]:
    findings = [Finding("device", "cpu", f"{usable_cores()} cores usable of {os.cpu_count()}, {_memory()}")]
    try:
        import torch
    except ImportError:
        return findings
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        size = f"{properties.total_memory / 2**30:.0f} GiB"
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        findings.append(Finding("device", f"cuda:{index}", f"{properties.name}, {size}, {bf16}"))
    if torch.backends.mps.is_available():
        findings.append(Finding("device", "mps", "Apple GPU"))
    if len(findings) == 1:
        advice = "large encoders are slow on a CPU; for a GPU install the torch build that matches its driver"
        findings.append(Finding("device", "gpu", "none found", advice))
    return findings


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return "memory unknown"
    return f"{size / 2**30:.0f} GiB memory"


def _disk(folder: Path) -> list[Finding]:
    free = shutil.disk_usage(folder).free / 1e9
    advice = "features of one large encoder take about 0.4 GB per hour of speech" if free < 20 else ""
    findings = [Finding("disk", str(folder.resolve()), f"{free:.0f} GB free", advice)]
    if not os.access(folder, os.W_OK):
        findings.append(
            Finding("disk", str(folder.resolve()), "not writable", "change to another folder", True)
        )
    return findings


def _hub() -> list[Finding]:
    from huggingface_hub import constants

    cached = sum(1 for path in Path(constants.HF_HUB_CACHE).glob("models--*"))
    if constants.HF_HUB_OFFLINE:
        advice = "only downloaded models and local folders load; unset HF_HUB_OFFLINE to download"
        return [Finding("hub", "model hub", f"offline, {cached} models downloaded", advice)]
    return [Finding("hub", "model hub", f"online allowed, {cached} models downloaded")]
