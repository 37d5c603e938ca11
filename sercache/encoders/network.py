"""The forward pass that all transformers encoders share, and batches of bounded size."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from sercache.cache.layers import LayerSelection
from sercache.encoders.protocol import Precision
from sercache.errors import EncoderError

Fetch = Callable[[], Tensor]
"""Waits for a batch and returns its planes in main memory: ``(L, B, T, D)`` float32."""


class EncoderNetwork:
    """A model on its device that turns input tensors into the kept layers.

    On a GPU nothing here waits: inputs go over from pinned memory, planes come back into pinned memory on a
    stream of their own, and only the fetch waits for them. So the next batch computes meanwhile.
    :meth:`planes` stays on the device and gives gradients to what is not frozen.

    Args:
        name: the encoder's name, for messages.
        model: a transformers encoder in evaluation mode.
        selection: which layers to keep; those of a group are summed on the device, in float32.
        device: where to compute, as torch names it.
        precision: ``bfloat16`` runs the forward pass under autocast.

    Attributes:
        model: the model, on the device.
        parameter_count: how many parameters it has.
    """

    def __init__(
        self, name: str, model: Any, selection: LayerSelection, device: str, precision: Precision
    ) -> None:
        self.name = name
        self._selection = selection
        self._precision = precision
        self.parameter_count: int = sum(parameter.numel() for parameter in model.parameters())
        try:
            self._device = torch.device(device)
            self.model: Any = model.to(self._device)
            is_cuda = self._device.type == "cuda"
            self._copies: Any = torch.cuda.Stream(self._device) if is_cuda else None  # type: ignore[no-untyped-call]
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise EncoderError(f"encoder '{name}' cannot be put on device '{device}' ({reason})") from error

    @property
    def is_on_cpu(self) -> bool:
        """Return whether the network computes on the CPU, where small batches are the fastest."""
        return self._device.type == "cpu"

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run a batch and wait for it; see :meth:`begin`."""
        return self.begin(inputs)()

    @torch.inference_mode()
    def begin(self, inputs: Mapping[str, Tensor]) -> Fetch:
        """Begin a batch; call the result to wait for it.

        Args:
            inputs: the model's keyword arguments, tensors in main memory with the batch first.

        Returns:
            what fetches ``(L, B, T, D)`` float32 planes, from any thread.
        """
        planes = self.planes(inputs)
        if self._copies is None:
            planes = planes.cpu()
            return lambda: planes
        self._copies.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._copies):
            fetched = torch.empty(planes.shape, dtype=planes.dtype, pin_memory=True)  # (L, B, T, D)
            fetched.copy_(planes, non_blocking=True)
            planes.record_stream(self._copies)
            copied = self._copies.record_event()

        def fetch() -> Tensor:
            copied.synchronize()
            return fetched

        return fetch

    def _moved(self, tensor: Tensor) -> Tensor:
        if self._device.type != "cuda":
            return tensor.to(self._device)
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def planes(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return a batch's ``(L, B, T, D)`` float32 planes on the device, with gradients where wanted.

        Args:
            inputs: as for :meth:`begin`.
        """
        inputs = {key: self._moved(tensor) for key, tensor in inputs.items()}
        autocast = torch.autocast(self._device.type, torch.bfloat16)
        with autocast if self._precision == "bfloat16" else nullcontext():
            output = self.model(**inputs, output_hidden_states=self._selection.needs_hidden_states)
        hidden_states: Any = output.hidden_states if self._selection.needs_hidden_states else None
        top = self._selection.num_layers
        if hidden_states is not None and len(hidden_states) != top + 1:
            raise EncoderError(
                f"encoder '{self.name}' gives {len(hidden_states)} hidden states, "
                f"its config promises {top + 1}"
            )

        def layer(index: int) -> Tensor:
            # hidden_states[-1] lies before or after the final norm, depending on the transformers version
            state = output.last_hidden_state if index == top else hidden_states[index]
            return state.float()  # type: ignore[no-any-return]  # (B, T, D)

        return torch.stack(self._selection.combine(layer))  # (L, B, T, D)


def batches_by_length(lengths: Sequence[int], limit: float) -> list[list[int]]:
    """Group inputs of similar length, longest first, so that a padded batch stays within ``limit``.

    >>> batches_by_length([5, 1, 4, 1], limit=10)
    [[0, 2], [1, 3]]

    Args:
        lengths: ``(N,)`` length of each input.
        limit: greatest product of a batch's size and its longest length; a longer input goes alone.

    Returns:
        Indices of the inputs; each occurs once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= limit
        if fits:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
