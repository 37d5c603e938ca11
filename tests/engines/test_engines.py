import multiprocessing

import engine_tasks
import pytest

from sercache.engines.protocol import Task
from sercache.engines.registry import ENGINES
from sercache.errors import Interrupted
from sercache.events import ignore
from sercache.interrupts import never


@pytest.fixture(params=sorted(ENGINES))
def engine(request):
    return ENGINES[request.param](2)


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
    engine = ENGINES["processes"](1)
    tasks = [Task(name, engine_tasks.write, (str(tmp_path), name)) for name in "ab"]
    tasks.insert(1, Task("dies", engine_tasks.die, ()))
    errors = engine.run(tasks, ignore, never)
    assert list(errors) == ["dies"]
    assert "its process died" in str(errors["dies"])
    assert written(tmp_path) == ["a", "b"]
    assert int((tmp_path / "a").read_text()) != int((tmp_path / "b").read_text())
