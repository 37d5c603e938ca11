"""Engines by name."""

from collections.abc import Callable

from sercache.engines.protocol import Engine
from sercache.registry import Registry

ENGINES: Registry[Callable[[int, int], Engine]] = Registry(
    "engine",
    {
        "in-process": "sercache.engines.in_process:InProcess",
        "processes": "sercache.engines.processes:Processes",
    },
)
