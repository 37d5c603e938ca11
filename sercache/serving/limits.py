"""The limits of the server, and the checks and headers of every request."""

import ipaddress
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SAMPLES_A_SECOND = 96_000
"""Those of 48 kHz stereo; a small flac file can hold hours at 655 kHz in eight channels."""


_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self' blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a server.

    Attributes:
        max_bytes: size of an upload.
        max_seconds: duration of an upload, and of a batch together.
        timeout_seconds: from the end of an upload to its answer; uploading may take as long again.
        queue: requests that are handled at once, waiting and running ones together.
        batch: requests that are predicted together at most.
        max_text: characters of a transcript.
    """

    max_bytes: int = 25_000_000
    max_seconds: float = 300.0
    timeout_seconds: float = 60.0
    queue: int = 32
    batch: int = 8
    max_text: int = 10_000

    @property
    def max_samples(self) -> float:
        """How many samples, of all channels, are decoded of one upload."""
        return self.max_seconds * _SAMPLES_A_SECOND


class HostAndOriginCheck:
    """Refuses requests of other origins and for other hosts with 403; sets security headers on every answer.

    Args:
        app: the application behind it.
        hosts: names under which the server may be asked for, beside ``localhost`` and any IP address: a
            rebound DNS name is a name.
    """

    def __init__(self, app: "ASGIApp", hosts: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Refuse a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: "Message") -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                added = [
                    (name.encode(), value.encode())
                    for name, value in _HEADERS.items()
                    if name.encode() not in there
                ]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope["method"], headers)
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
            return
        body = json.dumps({"detail": refusal}).encode()
        start = {
            "type": "http.response.start",
            "status": 403,
            "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        }
        await send_with_headers(start)
        await send_with_headers({"type": "http.response.body", "body": body})

    def _refusal(self, method: str, headers: dict[str, str]) -> str | None:
        """Return why a request is refused, or None."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return f"unknown host '{host[:100]}': ask for localhost, or start the server with --allow-host"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return "requests of other web pages are refused"
        is_visit = method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not is_visit:
            return "requests of other web pages are refused"
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
