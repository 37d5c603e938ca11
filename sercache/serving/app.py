"""The server's application: the page, its documentation, and the JSON interface."""

import secrets
import tempfile
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

import sercache
from sercache.serving import answers
from sercache.serving.limits import HostAndOriginCheck, Limits
from sercache.serving.requests import RequestHandler, drain
from sercache.serving.uploads import Refused
from sercache.serving.worker import Predictor, Worker

_STATIC = Path(__file__).parent / "static"
_FRESH = {"cache-control": "no-cache"}
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "The recording."},
                        "text": {"type": "string", "description": "The transcript, where it is known."},
                        "windows": {"type": "boolean", "description": "Also predict over windows."},
                    },
                }
            },
            "audio/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def create_app(predictor: Predictor, limits: Limits | None = None, hosts: Collection[str] = ()) -> FastAPI:
    """Return the application that serves a bundle.

    The worker (``state.worker``) and the private temporary folder of uploads live as long as the ASGI
    lifespan.

    Args:
        predictor: the bundle.
        limits: of the server.
        hosts: names under which the server may be asked for, beside localhost and IP addresses.
    """
    limits = limits or Limits()
    worker = Worker(predictor, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="sercache-serve-") as folder:
            app.state.handler = RequestHandler(predictor, worker, limits, Path(folder))
            worker.start()
            try:
                yield
            finally:
                worker.stop()
                worker.join()

    app = FastAPI(
        title="sercache",
        version=sercache.__version__,
        summary=f"Emotion in speech, predicted by the bundle {predictor.name}.",
        docs_url=None,  # FastAPI's own pages load their scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.worker = worker
    app.add_middleware(HostAndOriginCheck, hosts=hosts)
    app.mount("/static", _Static(directory=_STATIC), name="static")
    _add_errors(app)
    _add_pages(app)
    _add_interface(app, predictor, limits)
    return app


class _Static(StaticFiles):
    """Files that a browser asks for again each time, so that a new version never runs with old scripts."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers.update(_FRESH)
        return response


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_STATIC / "index.html", headers=_FRESH)

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> FileResponse:
        return FileResponse(_STATIC / "docs.html", headers=_FRESH)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> FileResponse:
        return FileResponse(_STATIC / "icon.svg", headers=_FRESH)


def _add_interface(app: FastAPI, predictor: Predictor, limits: Limits) -> None:
    @app.get(
        "/api/health",
        summary="Whether the server predicts",
        responses={503: {"model": answers.Refusal, "description": "It is being stopped"}},
    )
    async def health(request: Request) -> answers.Health:
        if not app.state.worker.is_alive:
            raise Refused(503, "the server is being stopped")
        handler: RequestHandler = request.app.state.handler
        return answers.Health(status="ok", requests=handler.requests, version=sercache.__version__)

    @app.get("/api/bundle", summary="The outputs of the bundle, and the limits of the server")
    async def bundle() -> answers.BundleFacts:
        return answers.bundle_facts(predictor, limits)

    @app.post(
        "/api/predict",
        summary="Predict one recording",
        openapi_extra=_UPLOAD,
        response_model=answers.Prediction,
        responses=answers.REFUSALS,
    )
    async def predict(
        request: Request,
        text: Annotated[
            str | None, Query(description="The transcript; the form's field has precedence.")
        ] = None,
        windows: Annotated[
            bool, Query(description="Also predict over windows; the form's field has precedence.")
        ] = False,
    ) -> JSONResponse:
        """Send the recording as the form field `file`, or as the body (`audio/wav`, ...).

        It is wav, flac, ogg, opus, mp3 or aiff.

        Every answer with another status than 200 has one readable line in `detail`.
        """
        handler: RequestHandler = request.app.state.handler
        answer = await handler.predict(request, secrets.token_hex(8), text, windows)
        return JSONResponse(answer, headers={"cache-control": "no-store"})


def _add_errors(app: FastAPI) -> None:
    """Answer every error with one line in ``detail``."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        await drain(request)
        return _refusal(error.status, error.detail, error.headers)

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, error: HTTPException) -> JSONResponse:
        return _refusal(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _refusal(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}", {})


def _refusal(status: int, detail: str, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, {**headers, "cache-control": "no-store"})
