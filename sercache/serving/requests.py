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
"""How often those who wait look whether the server is being stopped: what runs may go on for long."""

_SHORTER = "try again, or a shorter clip"
_RESTART_SECONDS = "10"


class Reception:
    """Takes requests in, so many at once and no more.

    Args:
        predictor: the bundle; here only asked what it needs.
        worker: predicts.
        limits: what is taken on.
        folder: private; holds uploads while they are needed.
    """

    def __init__(self, predictor: Predictor, worker: Worker, limits: Limits, folder: Path) -> None:
        self._predictor = predictor
        self._worker = worker
        self._limits = limits
        self._folder = folder
        self.requests = 0
        """How many are in the house."""

    async def predict(self, request: Request, token: str, text: str | None, windows: bool) -> dict[str, Any]:
        """Answer one request with the JSON value of its prediction.

        Args:
            request: its body is the recording, or a form that holds it.
            token: names the upload among those of other requests.
            text: what is said, unless the form says it.
            windows: also over windows, unless the form says it.

        Raises:
            Refused: with the status of HTTP and one line for people.
        """
        path = self._folder / token
        with self._place():
            try:
                upload = await self._receive(request, path)
                job = await self._job(path, token, upload, text, windows)
                prediction = await self._wait(request, job, path, upload.name)
            finally:
                path.unlink(missing_ok=True)
        if isinstance(prediction, FailedClip):
            error = _without_path(prediction.error, path, upload.name)
            if job.recording.text is None and self._predictor.needs_text:
                raise Refused(422, f"{upload.name}: send what is said as 'text' ({error})")
            raise Refused(400, error)
        answer: dict[str, Any] = without_nan(prediction.as_dict())
        return answer | {"id": upload.name}

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Hold one of the places, which are few: what waits takes disk, what is decoded takes memory."""
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
        """Look at the recording and at what was asked, before anybody waits for them."""
        text = upload.fields.get("text", text or "").strip() or None
        wish = upload.fields.get("windows", "true" if windows else "").strip().lower()
        if wish not in (*_TRUE, *_FALSE):
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
        return Job(recording, Windows() if wish in _TRUE else None, header.seconds)

    async def _wait(self, request: Request, job: Job, path: Path, name: str) -> ClipPrediction | FailedClip:
        """Wait for the answer, as long as the client does and no longer than allowed."""
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
            job.abandon()
        if isinstance(error, ServingError):
            raise Refused(503, str(error), {"retry-after": _RESTART_SECONDS}) from error
        if isinstance(error, SercacheError):
            raise Refused(422, _without_path(str(error), path, name)) from error
        raise Refused(500, "something went wrong in the server; its log says what") from error


async def drain(request: Request) -> None:
    """Read what a client still sends, and drop it: one that is busy sending does not see its answer.

    Only for a moment. A client that asks first (``Expect: 100-continue``) may not have begun to send.
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
    """Yield the body; ``request.state.upload`` says whether it has begun or ended."""
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
    """Return an error's line with the sender's own name for the recording, not with the server's."""
    return line.replace(str(path), name).replace(path.name, name)
