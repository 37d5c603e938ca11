"""The screen: results on stdout, progress and warnings on stderr; and how much is said."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from sercache.events import Context, Event, Listener, stop_flag

_PIPED_WIDTH = 100

console = Console()
if not console.is_terminal:
    console = Console(width=_PIPED_WIDTH)
progress_console = Console(stderr=True)

Loudness = Literal["quiet", "normal", "verbose"]
_loudness: Loudness = "normal"


def set_loudness(wanted: Loudness) -> None:
    """Say how much is said: quiet is results and warnings; verbose is the library's log and timings, too."""
    global _loudness
    _loudness = wanted
    if wanted == "verbose":
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
        logger = logging.getLogger("sercache")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)


def is_quiet() -> bool:
    """Return whether only results and warnings are wanted."""
    return _loudness == "quiet"


def is_verbose() -> bool:
    """Return whether the library's log and timings are wanted."""
    return _loudness == "verbose"


def say(line: str, style: str | None = None) -> None:
    """Print one line of results as it is: no markup, no colours of its own, never broken."""
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def say_next(command: str) -> None:
    """Say what to run next."""
    if not is_quiet():
        say(f"Next: {command}")


def print_json(value: Any) -> None:
    """Print results as one JSON document: reports, mappings, sequences, arrays and paths; null for NaN."""
    import json

    text = json.dumps(_plain(value), indent=2, ensure_ascii=False)
    if console.is_terminal:
        console.print_json(text)
    else:
        sys.stdout.write(text + "\n")


def _plain(value: Any) -> Any:
    from sercache.files import without_nan

    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {"" if key is None else str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):  # arrays and scalars of numpy
        return without_nan(value.tolist())
    return str(value) if isinstance(value, Path) else without_nan(value)


class _Rate(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(
            "" if not speed else f"{speed:,.3g}/s" if speed < 1000 else f"{speed:,.0f}/s", style="dim"
        )


@contextmanager
def progress_listener() -> Iterator[Listener]:
    """Yield a listener that draws one bar per task, with its rate and the event's values beside it.

    Where stderr is not a terminal no bar is drawn; notes and warnings are printed all the same. Quiet, only
    warnings are; verbose, how long each task took as well.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        _Rate(),
        TextColumn("[dim]{task.fields[values]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    is_drawn = progress_console.is_terminal and not is_quiet()
    with Progress(*columns, console=progress_console, disable=not is_drawn) as progress:
        bars: dict[str, TaskID] = {}
        timings = _Timings()

        def show(event: Event) -> None:
            timings.take(event)
            if event.kind in ("note", "warning", "score"):
                if event.message:
                    print_message(event)
                return
            if event.kind == "score":
                return
            if event.task not in bars:
                bars[event.task] = progress.add_task(escape(event.task), total=event.total, values="")
            bar = bars[event.task]
            if event.total is not None:
                progress.update(bar, total=event.total)
            if event.kind == "advance":
                progress.update(bar, completed=event.done)
            if event.values:
                text = "  ".join(f"{name} {_short(value)}" for name, value in event.values.items())
                progress.update(bar, values=escape(text))
            if event.kind == "finish":
                total = progress.tasks[bar].total
                progress.update(bar, total=total or 1, completed=total or 1)

        yield show


@contextmanager
def command_context() -> Iterator[Context]:
    """Yield the context of a command: progress bars, and a flag that Ctrl-C and SIGTERM set."""
    with stop_flag() as should_stop, progress_listener() as listener:
        yield Context(listener, should_stop)


def print_message(event: Event) -> None:
    """Print a note, a score or a warning on stderr; quiet, warnings only."""
    if event.kind != "warning" and is_quiet():
        return
    style = "yellow" if event.kind == "warning" else None
    progress_console.print(event.message, style=style, markup=False, highlight=False, soft_wrap=True)


class _Timings:
    """Says how long each task took, where one wants to know."""

    def __init__(self) -> None:
        self.started: dict[str, float] = {}

    def take(self, event: Event) -> None:
        if not is_verbose():
            return
        now = time.monotonic()
        begun = self.started.setdefault(event.task, now)
        if event.kind == "finish":
            progress_console.print(
                f"{event.task}: {now - begun:.2f} s", style="dim", markup=False, highlight=False
            )


def _short(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
