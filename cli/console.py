"""The screen: results on stdout, progress and warnings on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sercache.events import Event, Listener

_PIPED_WIDTH = 100

console = Console()
if not console.is_terminal:
    console = Console(width=_PIPED_WIDTH)
progress_console = Console(stderr=True)


@contextmanager
def progress_listener() -> Iterator[Listener]:
    """Yield a listener that draws one bar per task, with the event's values beside it.

    Where stderr is not a terminal no bar is drawn; notes and warnings are printed all the same.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("[dim]{task.fields[values]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=progress_console, disable=not progress_console.is_terminal) as progress:
        bars: dict[str, TaskID] = {}

        def show(event: Event) -> None:
            if event.kind in ("note", "warning"):
                style = "yellow" if event.kind == "warning" else None
                progress_console.print(
                    event.message, style=style, markup=False, highlight=False, soft_wrap=True
                )
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


def _short(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
