"""The processes that fine-tune together, one for each device: how they add up and wait for each other."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
