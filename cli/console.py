"""The streams of a command: results on stdout, progress and warnings on stderr; how much is printed."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Literal

from sercache.events import Context, Event, Listener, stop_flag

if TYPE_CHECKING:
    from rich.console import Console

_PIPED_WIDTH = 100

Verbosity = Literal["quiet", "normal", "verbose"]
_verbosity: Verbosity = "normal"


@cache
def stdout_console() -> "Console":
    """Return the console of results; where stdout is no terminal, lines have a fixed width."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPED_WIDTH)


@cache
def stderr_console() -> "Console":
    """Return the console of progress, notes and warnings."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def stdout_is_terminal() -> bool:
    """Return whether results are read by a person; otherwise they go to a file or a program."""
    return stdout_console().is_terminal


def terminal_width() -> int:
    """Return how many characters a line of results has room for."""
    return stdout_console().width


def set_verbosity(verbosity: Verbosity) -> None:
    """Set how much is printed: quiet, results and warnings; verbose, the library's log and timings, too."""
    global _verbosity
    _verbosity = verbosity
    if verbosity == "verbose":
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
        logger = logging.getLogger("sercache")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)


def is_quiet() -> bool:
    """Return whether only results and warnings are wanted."""
    return _verbosity == "quiet"


def is_verbose() -> bool:
    """Return whether the library's log and timings are wanted."""
    return _verbosity == "verbose"


def print_status(line: str, style: str = "") -> None:
    """Print one line on stderr, as it is and never broken."""
    from rich.text import Text

    stderr_console().print(Text(line, style), soft_wrap=True)


def print_warning(line: str) -> None:
    """Print a warning on stderr."""
    print_status(line, "yellow")


def print_message(event: Event) -> None:
    """Print the message of a note, a score or a warning on stderr; quiet, only of a warning."""
    if event.kind == "warning":
        print_warning(event.message)
    elif not is_quiet():
        print_status(event.message)


@contextmanager
def command_context() -> Iterator[Context]:
    """Yield the context of a command: progress bars, and a flag that Ctrl-C and SIGTERM set."""
    with stop_flag() as should_stop, progress_listener() as listener:
        yield Context(listener, should_stop)


@contextmanager
def progress_listener() -> Iterator[Listener]:
    """Yield a listener that draws one bar per task, with its rate and the event's values beside it.

    Where stderr is not a terminal no bar is drawn; notes and warnings are printed all the same. Quiet, only
    warnings are; verbose, how long each task took as well.
    """
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("[dim]{task.fields[rate]}"),
        TextColumn("[dim]{task.fields[values]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    is_drawn = stderr_console().is_terminal and not is_quiet()
    with Progress(*columns, console=stderr_console(), disable=not is_drawn) as progress:
        bars: dict[str, TaskID] = {}
        timings = _Timings()

        def show(event: Event) -> None:
            timings.take(event)
            if event.kind in ("note", "warning", "score"):
                if event.message:
                    print_message(event)
                return
            if event.task not in bars:
                bars[event.task] = progress.add_task(
                    escape(event.task), total=event.total, values="", rate=""
                )
            bar = bars[event.task]
            if event.total is not None:
                progress.update(bar, total=event.total)
            if event.kind == "advance":
                progress.update(bar, completed=event.done)
            if event.values:
                progress.update(bar, values=escape(values_text(event.values)))
            if event.kind == "finish":
                total = progress.tasks[bar].total
                progress.update(bar, total=total or 1, completed=total or 1)
            progress.update(bar, rate=_rate(progress.tasks[bar].finished_speed or progress.tasks[bar].speed))

        yield show


def values_text(values: Mapping[str, float | int | str]) -> str:
    """Return an event's values as a bar shows them.

    >>> values_text({"epoch": 3, "macro_f1": 0.41253})
    'epoch 3  macro_f1 0.4125'
    """
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )


def _rate(steps_per_second: float | None) -> str:
    if not steps_per_second:
        return ""
    return f"{steps_per_second:,.3g}/s" if steps_per_second < 1000 else f"{steps_per_second:,.0f}/s"


class _Timings:
    """When tasks started; verbose, how long a task took is printed as it finishes."""

    def __init__(self) -> None:
        self.started: dict[str, float] = {}

    def take(self, event: Event) -> None:
        """Remember the start of a task; print the seconds of a task that is finished."""
        if not is_verbose():
            return
        now = time.monotonic()
        started = self.started.setdefault(event.task, now)
        if event.kind == "finish":
            print_status(f"{event.task}: {now - started:.2f} s", "dim")
