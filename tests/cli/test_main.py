import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "sklearn", "lightgbm", "pyarrow", "h5py", "scipy")


def sercache(*arguments):
    command = [sys.executable, "-c", "from sercache.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from sercache.cli.main import app; from typer.testing import CliRunner;"
        "result = CliRunner().invoke(app, ['--help']); assert result.exit_code == 0, result.output;"
        f"loaded = set({HEAVY!r}) & set(sys.modules); assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


COMMANDS = (
    "",
    "corpus",
    "corpus import",
    "corpus check",
    "corpus show",
    "extract",
    "train-ensemble",
    "stack",
    "cache",
    "cache ls",
    "cache info",
    "cache verify",
    "serve",
    "demo",
    "doctor",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    done = sercache(*command.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_an_error_is_one_line_on_stderr_and_exit_code_2(tmp_path):
    done = sercache("train-ensemble", str(tmp_path / "nowhere.yaml"))
    assert done.returncode == 2
    assert done.stderr.startswith("sercache: ")
    assert done.stderr.count("\n") == 1
    assert "nowhere.yaml does not exist" in done.stderr


def test_doctor_names_versions_devices_and_disk():
    done = sercache("doctor")
    assert done.returncode == 0, done.stderr
    for word in ("sercache", "torch", "h5py", "cores", "GB free"):
        assert word in done.stdout


def test_every_argument_is_called_in_capitals_in_usage_lines():
    """Without a metavar a usage line shows the parameter's name, such as {path}."""
    from typer.main import get_command

    from sercache.cli.main import app

    def arguments(command, name):
        for parameter in command.params:
            if parameter.param_type_name == "argument":
                yield f"{name} {parameter.metavar or parameter.name}"
        for inner, subcommand in getattr(command, "commands", {}).items():
            yield from arguments(subcommand, f"{name} {inner}")

    found = list(arguments(get_command(app), "sercache"))
    assert len(found) > 20
    assert [usage for usage in found if not usage.split()[-1].isupper()] == []
