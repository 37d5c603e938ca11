"""Which hidden layers of an encoder are kept, and what they are called in a feature set.

Layer 0 is the input of the first Transformer layer, layer ``k`` the output of the ``k``-th; the top layer is
always the model's ``last_hidden_state``, that is, after a final layer norm where the model has one.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sercache.errors import EncoderError

Tensor = TypeVar("Tensor", bound=Any)


@dataclass(frozen=True, slots=True)
class LayerSelection:
    """Kept layers, resolved against one model.

    Attributes:
        groups: one entry per kept plane: the layers that are summed to it.
        num_layers: how many hidden layers the model has; its layers are 0 to ``num_layers``.
    """

    groups: tuple[tuple[int, ...], ...]
    num_layers: int

    @property
    def names(self) -> tuple[str, ...]:
        """Return the canonical names, for ``FeatureSpec.layers``: equal names mean equal frames."""
        return tuple(_name(group, self.num_layers) for group in self.groups)

    @property
    def needs_hidden_states(self) -> bool:
        """Return whether anything but the model's ``last_hidden_state`` is needed."""
        return self.groups != ((self.num_layers,),)

    def combine(self, layer: Callable[[int], Tensor]) -> list[Tensor]:
        """Return one tensor per kept plane: the sum of its group's layers, each fetched by its index."""
        planes = []
        for first, *others in self.groups:
            plane = layer(first)
            for index in others:
                plane = plane + layer(index)
            planes.append(plane)
        return planes


def parse_layers(request: str, num_layers: int) -> LayerSelection:
    """Resolve a request against a model of ``num_layers`` hidden layers, and against nothing else.

    ``last`` is the last layer, ``last4`` the **sum** of the last four, ``12`` one layer, ``8-12`` the **sum**
    of layers 8 to 12, ``6,9,12`` three planes side by side, ``all`` every layer on its own.

    >>> parse_layers("last4", 12).names, parse_layers("9-12", 12).names
    (('sum-9-12',), ('sum-9-12',))
    >>> parse_layers("0,12", 12).names
    ('layer-0', 'last')

    Raises:
        EncoderError: the request is not understood, is out of range, or names the same layers twice.
    """
    if request.strip() == "all":
        return LayerSelection(tuple((layer,) for layer in range(num_layers + 1)), num_layers)
    groups = tuple(_group(item.strip(), request, num_layers) for item in request.split(","))
    selection = LayerSelection(groups, num_layers)
    for name in selection.names:
        if selection.names.count(name) > 1:
            raise EncoderError(f"layers '{request}': asks for '{name}' twice")
    return selection


def _group(item: str, request: str, num_layers: int) -> tuple[int, ...]:
    allowed = f"this encoder has the layers 0 to {num_layers}"
    if match := re.fullmatch(r"last([1-9][0-9]*)?", item):
        count = int(match[1] or 1)
        if count > max(num_layers, 1):
            raise EncoderError(f"layers '{request}': '{item}' reaches too far back; {allowed}")
        return tuple(range(num_layers - count + 1, num_layers + 1))
    match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", item)
    if match is None:
        raise EncoderError(
            f"layers '{request}': '{item}' is not understood; "
            "write last, last4 (a sum), 12, 8-12 (a sum), 6,9,12 (each on its own) or all"
        )
    first, last = int(match[1]), int(match[2] or match[1])
    if first > last:
        raise EncoderError(f"layers '{request}': '{item}' runs backwards; write {last}-{first}")
    if last > num_layers:
        raise EncoderError(f"layers '{request}': there is no layer {last}; {allowed}")
    return tuple(range(first, last + 1))


def _name(group: tuple[int, ...], num_layers: int) -> str:
    if len(group) > 1:
        return f"sum-{group[0]}-{group[-1]}"
    return "last" if group[0] == num_layers else f"layer-{group[0]}"
