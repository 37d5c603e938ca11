"""The recordings that a user asks for: files, folders, a manifest or a pipe; transcribed if without text."""

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from sercache.bundle.clips import ClipPrediction, FailedClip, Recording, Segment, WindowPrediction
from sercache.corpus import Corpus
from sercache.devices import computes_in_bfloat16
from sercache.encoders.protocol import Precision
from sercache.errors import BundleError
from sercache.extract.transcribe.batches import transcribe_waveforms
from sercache.extract.transcribe.whisper import WhisperTranscriber

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf"})
"""Of files that are looked for in folders; a file that is named is tried whatever it is called."""

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


def recordings_at(paths: Sequence[Path], text: str | None = None) -> list[Recording]:
    """Return the recordings at ``paths``: files, and all audio files in folders and their folders, by name.

    A file that is not there is a recording too: it becomes a failed clip, and the others are predicted.

    Args:
        paths: files and folders.
        text: what is said in the one recording.

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
        text_column: the column with what is said; None for ``text``.

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
    """Return what comes through a pipe: one recording's bytes, or the paths of recordings, one a line.

    Args:
        stream: the pipe.
        folder: where the bytes of a recording may lie while it is predicted.
        text: what is said in the one recording.

    Raises:
        BundleError: nothing came, or neither audio nor paths.
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


def as_csv(
    answers: Iterator[ClipPrediction | FailedClip], classes: Sequence[str], attributes: Sequence[str]
) -> Iterator[str]:
    """Yield the lines of a table: one per recording, or one per window where there are windows.

    ``sercache audit`` and ``sercache stack --predictions`` read it.
    """
    columns = ["id", "start", "end", *(["label"] if classes else []), *(f"p:{name}" for name in classes)]
    columns += [f"attribute:{name}" for name in attributes]
    columns += ["conformal_set"] if classes else []
    columns += ["disagreement", "seconds", "text", "notes", "error"]
    yield _line(columns)
    for answer in answers:
        if isinstance(answer, FailedClip):
            yield _line([answer.id, *[""] * (len(columns) - 2), answer.error])
            continue
        rest = [
            *([" ".join(answer.conformal_set)] if classes else []),
            f"{answer.disagreement:.6f}",
            "" if answer.seconds != answer.seconds else f"{answer.seconds:.3f}",
            answer.text or "",
            "; ".join(answer.notes),
            "",
        ]
        for part in answer.windows or (answer,):
            span = ["", ""]
            if isinstance(part, WindowPrediction):
                span = [f"{part.start_seconds:.3f}", f"{part.end_seconds:.3f}"]
            numbers = [*part.probabilities.values(), *part.attributes.values()]
            label = [part.label or ""] if classes else []
            yield _line([answer.id, *span, *label, *(f"{number:.6f}" for number in numbers), *rest])


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


def _line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


_PIECES_ON_CPU, _PIECES_ON_GPU = 4, 32


class Listening:
    """A Whisper model, for segments whose words are not known.

    Args:
        model: hub name or folder.
        device: where it computes, as torch names it.
        language: code of the language; None to detect it, clip by clip.
        columns: of transcripts, that encoders learnt from.

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
        """What audio must be resampled to."""
        return self._transcriber.sample_rate_hz

    def with_words(self, segments: Sequence[Segment]) -> list[Segment]:
        """Return the segments, each with its words unless nobody speaks in it."""
        rate = self.sample_rate_hz
        silent = [
            place
            for place, one in enumerate(segments)
            if rate in one.waveforms and any(one.words_of(column) is None for column in self._columns)
        ]
        heard = transcribe_waveforms(
            self._transcriber, [segments[place].waveforms[rate] for place in silent], self._batch_size
        )
        texts = {place: transcript.text for place, transcript in zip(silent, heard, strict=True)}
        return [
            replace(one, words={**one.words, "": texts[place]}) if texts.get(place) else one
            for place, one in enumerate(segments)
        ]
