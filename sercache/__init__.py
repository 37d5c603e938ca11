"""Extract speech-emotion features once, train an ensemble from the cache, compare meta-levels honestly.

Importing this package imports neither torch nor transformers; each module loads what it needs.
"""

from typing import TYPE_CHECKING, Any

from sercache._version import __version__

if TYPE_CHECKING:
    from sercache.bundle.predictor import Bundle

__all__ = ["Bundle", "__version__"]


def __getattr__(name: str) -> Any:
    """Load :class:`~sercache.bundle.predictor.Bundle`, and torch with it, when it is first asked for."""
    if name == "Bundle":
        from sercache.bundle.predictor import Bundle

        return Bundle
    raise AttributeError(f"module 'sercache' has no attribute '{name}'")
