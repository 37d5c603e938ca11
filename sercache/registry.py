"""Find encoders, heads, losses, stackers, readers and engines by name, and import them on demand."""

import importlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from sercache.errors import SercacheError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Names and the modules of their implementations, which are imported on first use.

    A built-in is one line, ``"deepser": "sercache.heads.deepser:DeepSER"``. Another package adds to a
    registry through an entry point in the group ``sercache.<kinds>``, without a change here.

    >>> registry = Registry("codec", {"json": "json:dumps"})
    >>> registry["json"]([1])
    '[1]'
    >>> registry["jason"]
    Traceback (most recent call last):
    sercache.errors.SercacheError: unknown codec 'jason' (known: json). Did you mean 'json'?
    """

    def __init__(
        self, kind: str, targets: Mapping[str, str], error: type[SercacheError] = SercacheError
    ) -> None:
        self.kind = kind
        self._targets = dict(targets)
        self._error = error

    def __getitem__(self, name: str) -> T:
        """Return the implementation called ``name``; raise this registry's error if there is none."""
        self.check(name)
        module, _, attribute = self._all_targets()[name].partition(":")
        return cast(T, getattr(importlib.import_module(module), attribute))

    def check(self, name: str) -> None:
        """Raise this registry's error unless something is called ``name``; imports nothing."""
        targets = self._all_targets()
        if name not in targets:
            known = ", ".join(sorted(targets))
            raise self._error(f"unknown {self.kind} '{name}' (known: {known}).{did_you_mean(name, targets)}")

    def __contains__(self, name: str) -> bool:
        return name in self._targets or name in self._all_targets()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._all_targets()))

    def _all_targets(self) -> dict[str, str]:
        return self._installed | self._targets

    @cached_property
    def _installed(self) -> dict[str, str]:
        plural = f"{self.kind}es" if self.kind.endswith("s") else f"{self.kind}s"
        group = f"sercache.{plural.replace(' ', '_')}"
        return {point.name: point.value for point in entry_points(group=group)}
