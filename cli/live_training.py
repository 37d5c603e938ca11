"""How a training looks while it runs: a live table of members x folds, or a line per finished fold."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sercache.events import Event, Listener
from sercache.interrupts import ShouldStop, never

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_MOST_ROWS = 24
"""A table that is higher than the terminal does not scroll: of more members, those still in training."""


@contextmanager
def live_training(names: Sequence[str], should_stop: ShouldStop = never) -> Iterator[Listener]:
    """Yield a listener: a live table on a terminal, a line per finished fold elsewhere.

    Args:
        names: of all trainings, ``<member>/fold-<k>``.
        should_stop: whether Ctrl-C came; the table says so while epochs under way end.
    """
    from rich.live import Live

    from .console import is_quiet, progress_console, progress_listener

    if is_quiet():
        with progress_listener() as listener:
            yield listener
        return
    board = _Board(names, should_stop)
    if not progress_console.is_terminal:
        yield board.print_line
        return
    # It asks for the board at every refresh: the clock goes on while no event comes.
    with Live(
        get_renderable=board.shown, console=progress_console, refresh_per_second=4, transient=True
    ) as live:

        def listen(event: Event) -> None:
            if event.kind in ("note", "warning"):
                style = "yellow" if event.kind == "warning" else "dim"
                live.console.print(event.message, style=style, markup=False, highlight=False)
            if event.kind == "score" and event.message:
                live.console.print(event.message, style="bold", markup=False, highlight=False)
            board.take(event)

        yield listen


class _Board:
    """What is known of every fold, and how it looks."""

    def __init__(self, names: Sequence[str], should_stop: ShouldStop) -> None:
        self.names = names
        self.should_stop = should_stop
        self.members: dict[str, list[str]] = {}
        for name in names:
            self.members.setdefault(name.rpartition("/")[0], []).append(name)
        self.latest: dict[str, Event] = {}
        self.finished: set[str] = set()
        self.failed: set[str] = set()
        self.best: dict[str, float] = {}
        self.started = time.monotonic()
        self.epochs_here = 0

    def take(self, event: Event) -> None:
        if event.kind == "finish":
            self.finished.add(event.task)
        elif event.kind == "warning":
            self.failed.update(event.task.split(" + "))  # a process that died takes a whole group with it
        elif event.kind in ("start", "advance"):
            self.epochs_here += event.kind == "advance"
            self.latest[event.task] = event
        if "best" in event.values:
            self.best[event.task] = float(event.values["best"])

    def print_line(self, event: Event) -> None:
        from .console import progress_console

        self.take(event)
        if event.kind in ("note", "warning"):
            style = "yellow" if event.kind == "warning" else None
            progress_console.print(event.message, style=style, markup=False, highlight=False)
        if event.kind == "score" and event.message:
            progress_console.print(event.message, markup=False, highlight=False, soft_wrap=True)
        if event.kind == "finish" and event.task in self.best:
            epochs = self.latest[event.task].values.get("epoch")
            trained = "trained before" if epochs is None else f"{epochs} epochs"
            score = f"macro-F1 {self.best[event.task]:.3f} on its stop rows"
            progress_console.print(f"{event.task}: {trained}, {score}", highlight=False)

    def shown(self) -> "Group":
        """Return the table and, as wide as the terminal, the line below it."""
        from rich.console import Group
        from rich.text import Text

        return Group(self._table(), Text(self._summary(), style="dim"))

    def _table(self) -> "Table":
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        table.add_column("member", no_wrap=True)
        for fold in range(max(map(len, self.members.values()))):
            table.add_column(f"fold {fold}", no_wrap=True)
        shown = sorted(self.members, key=lambda member: self._is_over(member))[:_MOST_ROWS]
        for member, names in self.members.items():
            if member in shown:
                table.add_row(member, *(self._cell(name) for name in names))
        if (hidden := len(self.members) - len(shown)) > 0:
            table.add_row(f"[dim]and {hidden} more")
        return table

    def _is_over(self, member: str) -> bool:
        return all(name in self.finished or name in self.failed for name in self.members[member])

    def _summary(self) -> str:
        elapsed = time.monotonic() - self.started
        best = f", best macro-F1 on stop rows {max(self.best.values()):.3f}" if self.best else ""
        left = f", at most {_clock(self._seconds_left(elapsed))} left" if self.epochs_here else ""
        done = f"{len(self.finished)} of {len(self.names)} folds{best}, {_clock(elapsed)}"
        if self.should_stop():
            return f"{done}; stopping after the epochs under way; Ctrl-C again ends at once"
        return f"{done}{left}; Ctrl-C stops, the same command goes on"

    def _seconds_left(self, elapsed: float) -> float:
        """All epochs that are left at the rate so far; early stopping can only make them fewer."""
        totals = [event.total for event in self.latest.values() if event.total]
        usual = sum(totals) / max(1, len(totals))
        left = 0.0
        for name in self.names:
            if name not in self.finished and name not in self.failed:
                event = self.latest.get(name)
                left += (event.total or usual) - event.done if event else usual
        return left * elapsed / self.epochs_here

    def _cell(self, name: str) -> str:
        event = self.latest.get(name)
        if name in self.failed:
            return "[red]failed"
        best = f"{self.best[name]:.3f}" if name in self.best else "done"
        if name in self.finished:
            return f"[green]{best}"
        if event is None:
            return "[dim]-"
        if not event.values:
            return "[dim]epoch 0"
        return f"[bold]{best}[/] [dim]s{event.values['stage']} e{event.values['epoch']}/{event.total:.0f}"


def _clock(seconds: float) -> str:
    """Return a time for people: 42 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
