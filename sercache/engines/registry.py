"""Engines by name."""

from collections.abc import Callable

from sercache.engines.protocol import Engine
from sercache.registry import Registry

ENGINES: Registry[Callable[[int | None, str | None], Engine]] = Registry(
    "engine",
    {
        "in-process": "sercache.engines.in_process:InProcess",
        "processes": "sercache.engines.processes:Processes",
        "ray": "sercache.engines.ray_cluster:RayCluster",
    },
)
"""``(workers, address) -> Engine``; ``workers`` None is as many as there is room for."""
