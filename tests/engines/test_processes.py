from sercache.engines.processes import Processes
from sercache.engines.protocol import Task
from sercache.events import Context, never
from support import engine_tasks


def test_a_ctrl_c_that_reaches_the_workers_is_left_to_the_main_process(tmp_path):
    finished = []
    tasks = [Task(name, engine_tasks.hear_ctrl_c, (str(tmp_path), name)) for name in "abc"]
    assert Processes(2).run(tasks, Context(lambda event: finished.append(event.task), never)) == {}
    assert sorted(finished) == ["a", "b", "c"]
    assert {path.read_text().count("\n") for path in tmp_path.iterdir()} == {1}  # nobody died and tried again


def test_a_process_goes_on_with_the_next_task(tmp_path):
    tasks = [Task(name, engine_tasks.write, (str(tmp_path), name)) for name in "abc"]
    assert Processes(1).run(tasks, Context(lambda event: None, never)) == {}
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 1
