"""Decode a recording to a mono waveform; every defect is one :class:`AudioError` line that names the file."""

import math
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from sercache.errors import AudioError, SilentAudioError

Waveform = NDArray[np.float32]
"""Mono samples in [-1, 1], ``(S,)``."""

MINIMUM_SECONDS = 0.1
"""Shortest clip that is accepted; every encoder has at least one frame of it."""

_END_TOLERANCE_SECONDS = 0.1
"""How far a segment may reach past the end of its recording: label files round."""

_MINIMUM_RATE_HZ = 1_000
"""Below, a header is damaged: converted to an encoder's rate, seconds would become hours."""

_UNKNOWN_SIZE = 0xFFFFFFFF
"""Size of a chunk whose writer could not seek back, for example a pipe from ffmpeg."""

_OGG_PAGE_LIMIT_BYTES = 27 + 255 + 255 * 255


def load_audio(
    path: Path, sample_rate_hz: int, start_seconds: float | None = None, end_seconds: float | None = None
) -> Waveform:
    """Decode a recording, or the segment from ``start_seconds`` to ``end_seconds`` of it.

    Channels are averaged; another sampling rate is converted (soxr, high quality). The level is left alone.

    Returns:
        ``(S,)`` float32 at ``sample_rate_hz``, finite, at least ``MINIMUM_SECONDS`` long, not silent.

    Raises:
        AudioError: the file is missing, not a regular file, empty, not audio, truncated, or holds no usable
            samples; or the segment does not lie within it.
    """
    with _open(path) as recording:
        first, count = _find_segment(path, recording, start_seconds, end_seconds)
        seconds = count / recording.samplerate
        if seconds < MINIMUM_SECONDS:
            raise AudioError(f"{path}: too short ({seconds:.3f} s; at least {MINIMUM_SECONDS} s are needed)")
        samples = _read_samples(path, recording, first, count)
        source_rate_hz = recording.samplerate
    if not np.isfinite(samples).all():
        raise AudioError(f"{path}: holds samples that are not finite numbers (NaN or infinite)")
    mono = samples.mean(axis=1, dtype=np.float32)  # (S,)
    if not mono.any():
        raise SilentAudioError(f"{path}: silent (every sample is zero)")
    if source_rate_hz != sample_rate_hz:
        mono = soxr.resample(mono, source_rate_hz, sample_rate_hz, quality="HQ")
    return np.ascontiguousarray(mono, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class AudioHeader:
    """The header of a recording: ``frames`` is the number of samples in a channel."""

    frames: int
    channels: int
    sample_rate_hz: int

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return self.frames / self.sample_rate_hz


def audio_header(path: Path) -> AudioHeader:
    """Read a recording's header; nothing is decoded.

    Raises:
        AudioError: the file is missing, not a regular file, empty, not audio, or truncated.
    """
    with _open(path) as recording:
        return AudioHeader(recording.frames, recording.channels, recording.samplerate)


def audio_seconds(path: Path) -> float:
    """Return how long a recording is, from its header; nothing is decoded.

    Raises:
        AudioError: the file is missing, not a regular file, empty, not audio, or truncated.
    """
    return audio_header(path).seconds


def _open(path: Path) -> soundfile.SoundFile:
    _refuse_unusual_files(path)
    try:
        with path.open("rb") as stream:
            _refuse_truncated(path, stream)
        recording = soundfile.SoundFile(str(path))
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a name ending in .raw
        raise AudioError(
            f"{path}: not audio that can be decoded (wav, flac, ogg, opus, mp3, aiff)"
        ) from error
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror})") from error
    if recording.samplerate < _MINIMUM_RATE_HZ:
        recording.close()
        raise AudioError(
            f"{path}: {recording.samplerate} samples a second (at least {_MINIMUM_RATE_HZ} are needed)"
        )
    return recording


def _refuse_unusual_files(path: Path) -> None:
    """Raise an AudioError for what is no regular file: a FIFO or a device would hang every decoder."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise AudioError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise AudioError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from error
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{path}: a directory, not a recording")
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"{path}: not a regular file (a pipe, socket or device)")
    if status.st_size == 0:
        raise AudioError(f"{path}: an empty file (0 bytes)")


def _find_segment(
    path: Path, recording: soundfile.SoundFile, start_seconds: float | None, end_seconds: float | None
) -> tuple[int, int]:
    """Return the first sample and the number of samples asked for."""
    length_seconds = recording.frames / recording.samplerate
    start = 0.0 if start_seconds is None else start_seconds
    end = length_seconds if end_seconds is None else end_seconds
    if not (math.isfinite(start) and math.isfinite(end)) or start < 0:
        raise AudioError(f"{path}: start {start} s and end {end} s are not times in a recording")
    if start > length_seconds or end > length_seconds + _END_TOLERANCE_SECONDS:
        raise AudioError(
            f"{path}: the segment from {start:g} s to {end:g} s is not in the recording, "
            f"which is {length_seconds:.3f} s long"
        )
    if end <= start and length_seconds > 0:
        raise AudioError(f"{path}: the segment ends at {end:g} s, not after its start at {start:g} s")
    first = round(start * recording.samplerate)
    last = min(round(end * recording.samplerate), recording.frames)
    return first, last - first


def _read_samples(path: Path, recording: soundfile.SoundFile, first: int, count: int) -> NDArray[np.float32]:
    """Return ``(count, channels)`` samples; fewer than the header promises means a truncated file."""
    skipped = first if recording.format == "MP3" else 0  # an mp3 frame needs those before it: do not seek
    try:
        recording.seek(first - skipped)
        samples = recording.read(skipped + count, dtype="float32", always_2d=True)[skipped:]
    except soundfile.SoundFileError as error:
        raise AudioError(f"{path}: damaged, cannot be decoded to its end") from error
    if len(samples) < count:
        raise AudioError(f"{path}: truncated (its header promises {count} samples, {len(samples)} are there)")
    return np.asarray(samples, dtype=np.float32)


def _refuse_truncated(path: Path, stream: BinaryIO) -> None:
    """Raise an AudioError where the container promises more than the file has; decoders do not check."""
    signature = stream.read(4)
    if signature in (b"RIFF", b"RIFX"):
        promised, there = _riff_data_bytes(stream, "<" if signature == b"RIFF" else ">")
    elif signature == b"OggS":
        promised, there = _last_ogg_page_bytes(stream)
    else:
        return
    if there < promised:
        raise AudioError(f"{path}: truncated ({there:,} of {promised:,} bytes of audio are there)")


def _riff_data_bytes(stream: BinaryIO, byte_order: str) -> tuple[int, int]:
    """Return how many bytes the ``data`` chunk of a wav file promises, and how many there are."""
    size = stream.seek(0, 2)
    position = 12
    while position + 8 <= size:
        stream.seek(position)
        name, length = struct.unpack(f"{byte_order}4sI", stream.read(8))
        position += 8
        if name == b"data":
            return (0 if length == _UNKNOWN_SIZE else length), size - position
        position += length + length % 2
    return 0, 0


def _last_ogg_page_bytes(stream: BinaryIO) -> tuple[int, int]:
    """Return how many bytes the last Ogg page promises (RFC 3533, section 6), and how many there are."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - _OGG_PAGE_LIMIT_BYTES))
    tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return 28, len(page)
    return 27 + page[26] + sum(page[27 : 27 + page[26]]), len(page)
