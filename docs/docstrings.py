"""What turns the docstrings' roles and doctests into Markdown for the API reference (a griffe extension)."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`~?([^`]+)`")
_DOCTEST = re.compile(r"(?m)^>>> .*(?:\n(?!\n).*)*")


class Markdown(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """Return a docstring with roles as code and doctests as blocks of code.

    >>> print(as_markdown("As :func:`~a.b.c` does."))
    As `c` does.
    """
    without_roles = _ROLE.sub(lambda role: f"`{role[1].rpartition('.')[2]}`", docstring)
    return _DOCTEST.sub(lambda block: f"```pycon\n{block[0]}\n```", without_roles)
