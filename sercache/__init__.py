"""Extract speech-emotion features once, train an ensemble from the cache, compare meta-levels honestly.

Importing this package imports neither torch nor transformers; each module loads what it needs.
"""

from sercache._version import __version__

__all__ = ["__version__"]
