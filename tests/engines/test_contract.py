"""What every engine keeps to, whatever runs its tasks."""

import multiprocessing
import os
import time

import numpy as np
import pytest

from sercache.engines.protocol import MAX_CRASHES, Needs, Task
from sercache.errors import Interrupted, ProcessDied
from sercache.events import Context, ignore, never
from support import engine_tasks


def written(folder):
    return sorted(path.name for path in folder.iterdir())


def attempts(folder):
    return {path.name: len(path.read_text().splitlines()) for path in folder.iterdir()}


def test_a_task_that_fails_does_not_end_the_others(engine, tmp_path):
    tasks = [Task(name, engine_tasks.write, (str(tmp_path), name)) for name in "abc"]
    tasks.insert(1, Task("bad", engine_tasks.fail, ()))
    events = []
    errors = engine.run(tasks, Context(events.append, never))
    assert {name: str(error) for name, error in errors.items()} == {"bad": "cannot be trained"}
    assert written(tmp_path) == ["a", "b", "c"]
    assert sorted(event.task for event in events if event.kind == "finish") == ["a", "b", "c"]
    assert [event.task for event in events if event.kind == "warning"] == ["bad"]


def test_the_wish_to_stop_reaches_the_tasks_and_starts_no_others(engine, tmp_path):
    tasks = [Task(name, engine_tasks.work_until_stopped, (str(tmp_path), name)) for name in "abcdefgh"]
    started = []
    with pytest.raises(Interrupted):
        engine.run(tasks, Context(lambda event: started.append(event.task), lambda: len(started) >= 1))
    assert 1 <= len(written(tmp_path)) <= 2
    assert not multiprocessing.active_children()


def test_every_event_arrives_in_its_tasks_order(engine):
    """Also the last ones: a worker sends them while the engine is already ending."""
    for _ in range(2):
        events = []
        tasks = [Task(n, engine_tasks.count, (n, 40)) for n in "abcde"]
        assert engine.run(tasks, Context(events.append, never)) == {}
        for name in "abcde":
            assert [event.done for event in events if event.task == name] == list(range(40))


def test_an_error_of_no_task_ends_the_run_without_waiting_for_the_others(engine, tmp_path):
    tasks = [Task("full", engine_tasks.fill_the_disk, ())]
    tasks += [Task(name, engine_tasks.work_until_stopped, (str(tmp_path), name)) for name in "ab"]
    started = time.monotonic()
    with pytest.raises(OSError, match="No space left"):
        engine.run(tasks, Context(ignore, never))
    assert time.monotonic() - started < 20  # work_until_stopped alone would take 30
    assert not multiprocessing.active_children()


def test_a_task_has_as_many_threads_as_it_asks_for(engine, tmp_path):
    tasks = [Task(str(n), engine_tasks.say_threads, (str(tmp_path), str(n)), Needs(cores=n)) for n in (1, 2)]
    assert engine.run(tasks, Context(ignore, never)) == {}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"1": "1", "2": "2"}


def test_a_task_whose_worker_was_killed_is_tried_again(mortal_engine, tmp_path):
    tasks = [Task(name, engine_tasks.die_at_first, (str(tmp_path), name)) for name in "ab"]
    tasks += [Task(name, engine_tasks.counted, (str(tmp_path), name, "good", 0)) for name in "cd"]
    finished = []
    assert mortal_engine.run(tasks, Context(lambda event: finished.append(event.task), never)) == {}
    assert sorted(finished) == ["a", "b"]
    assert attempts(tmp_path) == {"a": 2, "b": 2, "c": 1, "d": 1}


def test_a_task_that_kills_its_workers_is_given_up_and_harms_no_other(mortal_engine, tmp_path):
    tasks = [Task(name, engine_tasks.counted, (str(tmp_path), name, "good", 0.02)) for name in "abcdefgh"]
    tasks.insert(2, Task("poison", engine_tasks.die, (str(tmp_path), "poison")))
    events = []
    errors = mortal_engine.run(tasks, Context(events.append, never))
    assert list(errors) == ["poison"]
    assert isinstance(errors["poison"], ProcessDied)
    assert f"its process died {MAX_CRASHES} times" in str(errors["poison"])
    assert [event.task for event in events if event.kind == "warning"] == ["poison"]
    assert attempts(tmp_path) == {**dict.fromkeys("abcdefgh", 1), "poison": MAX_CRASHES}


def test_a_worker_that_is_killed_while_it_tells_something_does_not_hang_the_engine(mortal_engine):
    tasks = [Task("talks", engine_tasks.die_in_mid_sentence, ("talks",))]
    assert list(mortal_engine.run(tasks, Context(ignore, never))) == ["talks"]


def test_tasks_run_in_other_processes(mortal_engine, tmp_path):
    tasks = [Task(name, engine_tasks.write, (str(tmp_path), name)) for name in "ab"]
    assert mortal_engine.run(tasks, Context(ignore, never)) == {}
    assert os.getpid() not in {int((tmp_path / name).read_text()) for name in "ab"}


@pytest.mark.parametrize("number", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_tasks_of_which_some_fail_and_some_kill_their_worker(mortal_engine, tmp_path, number):
    """One in twenty fails, one in a hundred kills whoever runs it."""
    drawn = np.random.default_rng(0).permutation(number)
    outcomes = ["fail" if n < number * 0.05 else "poison" if n < number * 0.06 else "good" for n in drawn]
    tasks = [
        Task(f"task {n}", engine_tasks.counted, (str(tmp_path), f"task {n}", outcome, 0.0))
        for n, outcome in enumerate(outcomes)
    ]
    errors = mortal_engine.run(tasks, Context(ignore, never))
    expected = {f"task {n}" for n, outcome in enumerate(outcomes) if outcome != "good"}
    assert set(errors) == expected
    assert all(
        ("not fit for use" in str(error)) == (outcomes[int(name.split()[1])] == "fail")
        for name, error in errors.items()
    )
    tried = attempts(tmp_path)
    assert tried == {
        f"task {n}": MAX_CRASHES if outcome == "poison" else 1 for n, outcome in enumerate(outcomes)
    }
