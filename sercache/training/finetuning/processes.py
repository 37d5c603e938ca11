"""Processes that fine-tune together, one per device, and the sum of their gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sercache.devices import resolve_device
from sercache.errors import TrainingError
from sercache.training.source import StepReport


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
        resolved = resolve_device(device)
        state: Any = PartialState(cpu=resolved == "cpu")
        is_alone = state.num_processes == 1
        return cls(
            int(state.process_index),
            int(state.num_processes),
            torch.device(resolved) if is_alone else torch.device(state.device),
            state,
        )

    @property
    def is_first(self) -> bool:
        """Whether this is the one process that writes files and reports events."""
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


_NUM_REPORTED = 3
"""Numbers of a step that are summed beside its gradients: its loss, and wishes to stop and to save."""


class SharedGradients:
    """The gradients of all that is trained, in one flat buffer: one sum over all processes, one norm.

    What a step reports is read one step late: then a GPU need not be waited for.

    Args:
        parameters: float32, on one device; their ``grad`` becomes a view of the buffer, and must stay so.
        processes: over which steps are summed.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], processes: Processes) -> None:
        self.processes = processes
        sizes = [parameter.numel() for parameter in parameters]
        # What is reported beside gradients comes last, so that one sum over the processes does for both.
        self._flat = torch.zeros(sum(sizes) + _NUM_REPORTED, device=parameters[0].device)  # (P + 3,)
        self.values = self._flat[:-_NUM_REPORTED]  # (P,)
        self._loss = torch.zeros((), device=self._flat.device)
        self._unread: tuple[Tensor, Any, int] | None = None
        for parameter, values in zip(parameters, torch.split(self.values, sizes), strict=True):
            parameter.grad = values.view_as(parameter)

    @property
    def is_alone(self) -> bool:
        """Whether this is the only process."""
        return self.processes.count == 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.processes.is_first

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.processes.wait()

    def clear(self) -> None:
        """Begin a step without gradients."""
        self._flat.zero_()
        self._loss = torch.zeros_like(self._loss)

    def add(self, loss: Tensor, rows: int, step_rows: int) -> None:
        """Add the gradients of a micro-batch's mean loss; it counts by its share of the step's rows."""
        share = loss * (rows / step_rows)
        share.backward()  # type: ignore[no-untyped-call]
        self._loss += share.detach()

    def finish_step(
        self, clip: float | None, step_rows: int, *, wants_stop: bool, wants_save: bool
    ) -> list[StepReport]:
        """Sum a step over the processes and clip it, without waiting for the device.

        Returns:
            The report of the step before it.
        """
        wishes = torch.tensor([float(wants_stop), float(wants_save)])
        reported = torch.cat([self._loss.view(1), wishes.to(self._loss, non_blocking=True)])  # (3,)
        self._flat[-_NUM_REPORTED:] = reported
        if self.processes.count > 1:
            self._flat.copy_(self.processes.add(self._flat))
        reported = self._flat[-_NUM_REPORTED:].clone()
        if clip is not None:
            self.values.mul_((clip / (self.values.norm() + 1e-6)).clamp(max=1.0))
        before = self.pending()
        copied = None
        if reported.device.type == "cuda":
            reported = reported.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._unread = (reported, copied, step_rows)
        return before

    def pending(self) -> list[StepReport]:
        """Return the report of the step that was not read yet, if there is one."""
        if self._unread is None:
            return []
        reported, copied, rows = self._unread
        self._unread = None
        if copied is not None:
            copied.synchronize()
        loss, stops, saves = reported.tolist()
        return [StepReport(loss * rows, rows, bool(stops), bool(saves))]
