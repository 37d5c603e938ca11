"""The report of a distillation: the scores, the costs, and the sentences that they support."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sercache.evaluation.bootstrap import Difference, Estimate
from sercache.evaluation.primary import MACRO_F1, PrimaryScore
from sercache.files import without_nan
from sercache.stacking.verdict import compare_pair

_CLEAN = (
    "Evaluated on the test split: neither teacher nor student learned from any of its rows. (The teacher may "
    "have been chosen by looking at them.)"
)
_LEAK = (
    "No conclusion about the student's scores: there is no test split, and the teacher's posteriors for a "
    "student's training rows come from models that learned the labels the student is evaluated on. A student "
    "that reproduces them well reproduces those labels too, so its scores here are too high, perhaps by far. "
    "Only a corpus with a test split shows how good the student is."
)

Role = Literal["teacher", "student", "control", "best-single", "baseline"]


@dataclass(frozen=True)
class Contestant:
    """One line of the table.

    Attributes:
        role: in the comparison.
        name: of the stacker or member.
        scores: by name (:func:`sercache.stacking.table.score_names`).
        members: how many heads predict; each is the mean of its fold models.
        parameters: of these heads, all fold models together.
        encoders: that must run.
        seconds_per_minute: that they take for a minute of speech; None where it was never measured.
    """

    role: Role
    name: str
    scores: Mapping[str, Estimate]
    members: int
    parameters: int
    encoders: tuple[str, ...]
    seconds_per_minute: float | None


@dataclass(frozen=True)
class DistillationReport:
    """The comparison of a student with its teacher.

    Attributes:
        contestants: teacher, student, best single member; control and linear baseline if there are such.
        to_teacher: the primary score of the student minus the teacher's.
        to_control: minus the control's.
        teacher_to_control: of the teacher minus the control's: what there is to learn.
        kept: which share of ``teacher_to_control`` the student has; None unless that is clearly above zero,
            and where there is no test split.
        judged_on: ``held-out`` rows, or the ``folds`` in turn.
        judged_rows: how many evaluation rows all of them predicted.
        speakers: of these rows; a row without speaker counts as one.
        lessons: how many rows have teacher targets.
        votes_share: of the votes in the student's targets.
        device: on which encoding was measured.
        path: of the JSON file.
        primary: the score that decides.
        to_baseline: the primary score of the student minus the linear baseline's; None without one.
    """

    contestants: tuple[Contestant, ...]
    to_teacher: Difference
    to_control: Difference | None
    teacher_to_control: Difference | None
    kept: Estimate | None
    judged_on: Literal["held-out", "folds"]
    judged_rows: int
    speakers: int
    lessons: int
    votes_share: float
    device: str
    path: Path
    primary: PrimaryScore = MACRO_F1
    to_baseline: Difference | None = None

    @property
    def is_leaky(self) -> bool:
        """Whether the student's scores are not valid for new speakers."""
        return self.judged_on == "folds"

    def of(self, role: Role) -> Contestant | None:
        """Return the contestant of a role."""
        return next((contestant for contestant in self.contestants if contestant.role == role), None)

    @property
    def verdict(self) -> tuple[str, ...]:
        """Sentences on the differences to teacher, control and baseline, the costs and the limits."""
        teacher, student, control = self.of("teacher"), self.of("student"), self.of("control")
        assert teacher is not None
        assert student is not None
        if self.is_leaky:
            return (_LEAK, _saving(student, teacher))
        comparisons = 1 if self.to_control is None else 2
        against = (comparisons, self.primary)
        sentences = [compare_pair(student.name, teacher.name, self.to_teacher, *against)]
        if self.to_control is not None and control is not None:
            to_control = compare_pair(student.name, control.name, self.to_control, *against)
            sentences.append(f"{to_control} {self._kept_in_words()}")
        if self.to_baseline is not None:
            sentences.append(
                compare_pair(student.name, "the linear baseline", self.to_baseline, primary=self.primary)
            )
        sentences += [_saving(student, teacher), _CLEAN]
        return tuple(sentences)

    def _kept_in_words(self) -> str:
        if self.kept is None:
            return "The teacher is not clearly above the control either: there was nothing sure to be kept."
        what = "votes" if self.primary == MACRO_F1 else "ratings"
        interval = "" if math.isnan(self.kept.low) else f" [{self.kept.low:.0%}, {self.kept.high:.0%}]"
        return f"It keeps {self.kept.value:.0%}{interval} of what the teacher gains over {what} alone."


def as_json(report: DistillationReport) -> dict[str, Any]:
    """Return everything that was measured, as JSON knows it."""
    content = asdict(report) | {"verdict": report.verdict, "is_leaky": report.is_leaky}
    del content["path"], content["primary"]
    return dict(without_nan(content))


def _saving(student: Contestant, teacher: Contestant) -> str:
    heads = "1 head" if teacher.members == 1 else f"{teacher.members} heads"
    sentence = (
        f"It asks 1 head of {student.parameters:,} parameters where {teacher.name} asks {heads} of "
        f"{teacher.parameters:,}, and {_encoders(student)} where that takes {_encoders(teacher)}"
    )
    student_seconds, teacher_seconds = student.seconds_per_minute, teacher.seconds_per_minute
    if student_seconds is None or teacher_seconds is None:
        return f"{sentence}; how long these take was not measured."
    return f"{sentence}: {student_seconds:.2g} instead of {teacher_seconds:.2g} s for a minute of speech."


def _encoders(contestant: Contestant) -> str:
    count = len(contestant.encoders)
    if not count:
        return "encoders that are not known"
    return contestant.encoders[0] if count == 1 else f"{count} encoders"
