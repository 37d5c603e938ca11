"""The command as a user runs it."""

import subprocess
import sys

import pytest

from sercache.errors import SercacheError
from sercache.run import Run
from support.command_line import invoke
from support.finetuning_runs import train_speech_run

COMMAND = [sys.executable, "-m", "sercache.cli.main", "finetune"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, checkpoint):
    """A run that the commands here only read, or add a member to."""
    return Run(train_speech_run(tmp_path_factory.mktemp("finetuning"), checkpoint))


def command(*arguments):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_it_prints_a_line_per_epoch_a_table_and_the_next_command(run):
    done = command(
        run.root, "-m", "fusion", "-f", "wavlm", "--lora", 2, "--set", "stage2.epochs=0", "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    for fold in range(2):
        assert f"fusion-finetuned/fold-{fold}: as it starts: macro-F1 " in done.stderr
        assert f"fusion-finetuned/fold-{fold}: epoch 1 (stage 1), loss " in done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert rows["fusion"][0] == rows["fusion-finetuned"][0] == "36"
    difference = float(rows["fusion-finetuned"][1]) - float(rows["fusion"][1])
    assert float(rows["difference"][0]) == pytest.approx(difference, abs=0.0011)
    assert "wavlm: LoRA of rank 2 in 3 layers of wavlm+layer, " in done.stdout
    assert "from the cache, as before: words" in done.stdout
    assert done.stdout.splitlines()[-1] == f"Next: sercache stack {run.root}"
    assert "\x1b" not in done.stdout + done.stderr


def test_bad_input_is_one_line_and_code_2(run):
    done = command(run.root, "--member", "fusoin", "--device", "cpu")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Did you mean 'fusion'?" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "layer=2"], "unknown key 'layer'"),
        (["--set", "stage1=3"], "stage1"),
        (
            ["--set", "stage1=3", "--set", "stage1.epochs=2"],
            "--set stage1.epochs=2: 'stage1' was given a value",
        ),
        (["--set", "stage1.epochs=2", "--set", "stage1=3"], "stage1=3: keys of 'stage1' were given"),
        (["--set", "lora"], "--set lora: expected KEY=VALUE"),
        (["--precision", "half"], "precision: "),
        (["--max-seconds", "-1.0"], "max_seconds: "),
        (["--device", "gpu"], "no device 'gpu' here"),
    ],
)
def test_a_wrong_option_is_named(run, options, message):
    with pytest.raises(SercacheError, match=message):
        invoke("finetune", run.root, "--member", "fusion", *options)
