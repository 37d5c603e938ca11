"""Parts of the tasks for the commands of a job array, which know nothing of one another."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sercache.errors import SercacheError

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class TaskRange:
    """Part ``number`` of ``count``; all parts together are everything, and no two share a task.

    >>> TaskRange(2, 3).part(["a", "b", "c", "d", "e"])
    ['b', 'e']
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def part(self, tasks: Sequence[Item]) -> list[Item]:
        """Return the tasks of this part; the list must be the same for all parts."""
        return list(tasks[self.number - 1 :: self.count])


def parse_task_range(text: str, environment: Mapping[str, str]) -> TaskRange:
    """Return the range that ``3/16``, ``env`` or ``env/16`` means.

    ``env`` reads what Slurm, SGE, PBS or LSF tells a job of an array. PBS does not tell how many there are:
    ``env/16`` does.

    >>> parse_task_range("3/16", {})
    TaskRange(number=3, count=16)
    >>> job = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_MAX": "11"}
    >>> parse_task_range("env", job)
    TaskRange(number=2, count=8)

    Raises:
        SercacheError: the text is not understood, or there is no job array.
    """
    if match := re.fullmatch(r"env(?:/(\d+))?", text):
        return _from_environment(environment, int(match[1]) if match[1] else None)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise SercacheError(
            f"--task-range {text}: write 3/16 for the third of 16 parts, or env in a job array"
        )
    return TaskRange(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class _Array:
    """The variables in which a scheduler gives a job's number, the first, the last, and the step."""

    number: str
    first: str = ""
    last: str = ""
    step: str = ""


_ARRAYS = (
    _Array("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP"),
    _Array("SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE"),
    _Array("PBS_ARRAY_INDEX"),
    _Array("PBS_ARRAYID"),
    _Array("LSB_JOBINDEX", last="LSB_JOBINDEX_END", step="LSB_JOBINDEX_STEP"),
)


def _from_environment(environment: Mapping[str, str], count: int | None) -> TaskRange:
    def read(name: str) -> int | None:
        value = environment.get(name, "")
        return int(value) if value.isdecimal() else None

    for array in _ARRAYS:
        number = read(array.number)
        if number is None or (array.number == "LSB_JOBINDEX" and number == 0):  # LSF's outside an array
            continue
        if count is not None:
            return TaskRange(number % count + 1, count)
        first, last, step = read(array.first), read(array.last), read(array.step) or 1
        if last is None:
            raise SercacheError(
                f"--task-range env: {array.number} is {number}, but of how many? env/16 is of 16 jobs"
            )
        first = 1 if first is None else first
        index, jobs = (number - first) // step + 1, (last - first) // step + 1
        if not 1 <= index <= jobs:
            raise SercacheError(f"--task-range env: {array.number} is {number}, not from {first} to {last}")
        return TaskRange(index, jobs)
    raise SercacheError(
        "--task-range env: no job array here (no SLURM_ARRAY_TASK_ID, SGE_TASK_ID, PBS_ARRAY_INDEX or "
        "LSB_JOBINDEX); write 3/16 for the third of 16 parts"
    )
