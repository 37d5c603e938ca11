"""An audit: the recomputed scores of files of predictions, and the faults of these files."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sercache.corpus import Corpus
from sercache.files import without_nan
from sercache.seeds import derive_seed
from sercache.stacking.external.faults import Finding, faults_between, faults_of
from sercache.stacking.external.reading import Predictions
from sercache.stacking.external.scoring import SplitScores, score


@dataclass(frozen=True)
class AuditReport:
    """Scores by file and split, and findings; errors first."""

    scores: tuple[SplitScores, ...]
    findings: tuple[Finding, ...]

    @property
    def has_errors(self) -> bool:
        """Whether some file cannot be trusted."""
        return any(finding.severity == "error" for finding in self.findings)


def audit(
    files: Sequence[Predictions], corpus: Corpus, *, samples: int = 2000, draws: int = 200, seed: int = 0
) -> AuditReport:
    """Recompute every metric of some files, and look for faults that make metrics untrue.

    Args:
        files: as :func:`~sercache.stacking.external.reading.read_predictions` reads them.
        corpus: with the truth.
        samples: bootstrap draws of speakers for the intervals.
        draws: class-balanced draws of rows, as the test sets of challenges are drawn.
        seed: of both.
    """
    scores: list[SplitScores] = []
    for file in files:
        splits = np.asarray([corpus.by_id[row_id].split or "" for row_id in file.ids])
        for split in dict.fromkeys(splits.tolist()):
            rows = np.flatnonzero(splits == split).astype(np.int64)
            name = split or ("all" if (splits == "").all() else "no split")
            part = score(
                file,
                rows,
                name,
                corpus,
                samples=samples,
                draws=draws,
                seed=derive_seed(seed, "audit", name),
            )
            if part.rows:
                scores.append(part)
    findings = [finding for file in files for finding in faults_of(file, corpus)]
    findings += faults_between(files)
    findings.sort(key=lambda finding: finding.severity != "error")
    return AuditReport(tuple(scores), _merged(findings, len(files)))


def _merged(findings: Sequence[Finding], num_files: int) -> tuple[Finding, ...]:
    """Return each message once, with all files that it is about."""
    files: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        files.setdefault((finding.severity, finding.message), []).append(finding)
    return tuple(
        replace(
            same[0],
            file="all files" if len(same) == num_files > 1 else ", ".join(finding.file for finding in same),
        )
        for same in files.values()
    )


def as_json(report: AuditReport) -> dict[str, Any]:
    """Return all scores and findings, as JSON."""
    content: dict[str, Any] = without_nan(asdict(report))
    return content
