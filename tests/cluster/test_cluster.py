"""Commands on a Ray cluster of two nodes: what they make is what one machine makes, whoever is killed."""

import csv
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from support.cluster_commands import attempts, begin, contents, finish, kill_the_latest, wait_for_attempts
from support.run_builder import make_run

CLUSTER = ("--engine", "ray", "--address")
MOST_IN_FLIGHT = 2
"""Of tasks that take a whole node, one on each."""

pytestmark = pytest.mark.slow  # minutes of Ray; the engines' contract has its own tests


@pytest.fixture
def emodb(shared_data, tmp_path):
    """All of EmoDB."""
    rows = csv.DictReader((shared_data / "emodb" / "labels.csv").read_text().splitlines())
    audio = shared_data / "emodb"
    path = tmp_path / "emodb.csv"
    path.write_text("\n".join(["id,audio", *(f"{row['id']},{audio / row['audio']}" for row in rows)]))
    return path


def extract(manifest, folder, encoders, *more, **how):
    folder.mkdir(exist_ok=True)
    options = [option for encoder in encoders for option in ("--encoder", encoder)]
    return begin("extract", manifest, "--cache", folder / "cache", *options, *more, **how)


def assert_fine(done):
    assert done.code == 0, done.errors
    assert "Traceback" not in done.errors


def check_extraction(manifest, nodes, tmp_path, encoders, before_kill):
    assert_fine(finish(extract(manifest, tmp_path / "alone", encoders)))
    process = extract(manifest, tmp_path / "spread", encoders, *CLUSTER, nodes.address)
    wait_for_attempts(tmp_path / "spread", before_kill, process)
    kill_the_latest(tmp_path / "spread")
    wait_for_attempts(tmp_path / "spread", before_kill + 3, process)
    nodes.kill_one()
    assert_fine(finish(process))
    alone = contents(tmp_path / "alone" / "cache")
    assert contents(tmp_path / "spread" / "cache") == alone
    tried = attempts(tmp_path / "spread")
    shards = {path.stem.removeprefix("shard-") for path in (tmp_path / "alone").rglob("shard-*.h5")}
    assert set(tried) == shards
    assert sum(tried.values()) - len(shards) <= 1 + MOST_IN_FLIGHT  # the worker's task, the node's tasks
    assert sum(tried.values()) > len(shards)  # somebody was killed in the middle of something


def test_extraction_on_two_nodes_gives_the_same_bytes_though_a_worker_and_a_node_are_killed(
    manifest, nodes, tmp_path, checkpoint
):
    check_extraction(manifest, nodes, tmp_path, [f"{checkpoint('wavlm+layer')}:last2"], before_kill=3)


@pytest.mark.slow
def test_extraction_of_a_real_corpus_by_two_encoders(emodb, nodes, tmp_path, checkpoint):
    encoders = ["logmel", f"{checkpoint('wavlm+layer')}:last2"]
    check_extraction(emodb, nodes, tmp_path, encoders, before_kill=20)


def learned(run):
    """What a run's members have learned and predicted: all of it but times."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.name in ("weights.safetensors", "predictions.parquet", "posteriors.parquet")
    }


def check_ensemble(nodes, tmp_path, members, folds, before_kill):
    members = [
        {"name": f"m{n}", "head": "mean-linear", "features": [("speech", "words")[n % 2]], "seed": n}
        for n in range(members)
    ]
    folders = [tmp_path / "alone", tmp_path / "spread"]
    for folder in folders:
        folder.mkdir()
        make_run(folder, members=members, folds={"count": folds, "inner_share": 0.25})
    alone, spread = (folder / "recipe.yaml" for folder in folders)
    assert_fine(finish(begin("train-ensemble", alone, "--workers", 2)))
    shutil.rmtree(folders[0] / "attempts")
    process = begin("train-ensemble", spread, *CLUSTER, nodes.address)
    wait_for_attempts(folders[1], before_kill, process)
    kill_the_latest(folders[1])
    wait_for_attempts(folders[1], before_kill + 3, process)
    nodes.kill_one()
    assert_fine(finish(process))
    expected = learned(folders[0] / "run")
    assert len(expected) == (members + 1) * (2 * folds + 1)  # the linear baseline is a member too
    assert learned(folders[1] / "run") == expected
    tried = attempts(folders[1])
    assert len(tried) == (members + 1) * folds
    assert sum(tried.values()) - len(tried) <= 1 + 2 * MOST_IN_FLIGHT


@pytest.mark.slow
def test_an_ensemble_on_two_nodes_learns_the_same_bits(nodes, tmp_path):
    check_ensemble(nodes, tmp_path, members=2, folds=3, before_kill=2)


@pytest.mark.slow
def test_an_ensemble_of_six_members_and_five_folds(nodes, tmp_path):
    check_ensemble(nodes, tmp_path, members=6, folds=5, before_kill=8)


def test_a_shard_that_kills_its_workers_is_noted_and_the_rest_is_extracted(manifest, tmp_path):
    assert_fine(finish(extract(manifest, tmp_path / "alone", ["logmel"])))
    shards = sorted((tmp_path / "alone").rglob("shard-*.h5"))
    poisoned = shards[3].stem.removeprefix("shard-")
    (tmp_path / "spread").mkdir()
    (tmp_path / "spread" / "poison").write_text(poisoned)
    done = finish(extract(manifest, tmp_path / "spread", ["logmel"], "--engine", "ray"))
    assert_fine(done)
    tried = attempts(tmp_path / "spread")
    assert tried.pop(poisoned) == 3
    assert set(tried.values()) == {1}
    (ledger,) = (tmp_path / "spread").rglob("failures.csv")
    rows = list(csv.DictReader(ledger.read_text().splitlines()))
    lost = {row["utterance"] for row in rows}
    assert lost
    assert {row["exception"] for row in rows} == {"ProcessDied"}
    assert f"{len(lost)} utterances have no features" in " ".join(done.output.split())
    (tmp_path / "spread" / "poison").unlink()
    assert_fine(finish(extract(manifest, tmp_path / "spread", ["logmel"])))
    alone, mended = (contents(tmp_path / name / "cache") for name in ("alone", "spread"))
    assert [path for path in mended if path.endswith(".h5")] == [
        path for path in alone if path.endswith(".h5")
    ]
    assert all(mended[path] == alone[path] for path in alone if path.endswith(".h5"))


def test_too_many_failures_stop_all_workers(manifest, tmp_path):
    for number in range(12):
        (manifest.parent / f"{number}.wav").write_text("these are notes")
    options = ("--max-failures", 2, "--engine", "ray")
    done = finish(extract(manifest, tmp_path / "spread", ["logmel"], *options))
    assert done.code == 2
    assert "at most 2 may (--max-failures)" in done.errors.splitlines()[-1]


def test_a_ctrl_c_leaves_no_process_behind(manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("MARK_OF_THIS_TEST", str(tmp_path))
    process = extract(manifest, tmp_path / "spread", ["logmel"], "--engine", "ray", start_new_session=True)
    wait_for_attempts(tmp_path / "spread", 2, process)
    os.killpg(process.pid, signal.SIGINT)
    done = finish(process)
    assert done.code == 130, done.errors
    assert done.errors.splitlines()[-1].endswith("the same command goes on from there")
    assert "Traceback" not in done.errors
    ends = time.monotonic() + 20
    while (left := marked(str(tmp_path))) and time.monotonic() < ends:
        time.sleep(0.2)
    assert not left


def marked(mark):
    """Processes that this test has begun, or that they have begun."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK_OF_THIS_TEST={mark}".encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_stackers_fitted_on_ray_predict_the_same_bits(tmp_path):
    members = [{"name": f"m{n}", "head": "mean-linear", "features": ["speech"], "seed": n} for n in range(2)]
    made = make_run(tmp_path, members=members, stacking={"bootstrap_samples": 100, "repeats": 2})
    assert made.members
    run, copy = tmp_path / "run", tmp_path / "copy"
    assert_fine(finish(begin("train-ensemble", tmp_path / "recipe.yaml", "--workers", 2)))
    shutil.copytree(run, copy)
    assert_fine(finish(begin("stack", run)))
    assert_fine(finish(begin("stack", copy, "--engine", "ray")))
    alone, spread = (
        {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted((folder / "stack").rglob("*"))
            if path.suffix in (".parquet", ".safetensors")
        }
        for folder in (run, copy)
    )
    assert len(alone) > 10
    assert spread == alone
