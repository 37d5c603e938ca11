"""Commands of sercache in this process, through the parser that users meet."""

from typer.testing import CliRunner

from sercache.cli.main import app


def invoke(*arguments):
    """Run a command and return its result, with ``exit_code`` and ``stdout``; its errors are raised."""
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, words, catch_exceptions=False, standalone_mode=False)
