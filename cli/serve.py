"""``sercache serve``."""

from typing import Annotated

import typer


def serve(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle: its folder, or OWNER/NAME.")],
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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    encoder: Annotated[
        list[str] | None,
        typer.Option(metavar="FEATURE=WHERE", help="Where an encoder lies that is not in the bundle."),
    ] = None,
    transcriber: Annotated[
        str | None, typer.Option(help="The Whisper model for recordings without a text.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let Python code that comes with an encoder run.")
    ] = False,
) -> None:
    """Serve a page that predicts a recording, and the same as JSON.

    Drop or record a clip: probabilities, attributes, what the members think, a timeline. /docs says how
    programs ask. Recordings lie in a private temporary folder until they are answered. Ctrl-C ends it.

    Example: sercache serve demo-bundle --port 8080
    """
    from sercache.events import stop_flag
    from sercache.serving import server
    from sercache.serving.limits import Limits

    from .console import console, progress_console, progress_listener
    from .predict import named_encoders

    server.require_server()
    limits = Limits(
        max_bytes=round(max_mb * 1e6), max_seconds=max_seconds, timeout_seconds=timeout, queue=queue
    )
    with server.listen(host, port) as listening, stop_flag():
        from sercache.bundle.hub import find_bundle
        from sercache.bundle.predictor import Bundle

        with progress_listener() as listener:
            opened = Bundle.load(
                find_bundle(bundle),
                device=device,
                encoders=named_encoders(encoder or []),
                transcriber=transcriber,
                trust_remote_code=trust_remote_code,
                listener=listener,
            )
        server.refuse_speakers(opened)
        if not server.is_loopback(listening):
            progress_console.print(
                f"Listening on {host}: whoever reaches this machine may send recordings; there is no "
                "password and no encryption.",
                style="yellow",
                highlight=False,
                soft_wrap=True,
            )
        address = server.address_of(listening, host)
        console.print(
            f"{opened.name} is at [bold]{address}[/] (Ctrl-C ends it)", highlight=False, soft_wrap=True
        )
        server.serve(opened, listening, limits, allow_host or ())
