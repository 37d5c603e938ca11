"""Open a socket, run the HTTP server on it, and shut it down cleanly."""

import errno
import ipaddress
import socket
from collections.abc import Callable, Collection
from types import FrameType
from typing import TYPE_CHECKING

from sercache.errors import ServingError
from sercache.serving.limits import Limits

if TYPE_CHECKING:
    from sercache.serving.worker import Predictor

_GRACE_SECONDS = 5
_BACKLOG = 512


def require_server() -> None:
    """Fail early where the packages that serve are not installed.

    Raises:
        ServingError: one is missing.
    """
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ServingError(
            f"serving needs {error.name}, which is not installed: pip install 'sercache[serve]'"
        ) from None


def refuse_speakers(predictor: "Predictor") -> None:
    """Fail before anything is served if the bundle needs several recordings of a speaker.

    Raises:
        ServingError: it does.
    """
    members = predictor.description.normalized_members
    if members:
        raise ServingError(
            f"{predictor.name} cannot be served: member {members[0]} is normalised per speaker and needs "
            "several recordings of a speaker, where a server gets one at a time; use sercache predict "
            "--speaker NAME"
        )


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes any that is free.

    Raises:
        ServingError: the port is taken, or may not be used, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ServingError(f"--host {host}: no address of this machine ({error.strerror})") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise ServingError(f"port {port} of {host} is taken: choose another with --port") from error
        raise ServingError(f"cannot listen on port {port} of {host}: {error.strerror}") from error
    return listening


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine reaches the socket."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def address_of(listening: socket.socket, host: str) -> str:
    """Return the address to type into a browser on this machine."""
    if ipaddress.ip_address(listening.getsockname()[0]).is_unspecified:
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def serve(
    predictor: "Predictor", listening: socket.socket, limits: Limits, hosts: Collection[str] = ()
) -> None:
    """Answer requests until SIGINT or SIGTERM comes; then refuse waiting requests and interrupt running ones.

    Args:
        predictor: the bundle.
        listening: from :func:`listen`; closed in the end.
        limits: of the server.
        hosts: names under which the server may be asked for, beside localhost and IP addresses.
    """
    import uvicorn

    from sercache.serving.app import create_app

    app = create_app(predictor, limits, hosts)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    stop: Callable[[], None] = app.state.worker.stop

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            stop()
            super().handle_exit(sig, frame)

    try:
        Server(config).run(sockets=[listening])
    finally:
        listening.close()
