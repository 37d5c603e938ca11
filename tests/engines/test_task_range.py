import pytest
from hypothesis import given
from hypothesis import strategies as st

from sercache.engines.task_range import TaskRange, parse_task_range
from sercache.errors import SercacheError


@given(st.lists(st.integers()), st.integers(1, 9))
def test_the_parts_are_everything_once_and_differ_by_one_task_at_most(tasks, count):
    parts = [TaskRange(number, count).part(tasks) for number in range(1, count + 1)]
    assert sorted(task for part in parts for task in part) == sorted(tasks)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


ARRAYS = {
    "slurm 0-15": lambda n: {
        "SLURM_ARRAY_TASK_ID": str(n),
        "SLURM_ARRAY_TASK_MIN": "0",
        "SLURM_ARRAY_TASK_MAX": "15",
        "SLURM_ARRAY_TASK_STEP": "1",
        "SLURM_ARRAY_TASK_COUNT": "16",
    },
    "slurm 10-40:2": lambda n: {
        "SLURM_ARRAY_TASK_ID": str(10 + 2 * n),
        "SLURM_ARRAY_TASK_MIN": "10",
        "SLURM_ARRAY_TASK_MAX": "40",
        "SLURM_ARRAY_TASK_STEP": "2",
        "SLURM_ARRAY_TASK_COUNT": "16",
    },
    "sge 1-16": lambda n: {
        "SGE_TASK_ID": str(n + 1),
        "SGE_TASK_FIRST": "1",
        "SGE_TASK_LAST": "16",
        "SGE_TASK_STEPSIZE": "1",
    },
    "lsf 1-16": lambda n: {"LSB_JOBINDEX": str(n + 1), "LSB_JOBINDEX_END": "16", "LSB_JOBINDEX_STEP": "1"},
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_the_jobs_of_an_array_have_all_parts(array):
    found = {parse_task_range("env", array(n)) for n in range(16)}
    assert found == {TaskRange(number, 16) for number in range(1, 17)}


@pytest.mark.parametrize("first", [0, 1, 7])
def test_a_pbs_array_needs_to_be_told_its_length(first):
    jobs = [{"PBS_ARRAY_INDEX": str(first + n)} for n in range(16)]
    assert {parse_task_range("env/16", job).number for job in jobs} == set(range(1, 17))
    with pytest.raises(SercacheError, match="of how many"):
        parse_task_range("env", jobs[1])


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "a/b", "1/0", "-1/4", "env/x"])
def test_what_means_nothing_is_refused(text):
    with pytest.raises(SercacheError, match="task-range"):
        parse_task_range(text, {})


def test_outside_an_array_it_says_so():
    with pytest.raises(SercacheError, match="no job array"):
        parse_task_range("env", {"SGE_TASK_ID": "undefined", "LSB_JOBINDEX": "0"})
