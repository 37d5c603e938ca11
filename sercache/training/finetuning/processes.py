"""Processes that fine-tune together, one per device, and the sum of their gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sercache.devices import resolve_device
from sercache.errors import TrainingError


@dataclass(frozen=True)
class Processes:
    """This process among those that ``accelerate launch`` or ``torchrun`` started; or alone.

    Attributes:
        rank: number of this process, from 0.
        count: of all processes.
        device: what this one computes on.
    """

    rank: int
    count: int
    device: torch.device
    _state: Any

    @classmethod
    def join(cls, device: str = "auto") -> "Processes":
        """Find the others, through accelerate.

        Args:
            device: ``auto``, or a device as torch names it; of several processes each has its own GPU, unless
                this is ``cpu``.

        Raises:
            TrainingError: accelerate is not installed.
            SercacheError: there is no such device.
        """
        try:
            from accelerate import PartialState
        except ImportError:
            raise TrainingError(
                "fine-tuning needs accelerate; install it with: pip install 'sercache[finetune]'"
            ) from None
        place = resolve_device(device)
        state: Any = PartialState(cpu=place == "cpu")
        is_alone = state.num_processes == 1
        return cls(
            int(state.process_index),
            int(state.num_processes),
            torch.device(place) if is_alone else torch.device(state.device),
            state,
        )

    @property
    def is_first(self) -> bool:
        """Whether this is the one process that writes files and speaks."""
        return self.rank == 0

    def add(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, the same in each of them."""
        if self.count == 1:
            return values
        from accelerate.utils import reduce

        total: Tensor = reduce(values, reduction="sum")
        return total

    def wait(self) -> None:
        """Wait until all processes are here."""
        self._state.wait_for_everyone()

    def leave(self) -> None:
        """End the group of processes; this one goes on alone."""
        if self.count > 1:
            self._state.destroy_process_group()


_TOLD = 3
"""Numbers that a step tells beside its gradients."""


class Told(NamedTuple):
    """What all processes told of one step, added up.

    Attributes:
        loss: of its rows.
        stops: how many want to stop.
        saves: how many want the state to be saved.
        rows: of the step.
    """

    loss: float
    stops: float
    saves: float
    rows: int


class Gradients:
    """The gradients of all that is trained, in one flat buffer: one sum over all processes, one norm.

    Args:
        parameters: float32, on one device; their ``grad`` becomes a view of the buffer, and must stay so.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        sizes = [parameter.numel() for parameter in parameters]
        # What processes tell each other beside gradients comes last, so that one sum does for both.
        self._flat = torch.zeros(sum(sizes) + _TOLD, device=parameters[0].device)
        self._values = self._flat[:-_TOLD]
        for parameter, own in zip(parameters, torch.split(self._values, sizes), strict=True):
            parameter.grad = own.view_as(parameter)

    def clear(self) -> None:
        """Begin a step."""
        self._flat.zero_()

    def add_up(self, processes: Processes, told: Tensor) -> Tensor:
        """Sum the gradients over all processes, and with them ``told`` ``(3,)``, whose sum is returned."""
        self._flat[-_TOLD:] = told
        if processes.count > 1:
            self._flat.copy_(processes.add(self._flat))
        return self._flat[-_TOLD:].clone()

    def clip(self, most: float | None) -> None:
        """Scale all gradients down so that their norm is at most ``most``; without waiting for the device."""
        if most is not None:
            self._values.mul_((most / (self._values.norm() + 1e-6)).clamp(max=1.0))


class StepNews:
    """What each step tells, read one step late: then a GPU need not be waited for."""

    def __init__(self) -> None:
        self._waiting: tuple[Tensor, Any, int] | None = None

    def exchange(self, told: Tensor, rows: int) -> list[Told]:
        """Begin to read what a step of so many rows told, ``(3,)``; return what the step before it did."""
        before = self.rest()
        copied = None
        if told.device.type == "cuda":
            told = told.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._waiting = (told, copied, rows)
        return before

    def rest(self) -> list[Told]:
        """Return what the step told that was not read yet, if there is one."""
        if self._waiting is None:
            return []
        told, copied, rows = self._waiting
        self._waiting = None
        if copied is not None:
            copied.synchronize()
        loss, stops, saves = told.tolist()
        return [Told(loss, stops, saves, rows)]
