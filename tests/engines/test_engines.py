import multiprocessing
import time

import engine_tasks
import pytest

from sercache.engines.protocol import Task
from sercache.engines.registry import ENGINES
from sercache.errors import Interrupted
from sercache.events import ignore
from sercache.interrupts import never


@pytest.fixture(params=sorted(ENGINES))
def engine(request):
    return ENGINES[request.param](2, 1)


def written(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_task_that_fails_does_not_end_the_others(engine, tmp_path):
    tasks = [Task(name, engine_tasks.write, (str(tmp_path), name)) for name in "abc"]
    tasks.insert(1, Task("bad", engine_tasks.fail, ()))
    events = []
    errors = engine.run(tasks, events.append, never)
    assert {name: str(error) for name, error in errors.items()} == {"bad": "cannot be trained"}
    assert written(tmp_path) == ["a", "b", "c"]
    assert sorted(event.task for event in events if event.kind == "finish") == ["a", "b", "c"]
    assert [event.task for event in events if event.kind == "warning"] == ["bad"]


def test_the_wish_to_stop_reaches_the_tasks_and_starts_no_others(engine, tmp_path):
    tasks = [Task(name, engine_tasks.work_until_stopped, (str(tmp_path), name)) for name in "abcdefgh"]
    started = []
    with pytest.raises(Interrupted):
        engine.run(
            tasks, lambda event: started.append(event.task), lambda: len(started) >= engine.workers - 1
        )
    assert 1 <= len(written(tmp_path)) <= 2
    assert not multiprocessing.active_children()


def test_tasks_run_in_other_processes_and_one_that_dies_takes_only_those_in_flight(tmp_path):
    engine = ENGINES["processes"](1, 1)
    tasks = [Task(name, engine_tasks.write, (str(tmp_path), name)) for name in "ab"]
    tasks.insert(1, Task("dies", engine_tasks.die, ()))
    errors = engine.run(tasks, ignore, never)
    assert list(errors) == ["dies"]
    assert "its process died" in str(errors["dies"])
    assert written(tmp_path) == ["a", "b"]
    assert int((tmp_path / "a").read_text()) != int((tmp_path / "b").read_text())


def test_every_event_arrives_in_its_tasks_order(engine):
    """Also the last ones: a worker sends them while the pool is already ending."""
    for _ in range(2):
        events = []
        assert engine.run([Task(n, engine_tasks.count, (n, 40)) for n in "abcde"], events.append, never) == {}
        for name in "abcde":
            assert [event.done for event in events if event.task == name] == list(range(40))


def test_an_error_of_no_task_ends_the_run_without_waiting_for_the_others(engine, tmp_path):
    tasks = [Task("full", engine_tasks.fill_the_disk, ())]
    tasks += [Task(name, engine_tasks.work_until_stopped, (str(tmp_path), name)) for name in "ab"]
    started = time.monotonic()
    with pytest.raises(OSError, match="No space left"):
        engine.run(tasks, ignore, never)
    assert time.monotonic() - started < 20  # work_until_stopped alone would take 30
    assert not multiprocessing.active_children()


def test_a_ctrl_c_that_reaches_the_workers_is_left_to_the_main_process():
    finished = []
    tasks = [Task(name, engine_tasks.hear_ctrl_c, (name,)) for name in "abc"]
    assert ENGINES["processes"](2, 1).run(tasks, lambda event: finished.append(event.task), never) == {}
    assert sorted(finished) == ["a", "b", "c"]
