"""How the library tells of its progress: events to a listener, never a print."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to one task.

    ``kind``: ``start`` and ``finish`` come once per task; ``advance`` carries ``done`` of ``total``; ``note``
    and ``warning`` carry a ``message`` for people; ``score`` carries the scores of a member whose folds are
    all finished, and for the baseline a ``message``. ``values`` are what a live table may show
    (``{"epoch": 3, "macro_f1": 0.41}``).
    """

    kind: Literal["start", "advance", "finish", "note", "warning", "score"]
    task: str
    done: float = 0.0
    total: float | None = None
    message: str = ""
    values: Mapping[str, float | int | str] = field(default_factory=dict)


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Do nothing: the listener of those who do not listen."""
