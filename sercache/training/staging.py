"""Host memory that batches pass through on their way to the device."""

import numpy as np
import torch
from torch import Tensor

_SLOTS = 3
"""One that is being filled, one that is being copied, one that waits."""


class StagingRing:
    """Buffers that are used in turn: pinned for a GPU, so that copies run beside everything else.

    A buffer whose copy is still under way is waited for before it is handed out again. Elsewhere copies are
    over when they return, and one buffer is enough. A fresh allocation for every batch would cost as much as
    the copy itself (page faults).

    Args:
        dtype: of the buffers.
        device: where their content goes.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device
        self._is_cuda = device.type == "cuda"
        slots = _SLOTS if self._is_cuda else 1
        self._buffers = [torch.empty(0, dtype=dtype) for _ in range(slots)]
        self._copied = [_event() if self._is_cuda else None for _ in range(slots)]
        self._slot = 0

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """Return a buffer of this shape, to be filled and then sent; its content is arbitrary."""
        self._slot = (self._slot + 1) % len(self._buffers)
        copied = self._copied[self._slot]
        if copied is not None:
            copied.synchronize()
        size = int(np.prod(shape))
        if self._buffers[self._slot].numel() < size:
            self._buffers[self._slot] = torch.empty(size, dtype=self.dtype, pin_memory=self._is_cuda)
        return self._buffers[self._slot][:size].view(shape)

    def send(self, staged: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Copy the buffer that was taken last to the device, without waiting for it.

        Args:
            staged: the buffer.
            dtype: what it becomes; for a GPU it is converted there, so that fewer bytes travel.

        Returns:
            A new tensor on the device, never the buffer itself.
        """
        if not self._is_cuda:
            return staged.to(self.device, dtype or staged.dtype, copy=True)
        sent = staged.to(self.device, non_blocking=True)
        self._mark()
        return sent.to(dtype or staged.dtype)

    def send_into(self, target: Tensor, staged: Tensor) -> None:
        """Copy the buffer that was taken last into a tensor on the device, without waiting for it."""
        target.copy_(staged, non_blocking=self._is_cuda)
        self._mark()

    def _mark(self) -> None:
        copied = self._copied[self._slot]
        if copied is not None:
            copied.record(torch.cuda.current_stream(self.device))


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]
