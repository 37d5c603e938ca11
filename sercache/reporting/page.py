"""From blocks to one HTML file that needs nothing else: no network, no other file."""

import base64
import hashlib
from importlib.resources import files

from sercache.errors import ReportError
from sercache.reporting.blocks import Page


def render(page: Page) -> str:
    """Return the page as HTML.

    Everything that comes of a corpus is escaped. The page's policy forbids all connections, and lets only its
    own script run, which it names by its digest.

    Raises:
        ReportError: Jinja is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise ReportError("a report needs Jinja: pip install jinja2") from None
    environment = Environment(
        loader=PackageLoader("sercache.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = _asset("page.js"), _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "media-src 'self' file: data:; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("page.html").render(page=page, script=script, style=style, policy=policy)


def _asset(name: str) -> str:
    return (files("sercache.reporting") / "templates" / name).read_text(encoding="utf-8")
