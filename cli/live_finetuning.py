"""How fine-tuning looks while it runs: a bar for the fold under way, and a line per epoch."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sercache.events import Event, Listener

_SMOOTHED_OVER = 60.0
"""Seconds; steps differ in length, and the first ones of a process are slow."""


@contextmanager
def live_finetuning(batch_size: int) -> Iterator[Listener]:
    """Yield a listener: a line per epoch, and on a terminal a bar with rate and time left.

    Args:
        batch_size: rows of a step.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from .console import is_quiet, progress_console, progress_listener

    if is_quiet():
        with progress_listener() as listener:
            yield listener
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("steps  [dim]{task.fields[values]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("[dim]Ctrl-C stops, the same command goes on"),
    )
    is_terminal = progress_console.is_terminal
    with Progress(
        *columns, console=progress_console, disable=not is_terminal, speed_estimate_period=_SMOOTHED_OVER
    ) as progress:
        bar = progress.add_task("loading encoders", total=None, values="")
        clock = _Clock()

        def listen(event: Event) -> None:
            if event.kind in ("note", "warning"):
                style = "yellow" if event.kind == "warning" else None
                progress_console.print(
                    event.message, style=style, markup=False, highlight=False, soft_wrap=True
                )
            elif event.kind == "start":
                progress.reset(bar, description=event.task, total=None, values="scoring where it starts")
                clock.reset()
            elif event.kind == "advance":
                values = {**event.values, "rows/s": round(clock.rate(event.done) * batch_size, 1)}
                shown = "  ".join(f"{key} {_short(value)}" for key, value in values.items())
                progress.update(bar, completed=event.done, total=event.total, values=shown)
            elif event.kind == "finish" and "best" not in event.values:
                progress_console.print(f"{event.task}: fine-tuned before", highlight=False)

        yield listen


class _Clock:
    """How many steps a second there were since the fold began here."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._began: tuple[float, float] | None = None

    def rate(self, done: float) -> float:
        now = time.monotonic()
        if self._began is None or done < self._began[1]:
            self._began = (now, done)
            return 0.0
        seconds = now - self._began[0]
        return (done - self._began[1]) / seconds if seconds else 0.0


def _short(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
