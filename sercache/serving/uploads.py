"""Write an upload to disk in chunks, within the limits of the server."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from sercache.serving.limits import Limits

_DEFAULT_NAME = "recording"
_LONGEST_NAME = 100
_LONGEST_HEADER = 8_192
_BYTES_PER_CHARACTER = 4
_MULTIPART_OVERHEAD_BYTES = 65_536
_RAW_TYPES = re.compile(r"(audio/[\w.+-]+|video/(ogg|webm|mp4)|application/(ogg|octet-stream))?")


class Refused(Exception):
    """A request that the server refuses.

    Attributes:
        status: the HTTP status.
        detail: one readable line.
        headers: of the answer.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


@dataclass
class Upload:
    """The content of one request.

    Attributes:
        name: of the recording, for display only; never a path.
        fields: the form's other fields.
        size_bytes: how much of the recording was written.
    """

    name: str = _DEFAULT_NAME
    fields: dict[str, str] = field(default_factory=dict)
    size_bytes: int = 0


async def receive_upload(
    headers: Mapping[str, str], chunks: AsyncIterator[bytes], path: Path, limits: Limits
) -> Upload:
    """Write the recording in a request to ``path``: the form's field ``file``, or the whole body.

    Args:
        headers: of the request, names in lower case.
        chunks: its body.
        path: a new file; the name that the sender gives plays no part in it.
        limits: of these ``max_bytes`` and ``max_text``.

    Raises:
        Refused: too large (413), of a type that is no recording (415), or a form that is not as it should be
            (400, 422).
    """
    content_type, options = parse_options_header(headers.get("content-type", ""))
    is_form = content_type.lower() == b"multipart/form-data"
    if not is_form and not _RAW_TYPES.fullmatch(content_type.decode("latin-1").lower()):
        raise Refused(415, "send a recording as multipart/form-data (field 'file') or as audio/*")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "send the recording as it is, without a Content-Encoding")
    allowed = (
        limits.max_bytes + (_MULTIPART_OVERHEAD_BYTES + _BYTES_PER_CHARACTER * limits.max_text) * is_form
    )
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > allowed:
        raise too_large(limits)
    received = 0
    with path.open("xb") as stream:
        body = _Form(options.get(b"boundary", b""), stream, limits) if is_form else _Raw(stream, limits)
        async for chunk in chunks:
            received += len(chunk)
            if received > allowed:
                raise too_large(limits)
            body.feed(chunk)
        return body.finish()


def too_large(limits: Limits) -> Refused:
    """Return the refusal of an upload that is larger than allowed."""
    return Refused(413, f"the recording is larger than {limits.max_bytes / 1e6:g} MB")


def shown_name(name: str) -> str:
    r"""Return a file name that may be shown to people: no folders, nothing unprintable, not endless.

    >>> shown_name("../../etc/passwd"), shown_name("C:\\clips\\a.wav"), shown_name("..")
    ('passwd', 'a.wav', 'recording')
    """
    last = re.split(r"[/\\]", name)[-1]
    printable = "".join(character for character in last if character.isprintable()).strip(". ")
    return printable[:_LONGEST_NAME] or _DEFAULT_NAME


class _Raw:
    """A body that is the recording itself."""

    def __init__(self, stream: BinaryIO, limits: Limits) -> None:
        self._stream = stream
        self._upload = Upload()

    def feed(self, chunk: bytes) -> None:
        self._upload.size_bytes += self._stream.write(chunk)

    def finish(self) -> Upload:
        return self._upload


class _Form:
    """A multipart form (RFC 7578): the field ``file`` goes to the disk, the others are short."""

    def __init__(self, boundary: bytes, stream: BinaryIO, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._upload = Upload()
        self._name: str | None = None
        self._value = bytearray()
        self._header = (bytearray(), bytearray())
        self._has_file = self._is_complete = False
        callbacks: dict[str, Callable[..., None]] = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._grow(self._header[0], data[start:end]),
            "on_header_value": lambda data, start, end: self._grow(self._header[1], data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._take(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._complete,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except MultipartParseError as error:
            raise Refused(400, "the form is damaged (no boundary)") from error

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise Refused(400, "the form is damaged") from error

    def finish(self) -> Upload:
        if not self._is_complete:
            raise Refused(400, "the form is cut short")
        if not self._has_file:
            raise Refused(422, "the form has no recording: send it in the field 'file'")
        return self._upload

    def _begin(self) -> None:
        self._name = None
        self._value.clear()

    def _grow(self, header: bytearray, more: bytes) -> None:
        header += more
        if len(header) > _LONGEST_HEADER:
            raise Refused(400, "the form is damaged (a header without end)")

    def _end_header(self) -> None:
        name, value = (bytes(part) for part in self._header)
        for part in self._header:
            part.clear()
        if name.lower() != b"content-disposition":
            return
        _, options = parse_options_header(value)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == "file":
            if self._has_file:
                raise Refused(422, "the form has several recordings: send one at a time")
            self._has_file = True
            self._upload.name = shown_name(options.get(b"filename", b"").decode("utf-8", "replace"))
        elif self._name not in ("text", "windows"):
            raise Refused(422, "the form has a field that is unknown (there are: file, text, windows)")

    def _take(self, more: bytes) -> None:
        if self._name == "file":
            self._upload.size_bytes += self._stream.write(more)
            if self._upload.size_bytes > self._limits.max_bytes:
                raise too_large(self._limits)
        else:
            self._value += more
            if len(self._value) > _BYTES_PER_CHARACTER * self._limits.max_text:
                raise Refused(422, f"the text is longer than {self._limits.max_text:,} characters")

    def _end(self) -> None:
        if self._name is None:
            raise Refused(400, "the form is damaged (a part without a name)")
        if self._name != "file":
            self._upload.fields[self._name] = self._value.decode("utf-8", "replace")

    def _complete(self) -> None:
        self._is_complete = True
