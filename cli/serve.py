"""``sercache serve``."""

from typing import Annotated

import typer

from .console import print_warning, progress_listener
from .options import Bundle, Device, EncoderPlaces, Transcriber, TrustRemoteCode, split_pairs
from .rendering import print_line


def serve(
    bundle: Bundle,
    host: Annotated[
        str, typer.Option(help="Where to listen; another than localhost lets others in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Of one recording.")] = 25,
    max_seconds: Annotated[float, typer.Option(min=1, help="Of audio in it.")] = 300,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to an answer.")] = 60,
    queue: Annotated[int, typer.Option(min=1, help="Requests at once; more are asked to come again.")] = 32,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name under which others reach this server; repeat it."),
    ] = None,
    device: Device = "auto",
    encoder: EncoderPlaces = None,
    transcriber: Transcriber = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Serve a page that predicts a recording, and the same as JSON.

    Drop or record a clip: probabilities, attributes, what the members predict, a timeline. /docs describes
    the API. Recordings lie in a private temporary folder until they are answered. Ctrl-C ends it.

    Example: sercache serve demo-bundle --port 8080
    """
    from sercache.events import stop_flag
    from sercache.serving import server
    from sercache.serving.limits import Limits

    server.require_server()
    limits = Limits(
        max_bytes=round(max_mb * 1e6), max_seconds=max_seconds, timeout_seconds=timeout, queue=queue
    )
    with server.listen(host, port) as listening, stop_flag():
        from sercache.bundle.hub import find_bundle
        from sercache.bundle.predictor import Bundle as Predictor

        with progress_listener() as listener:
            predictor = Predictor.load(
                find_bundle(bundle),
                device=device,
                encoders=split_pairs("--encoder", encoder or (), "FEATURE=FOLDER or FEATURE=OWNER/NAME"),
                transcriber=transcriber,
                trust_remote_code=trust_remote_code,
                listener=listener,
            )
        server.refuse_speakers(predictor)
        if not server.is_loopback(listening):
            print_warning(
                f"Listening on {host}: whoever reaches this machine may send recordings; there is no "
                "password and no encryption."
            )
        address = server.address_of(listening, host)
        print_line(f"{predictor.name} is at ", (address, "bold"), " (Ctrl-C ends it)")
        server.serve(predictor, listening, limits, allow_host or ())
