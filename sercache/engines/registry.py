"""The registry of engines, and the engine that a user chose."""

from collections.abc import Callable
from dataclasses import dataclass

from sercache.devices import resolve_device
from sercache.engines.protocol import Engine
from sercache.errors import SercacheError
from sercache.registry import Registry

ENGINES: Registry[Callable[[int | None, str | None], Engine]] = Registry(
    "engine",
    {
        "in-process": "sercache.engines.in_process:InProcess",
        "processes": "sercache.engines.processes:Processes",
        "ray": "sercache.engines.ray_cluster:RayCluster",
    },
)
"""``(workers, address) -> Engine``; ``workers`` None is as many as fit."""

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine by name, passed down to where tasks are made.

    Attributes:
        name: of an engine; ``auto`` lets the work decide between this process and several.
        address: of a cluster: ``auto`` for the one that this machine belongs to, ``HOST:PORT``, or
            ``ray://HOST:PORT``; None starts one here.

    Raises:
        SercacheError: there is no such engine, or it has no address.
    """

    name: str = AUTO
    address: str | None = None

    def __post_init__(self) -> None:
        if self.name != AUTO:
            ENGINES[self.name]
        if self.address is not None and not self.is_cluster:
            raise SercacheError(f"--address {self.address}: only --engine ray has one, not {self.name}")

    @property
    def is_cluster(self) -> bool:
        """Whether tasks may run on other machines, whose devices this one does not know."""
        return self.name == "ray"

    def open(self, workers: int | None, local: str) -> Engine:
        """Return the engine; ``local`` is the one that ``auto`` stands for."""
        return ENGINES[local if self.name == AUTO else self.name](workers, self.address)

    def resolve_device(self, device: str) -> str:
        """Return a device as torch names it, of this machine or of those that tasks will run on.

        Raises:
            SercacheError: there is no such device, or no such cluster.
        """
        if not self.is_cluster:
            return resolve_device(device)
        if device != AUTO:
            return device
        from sercache.engines.ray_cluster import has_gpus

        return "cuda" if has_gpus(self.address) else "cpu"


LOCAL = EngineChoice()
"""The choice where no option names an engine."""
