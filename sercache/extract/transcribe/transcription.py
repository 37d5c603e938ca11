"""Transcribe a corpus with Whisper into a new column: resumable, with doubtful transcripts flagged."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from sercache.cache.ledger import Ledger, default_failure_limit
from sercache.cache.sources import Source, read_source
from sercache.cache.writer import cannot_write
from sercache.corpus import Corpus, Utterance
from sercache.errors import CorpusError, Interrupted, SercacheError, SilentAudioError
from sercache.events import QUIET, Context, Event
from sercache.extract.encode import EncoderInput, FailedRow, read_ahead, read_input
from sercache.extract.schedule import TimedUtterance, expected_lengths
from sercache.extract.transcribe.batches import EMPTY_TRANSCRIPT, transcribe_waveforms
from sercache.extract.transcribe.journal import Journal, Transcript
from sercache.extract.transcribe.whisper import WhisperTranscriber
from sercache.files import slug

_AHEAD_SECONDS = 300.0
_PIECES_PER_BATCH = {"cpu": 4}
_PIECES_PER_GPU_BATCH = 32


@dataclass(frozen=True, slots=True)
class TranscriptionReport:
    """The result of a transcription.

    Attributes:
        corpus: the corpus with the new column.
        column: its name.
        folder: holds the journal and ``failures.csv``.
        transcribed: utterances that were transcribed now.
        reused: utterances whose text was there before.
        failed: utterances without a text; ``failures.csv`` says why.
        flagged: ids by flag.
    """

    corpus: Corpus
    column: str
    folder: Path
    transcribed: int
    reused: int
    failed: int
    flagged: dict[str, tuple[str, ...]]


def transcribe_corpus(
    corpus: Corpus,
    transcriber: WhisperTranscriber,
    journal_root: Path,
    *,
    language: str | None = None,
    device: str = "cpu",
    max_failures: int | None = None,
    again: bool = False,
    context: Context = QUIET,
) -> TranscriptionReport:
    """Return the corpus with one more column, ``text:<model>``, and its flags, ``text:<model>:flags``.

    Audio is decoded ahead in threads; clips of similar length share a batch; recordings over 30 s are cut at
    quiet places. What is finished is in the journal: after an interruption, or for a grown corpus, only the
    rest is transcribed.

    Args:
        corpus: the utterances.
        transcriber: the model.
        journal_root: folder for the journals, one per model and language.
        language: what the transcriber was asked for; part of the journal's name.
        device: where it computes.
        max_failures: how many utterances may fail; None for 5 % of the corpus, at least 10, never all.
        again: transcribe what is in the journal once more.
        context: receives events, and says when to stop.

    Raises:
        SercacheError: too many utterances failed.
        CacheError: the journal cannot be written.
        Interrupted: ``context.should_stop`` returned True; finished batches are in the journal.
    """
    setting = hashlib.sha256(
        f"{transcriber.revision} {language} {transcriber.precision}".encode()
    ).hexdigest()[:12]
    folder = journal_root / f"{slug(transcriber.name)}-{setting}"
    work = _Transcription(
        corpus=corpus,
        transcriber=transcriber,
        journal=Journal(folder / "transcripts.jsonl"),
        ledger=Ledger(folder),
        failure_limit=default_failure_limit(len(corpus)) if max_failures is None else max_failures,
        batch_size=_PIECES_PER_BATCH.get(device, _PIECES_PER_GPU_BATCH),
        context=context,
    )
    found = {} if again else work.known()
    reused = len(found)
    pending = [utterance for utterance in corpus.utterances if utterance.id not in found]
    found |= work.run(pending)
    column = f"text:{transcriber.name}"
    transcribed, flagged = _with_transcripts(corpus, column, found)
    return TranscriptionReport(
        corpus=transcribed,
        column=column,
        folder=folder,
        transcribed=len(found) - reused,
        reused=reused,
        failed=len(corpus) - len(found),
        flagged={flag: tuple(ids) for flag, ids in flagged.items()},
    )


def _with_transcripts(
    corpus: Corpus, column: str, found: Mapping[str, Transcript]
) -> tuple[Corpus, dict[str, list[str]]]:
    """Return the corpus with the columns of texts and flags, and the ids by flag."""
    flagged: dict[str, list[str]] = {}
    rows = []
    for utterance in corpus.utterances:
        transcript = found.get(utterance.id)
        flags = ("failed",) if transcript is None else transcript.flags
        for flag in flags:
            flagged.setdefault(flag, []).append(utterance.id)
        columns = {column: transcript.text if transcript else "", f"{column}:flags": " ".join(flags)}
        rows.append(replace(utterance, extras={**utterance.extras, **columns}))
    return replace(corpus, utterances=tuple(rows)), flagged


@dataclass
class _Transcription:
    """A run of a transcriber over a corpus."""

    corpus: Corpus
    transcriber: WhisperTranscriber
    journal: Journal
    ledger: Ledger
    failure_limit: int
    batch_size: int
    context: Context
    found: dict[str, Transcript] = field(default_factory=dict)
    failed: int = 0

    def known(self) -> dict[str, Transcript]:
        """Return the transcripts that the journal holds of the corpus's very audio.

        Audio that is no longer there has not changed: its transcript stays good.
        """
        known = {}
        for utterance in self.corpus.utterances:
            try:
                transcript = self.journal.get(utterance.id, read_source(self.corpus, utterance, "audio"))
            except (OSError, CorpusError):
                transcript = self.journal.latest(utterance.id)
            if transcript is not None:
                known[utterance.id] = transcript
        return known

    def run(self, pending: Sequence[Utterance]) -> dict[str, Transcript]:
        """Transcribe utterances, the longest first; return the transcripts."""
        rows = sorted(
            expected_lengths(self.corpus, pending, "audio"), key=lambda row: (-row.seconds, row.utterance.id)
        )
        task = f"transcribe with {self.transcriber.name}"
        total = sum(row.seconds for row in rows)
        self.context.listener(Event("start", task, 0.0, total))
        ahead = read_ahead(
            self._read,
            ((row, max(row.seconds, 1.0)) for row in rows),
            limit=_AHEAD_SECONDS,
            workers=min(4, os.cpu_count() or 1),
        )
        done = 0.0
        try:
            with closing(ahead):
                for batch in self._batches(zip(rows, ahead, strict=True)):
                    if self.context.should_stop():
                        raise Interrupted(
                            f"transcribe: stopped; the transcripts are in {self.journal.path}, "
                            "the same command goes on from there"
                        )
                    self._transcribe([row for _, row in batch])
                    done += sum(planned.seconds for planned, _ in batch)
                    self._report_progress(task, done, total)
        finally:
            self._save_ledger()
        self.context.listener(Event("finish", task, total, total))
        return self.found

    def _read(self, planned: TimedUtterance) -> EncoderInput | FailedRow:
        return read_input(self.corpus, planned.utterance, self.transcriber.sample_rate_hz)

    def _batches(
        self, rows: Iterator[tuple[TimedUtterance, EncoderInput | FailedRow]]
    ) -> Iterator[list[tuple[TimedUtterance, EncoderInput | FailedRow]]]:
        """Gather rows until their pieces fill a batch."""
        batch: list[tuple[TimedUtterance, EncoderInput | FailedRow]] = []
        pieces = 0
        for pair in rows:
            batch.append(pair)
            pieces += 1 + int(pair[0].seconds // self.transcriber.longest_seconds)
            if pieces >= self.batch_size:
                yield batch
                batch, pieces = [], 0
        if batch:
            yield batch

    def _transcribe(self, batch: Sequence[EncoderInput | FailedRow]) -> None:
        transcripts: list[tuple[str, Source, Transcript]] = []
        for row in batch:
            if isinstance(row, FailedRow):
                self._record_failure(row, transcripts)
        rows = [row for row in batch if isinstance(row, EncoderInput)]
        waveforms = [row.content for row in rows if not isinstance(row.content, str)]
        made = transcribe_waveforms(self.transcriber, waveforms, self.batch_size)
        transcripts += [
            (row.utterance.id, row.source, transcript) for row, transcript in zip(rows, made, strict=True)
        ]
        try:
            self.journal.append(transcripts)
        except OSError as error:
            raise cannot_write(self.journal.path, error) from error
        for utterance_id, _, transcript in transcripts:
            self.found[utterance_id] = transcript
            self.ledger.forget(utterance_id)

    def _record_failure(self, row: FailedRow, transcripts: list[tuple[str, Source, Transcript]]) -> None:
        """A recording without any sound is transcribed: nobody speaks. All else is a failure."""
        if isinstance(row.error, SilentAudioError):
            transcripts.append(
                (row.utterance.id, read_source(self.corpus, row.utterance, "audio"), EMPTY_TRANSCRIPT)
            )
            return
        failure = self.ledger.record(row.utterance.id, row.stage, row.error, "transcribe")
        self.failed += 1
        if self.failed > self.failure_limit:
            raise SercacheError(
                f"transcribe: {self.failed} of {len(self.corpus):,} utterances failed, at most "
                f"{self.failure_limit} may (--max-failures); all are in {self.ledger.path}; the last: "
                f"'{failure.utterance}' ({failure.stage}: {failure.message})"
            )

    def _save_ledger(self) -> None:
        try:
            if self.ledger.failures:
                self.ledger.path.parent.mkdir(parents=True, exist_ok=True)
            self.ledger.save()
        except OSError as error:
            raise cannot_write(self.ledger.path, error) from error

    def _report_progress(self, task: str, done: float, total: float) -> None:
        flags = Counter(flag for transcript in self.found.values() for flag in transcript.flags)
        values: dict[str, str | int] = {"utterances": f"{len(self.found):,}", **flags}
        if self.failed:
            values["failed"] = self.failed
        self.context.listener(Event("advance", task, done, total, values=values))
