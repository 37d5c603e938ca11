"""``failures.csv``: which utterances of a feature set could not be extracted, and why."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from sercache.corpus.table import dump_csv, read_table
from sercache.errors import CacheError, CorpusError
from sercache.files import locked, write_atomically

LEDGER_NAME = "failures.csv"

Stage = Literal["audio", "text", "decode", "encode"]
"""The utterance has no audio, or no text; its audio cannot be decoded; the encoder gives no usable frames."""


def default_failure_limit(corpus_size: int) -> int:
    """Return how many utterances may fail: 5 % of a corpus, but at least 10, and never all of it.

    Where all fail, something else is wrong than a few files.
    """
    return min(max(10, corpus_size // 20), max(0, corpus_size - 1))


@dataclass(frozen=True, slots=True)
class Failure:
    """A row of the ledger.

    Attributes:
        utterance: the utterance's id.
        stage: the stage at which it failed.
        exception: the class of what was raised.
        message: its message.
        attempts: how often it was tried.
        task: the task that it was part of; the utterance is not tried again once that task's shard exists.
    """

    utterance: str
    stage: str
    exception: str
    message: str
    attempts: int
    task: str


class Ledger:
    """The failures of one feature set, on disk as CSV."""

    def __init__(self, folder: Path) -> None:
        """Read the ledger of a feature set; it is empty where there is no file.

        Raises:
            CacheError: the file is not a ledger.
        """
        self.path = folder / LEDGER_NAME
        self._changes: dict[str, Failure | None] = {}
        self.failures = self._read()

    def record(self, utterance_id: str, stage: Stage, error: Exception, task: str) -> Failure:
        """Note that an utterance failed; on disk with the next :meth:`save`."""
        earlier = self.failures.get(utterance_id)
        message = " ".join(str(error).split())
        attempts = earlier.attempts + 1 if earlier else 1
        failure = Failure(utterance_id, stage, type(error).__name__, message, attempts, task)
        self.failures[utterance_id] = self._changes[utterance_id] = failure
        return failure

    def adopt(self, failure: Failure) -> None:
        """Take over a failure that another ledger holds; on disk with the next :meth:`save`."""
        self.failures[failure.utterance] = self._changes[failure.utterance] = failure

    def forget(self, utterance_id: str) -> None:
        """Note that an utterance is fine now; on disk with the next :meth:`save`."""
        if self.failures.pop(utterance_id, None):
            self._changes[utterance_id] = None

    def save(self) -> None:
        """Write what changed, atomically, over what another extraction may have written meanwhile.

        Raises:
            OSError: the disk is full or the folder is not writable.
        """
        if not self._changes:
            return
        with locked(self.path.parent):
            merged = self._read() | self._changes
            self.failures = {name: failure for name, failure in sorted(merged.items()) if failure is not None}
            rows = [[str(value) for value in asdict(failure).values()] for failure in self.failures.values()]
            write_atomically(self.path, dump_csv([field.name for field in fields(Failure)], rows))
        self._changes = {}

    def _read(self) -> dict[str, Failure]:
        if not self.path.exists():
            return {}
        try:
            table = read_table(self.path)
            rows = [dict(zip(table.header, cells, strict=True)) for cells in table.rows]
            failures = [
                Failure(
                    utterance=row["utterance"],
                    stage=row["stage"],
                    exception=row["exception"],
                    message=row["message"],
                    attempts=int(row["attempts"]),
                    task=row["task"],
                )
                for row in rows
            ]
        except (CorpusError, KeyError, ValueError) as error:
            raise CacheError(
                f"{self.path}: not a ledger of failures ({error}); remove it to go on"
            ) from error
        return {failure.utterance: failure for failure in failures}
