"""The journal of transcripts: a JSON line per utterance, on disk before the next batch begins.

The journal stays when the column is complete. A corpus that grows then costs only its new rows, and changed
audio, another model or another language never gets an old text.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from sercache.cache.sources import Source


@dataclass(frozen=True, slots=True)
class Transcript:
    """The transcript of an utterance.

    Attributes:
        text: the words; empty where nobody speaks.
        flags: what is wrong with it, for people: ``silence``, ``repeat``, ``empty``.
        language: code of the language, detected or asked for; empty for an English-only model.
        no_speech: probability that nobody speaks, the lowest of all pieces.
        mean_log_probability: of the tokens, over all pieces.
    """

    text: str
    flags: tuple[str, ...]
    language: str
    no_speech: float
    mean_log_probability: float


class Journal:
    """The transcripts of one model with one setting, by utterance id and source."""

    def __init__(self, path: Path) -> None:
        """Read a journal; a last line that a crash cut off is dropped, and so is any that is damaged."""
        self.path = path
        self._entries: dict[tuple[str, str], Transcript] = {}
        self._latest: dict[str, Transcript] = {}
        self._ends_in_newline = True
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        self._ends_in_newline = content.endswith(b"\n")
        for line in content.splitlines():
            try:
                entry = json.loads(line)
                transcript = Transcript(
                    **(entry["transcript"] | {"flags": tuple(entry["transcript"]["flags"])})
                )
                self._keep(str(entry["id"]), str(entry["source"]), transcript)
            except (ValueError, KeyError, TypeError):
                continue

    def get(self, utterance_id: str, source: Source) -> Transcript | None:
        """Return the transcript of an utterance, if it is of this very audio."""
        return self._entries.get((utterance_id, _key(source)))

    def latest(self, utterance_id: str) -> Transcript | None:
        """Return the last transcript of an utterance, whatever audio it was of."""
        return self._latest.get(utterance_id)

    def append(self, transcripts: Iterable[tuple[str, Source, Transcript]]) -> None:
        """Write transcripts down, safely.

        Raises:
            OSError: the disk is full or the folder is not writable.
        """
        lines = []
        for utterance_id, source, transcript in transcripts:
            entry = {"id": utterance_id, "source": _key(source), "transcript": asdict(transcript)}
            lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
            self._keep(utterance_id, _key(source), transcript)
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as stream:
            if not self._ends_in_newline:
                stream.write(b"\n")
            stream.write("".join(lines).encode())
            stream.flush()
            os.fsync(stream.fileno())
        self._ends_in_newline = True

    def _keep(self, utterance_id: str, key: str, transcript: Transcript) -> None:
        self._entries[utterance_id, key] = self._latest[utterance_id] = transcript


def _key(source: Source) -> str:
    return json.dumps([source.digest, source.span])
