"""What the system should read from disk ahead of its use, and when it is worth telling it."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

try:
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]

Batch = TypeVar("Batch")

LOOK_AHEAD = 4
"""Batches; one keeps a disk half busy, eight gain nothing over four."""

_TRIALS = 8
_PROBE_EVERY = 64


def look_ahead(batches: Sequence[Batch]) -> Iterator[tuple[Batch, Sequence[Batch]]]:
    """Yield each batch, and which batches to announce before it is read; every batch is announced once.

    >>> [(batch, len(announced)) for batch, announced in look_ahead("abcdefg")]
    [('a', 5), ('b', 1), ('c', 1), ('d', 0), ('e', 0), ('f', 0), ('g', 0)]
    """
    for number, batch in enumerate(batches):
        first = number + LOOK_AHEAD if number else 0
        yield batch, batches[first : number + LOOK_AHEAD + 1]


class DiskWatch:
    """Says whether announcements are worth their price.

    To announce frames that are in memory already costs a third of copying them. So while this process has
    nothing read from disk, by announcements or by touching what was not announced, one in 64 is made.
    """

    def __init__(self) -> None:
        self._seen = -1
        self._quiet = 0

    def expects_reads(self) -> bool:
        """Return whether what is wanted next may have to come from disk; call it once per announcement."""
        if resource is None:
            return True
        usage = resource.getrusage(resource.RUSAGE_SELF)
        if (reads := usage.ru_inblock + usage.ru_majflt) != self._seen:
            self._seen, self._quiet = reads, 0
        self._quiet += 1
        return self._quiet <= _TRIALS or self._quiet % _PROBE_EVERY == 0
