"""Collect recordings from files, folders, a manifest or a pipe, and transcribe those without a text."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from sercache.bundle.clips import Recording, Segment
from sercache.corpus import Corpus
from sercache.devices import computes_in_bfloat16
from sercache.encoders.protocol import Precision
from sercache.errors import BundleError
from sercache.extract.transcribe.batches import transcribe_waveforms
from sercache.extract.transcribe.whisper import WhisperTranscriber

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf"})
"""Suffixes of the files that are collected from folders; a file that is named may have any suffix."""

_SIGNATURES = (
    b"RIFF",
    b"RIFX",
    b"fLaC",
    b"OggS",
    b"ID3",
    b"FORM",
    b"caff",
    b".snd",
    b"\xff\xfb",
    b"\xff\xf3",
)
_PIECES_ON_CPU, _PIECES_ON_GPU = 4, 32


def recordings_at(paths: Sequence[Path], text: str | None = None) -> list[Recording]:
    """Return the recordings at ``paths``: files, and all audio files in folders and their folders, by name.

    A file that is not there is a recording too: it becomes a failed clip, and the others are predicted.

    Args:
        paths: files and folders.
        text: the transcript of the recording, where there is one recording.

    Raises:
        BundleError: a folder holds no audio, or there is a text for several recordings.
    """
    found = [file for path in paths for file in _files(path)]
    if text is not None and len(found) != 1:
        raise BundleError(
            f"a text belongs to one recording, these are {len(found)}; a manifest has texts for many"
        )
    return [Recording(str(path), path, text) for path in found]


def recordings_of(
    corpus: Corpus, split: str | None = None, text_column: str | None = None
) -> list[Recording]:
    """Return the rows of a manifest, or those of one split.

    Args:
        corpus: the manifest.
        split: ``train``, ``development`` or ``test``; None for all rows.
        text_column: the column with transcripts; None for ``text``.

    Raises:
        BundleError: there are no such rows.
        CorpusError: there is no such column.
    """
    if text_column is not None:
        corpus = corpus.with_text_of(text_column)
    rows = [row for row in corpus.utterances if split is None or (row.split or "train") == split]
    if not rows:
        raise BundleError(
            f"the manifest has no row in split '{split}'" if split else "the manifest has no row"
        )
    return [
        Recording(
            id=row.id,
            path=None if row.audio is None else corpus.audio_path(row),
            text=row.text,
            start_seconds=row.start_seconds,
            end_seconds=row.end_seconds,
            extras=row.extras,
            speaker=row.speaker,
        )
        for row in rows
    ]


def recordings_from_pipe(stream: BinaryIO, folder: Path, text: str | None = None) -> list[Recording]:
    """Return the recordings that come through a pipe: the bytes of one, or the paths of several, one a line.

    Args:
        stream: the pipe.
        folder: where the bytes of a recording are written.
        text: the transcript of the recording, where there is one recording.

    Raises:
        BundleError: the pipe holds neither audio nor paths.
    """
    content = stream.read()
    if content.startswith(_SIGNATURES):
        path = folder / "piped"
        path.write_bytes(content)
        return [Recording("-", path, text)]
    try:
        lines = [line.strip() for line in content.decode().splitlines() if line.strip()]
    except UnicodeDecodeError:
        lines = []
    if not lines:
        raise BundleError(
            "standard input holds neither a recording (wav, flac, ogg, mp3, ...) nor paths of some"
        )
    return recordings_at([Path(line) for line in lines], text)


class SegmentTranscriber:
    """A Whisper model for segments without a transcript.

    Args:
        model: hub name or folder.
        device: where it computes, as torch names it.
        language: code of the language; None to detect it, clip by clip.
        columns: of transcripts that encoders learnt from.

    Raises:
        EncoderError: it cannot be loaded, or is no Whisper model.
    """

    def __init__(self, model: str, device: str, language: str | None, columns: Collection[str]) -> None:
        precision: Precision = "bfloat16" if computes_in_bfloat16(device) else "float32"
        self._columns = columns
        self._transcriber = WhisperTranscriber(model, language=language, device=device, precision=precision)
        self._batch_size = _PIECES_ON_CPU if device == "cpu" else _PIECES_ON_GPU

    @property
    def sample_rate_hz(self) -> int:
        """The sampling rate of the audio that the model reads."""
        return self._transcriber.sample_rate_hz

    def with_transcripts(self, segments: Sequence[Segment]) -> list[Segment]:
        """Return the segments with transcripts, which are empty where nobody speaks."""
        rate = self.sample_rate_hz
        untranscribed = [
            index
            for index, segment in enumerate(segments)
            if rate in segment.waveforms and any(segment.text_for(column) is None for column in self._columns)
        ]
        transcripts = transcribe_waveforms(
            self._transcriber, [segments[index].waveforms[rate] for index in untranscribed], self._batch_size
        )
        texts = {index: transcript.text for index, transcript in zip(untranscribed, transcripts, strict=True)}
        return [
            replace(segment, texts={**segment.texts, "": texts[index]}) if texts.get(index) else segment
            for index, segment in enumerate(segments)
        ]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(
        file for file in path.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES and not file.is_dir()
    )
    if not found:
        kinds = ", ".join(sorted(AUDIO_SUFFIXES))
        raise BundleError(f"{path}: no audio files in it ({kinds}); name a file of another kind itself")
    return found
