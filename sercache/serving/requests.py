"""Handle one request: admission, upload, checks, prediction, answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request

from sercache.audio import audio_header
from sercache.bundle.clips import ClipPrediction, FailedClip, Recording, Windows
from sercache.errors import AudioError, SercacheError, ServingError
from sercache.files import without_nan
from sercache.serving.limits import Limits
from sercache.serving.uploads import Refused, Upload, receive_upload
from sercache.serving.worker import Job, Predictor, Worker

_TRUE = ("1", "true", "on", "yes")
_FALSE = ("0", "false", "off", "no", "")
_DRAIN_SECONDS = 2.0
_LOOK_SECONDS = 0.25
"""How often a waiting request checks whether the server is being stopped."""

_SHORTER = "try again, or a shorter clip"
_RESTART_SECONDS = "10"


class RequestHandler:
    """Handles prediction requests, a limited number at once.

    Args:
        predictor: the bundle; only its properties are read here.
        worker: runs the predictions.
        limits: of the server.
        folder: private; holds uploads while they are predicted.
    """

    def __init__(self, predictor: Predictor, worker: Worker, limits: Limits, folder: Path) -> None:
        self._predictor = predictor
        self._worker = worker
        self._limits = limits
        self._folder = folder
        self.requests = 0
        """How many requests are being handled."""

    async def predict(self, request: Request, token: str, text: str | None, windows: bool) -> dict[str, Any]:
        """Answer one request with the JSON value of its prediction.

        Args:
            request: its body is the recording, or a form that holds it.
            token: names the upload among those of other requests.
            text: the transcript, unless the form has it.
            windows: whether to predict over windows too, unless the form states it.

        Raises:
            Refused: with the HTTP status and one readable line.
        """
        path = self._folder / token
        with self._admit():
            try:
                upload = await self._receive(request, path)
                job = await self._job(path, token, upload, text, windows)
                prediction = await self._wait(request, job, path, upload.name)
            finally:
                path.unlink(missing_ok=True)
        if isinstance(prediction, FailedClip):
            error = _without_path(prediction.error, path, upload.name)
            if job.recording.text is None and self._predictor.needs_text:
                raise Refused(422, f"{upload.name}: send the transcript as 'text' ({error})")
            raise Refused(400, error)
        answer: dict[str, Any] = without_nan(prediction.as_dict())
        return answer | {"id": upload.name}

    @contextmanager
    def _admit(self) -> Iterator[None]:
        """Count a request in, or refuse it: waiting requests take disk, decoded ones memory."""
        if not self._worker.is_alive:
            raise _stopping()
        if self.requests >= self._limits.queue:
            seconds = str(self._worker.seconds_until_free(self.requests))
            raise Refused(
                503, f"too many requests at once; try again in {seconds} s", {"retry-after": seconds}
            )
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    async def _receive(self, request: Request, path: Path) -> Upload:
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            async with asyncio.timeout(self._limits.timeout_seconds):
                return await receive_upload(headers, _chunks(request), path, self._limits)
        except TimeoutError:
            raise Refused(408, f"the upload took longer than {self._limits.timeout_seconds:g} s") from None
        except ClientDisconnect:
            raise Refused(400, "the upload was broken off") from None

    async def _job(self, path: Path, token: str, upload: Upload, text: str | None, windows: bool) -> Job:
        """Check the recording and the fields, and return the job; invalid ones never reach the queue."""
        text = upload.fields.get("text", text or "").strip() or None
        requested = upload.fields.get("windows", "true" if windows else "").strip().lower()
        if requested not in (*_TRUE, *_FALSE):
            raise Refused(422, "windows: true or false")
        if text is not None and len(text) > self._limits.max_text:
            raise Refused(422, f"the text is longer than {self._limits.max_text:,} characters")
        try:
            header = await asyncio.to_thread(audio_header, path)
        except AudioError as error:
            raise Refused(400, _without_path(str(error), path, upload.name)) from error
        if header.seconds > self._limits.max_seconds:
            raise Refused(
                413,
                f"{upload.name}: {header.seconds:.0f} s long; "
                f"the server takes {self._limits.max_seconds:g} s",
            )
        if header.frames * header.channels > self._limits.max_samples:
            raise Refused(
                413,
                f"{upload.name}: {header.frames * header.channels:,} samples in {header.channels} channels; "
                f"the server takes {self._limits.max_samples:,.0f}",
            )
        recording = Recording(id=token, path=path, text=text)
        return Job(recording, Windows() if requested in _TRUE else None, header.seconds)

    async def _wait(self, request: Request, job: Job, path: Path, name: str) -> ClipPrediction | FailedClip:
        """Wait for the answer until the client disconnects or the time limit is reached."""
        self._worker.submit(job)
        answer = asyncio.wrap_future(job.answer)
        gone = asyncio.ensure_future(_disconnected(request))
        deadline = time.monotonic() + self._limits.timeout_seconds
        try:
            while not (answer.done() or gone.done()):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Refused(504, f"no answer within {self._limits.timeout_seconds:g} s; {_SHORTER}")
                if not self._worker.is_alive:
                    raise _stopping()
                await asyncio.wait(
                    (answer, gone), timeout=min(left, _LOOK_SECONDS), return_when=asyncio.FIRST_COMPLETED
                )
            if not answer.done():
                raise Refused(400, "the request was broken off")
            error = answer.exception()
            if error is None:
                return answer.result()
        finally:
            gone.cancel()
            answer.cancel()
            job.cancel()
        if isinstance(error, ServingError):
            raise Refused(503, str(error), {"retry-after": _RESTART_SECONDS}) from error
        if isinstance(error, SercacheError):
            raise Refused(422, _without_path(str(error), path, name)) from error
        raise Refused(500, "an error occurred in the server; see its log") from error


async def drain(request: Request) -> None:
    """Read and drop the rest of an upload: a client reads its answer only after it has sent all.

    For two seconds at most. A client that asks first (``Expect: 100-continue``) may not have begun to send.
    """
    asks_first = request.headers.get("expect", "").lower() == "100-continue"
    progress = getattr(request.state, "upload", None)
    if progress == "ended" or (progress is None and asks_first):
        return
    with suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in _chunks(request):
                pass


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """Yield the body; ``request.state.upload`` records whether it has begun or ended."""
    is_last = False
    while not is_last:
        request.state.upload = "begun"
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        is_last = not message.get("more_body", False)
        if is_last:
            request.state.upload = "ended"
        yield message.get("body", b"")


async def _disconnected(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _stopping() -> Refused:
    return Refused(503, "the server is being stopped", {"retry-after": _RESTART_SECONDS})


def _without_path(line: str, path: Path, name: str) -> str:
    """Return an error's line with the sender's file name instead of the server's path."""
    return line.replace(str(path), name).replace(path.name, name)
