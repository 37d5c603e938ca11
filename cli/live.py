"""What is shown while members are trained or fine-tuned: a live ranking or a bar, or lines in a log."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sercache.errors import Interrupted
from sercache.events import Context, Event, Listener, ShouldStop, stop_flag

from . import console
from .console import command_context, print_message, print_status, values_text
from .rendering import Column, Row, make_table, numbers

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from sercache.recipe import MemberRecipe

_MOST_ROWS = 24
"""A table that is higher than the terminal does not scroll: of more members, the best and those at work."""

_OTHER_LINES = 7
"""Headings, the summary, and what the shell needs."""

_SCORES = {"macro_f1": "macro-F1", "uar": "UAR", "mean_ccc": "mean CCC"}

_SMOOTHED_OVER = 60.0
"""Seconds; steps differ in length, and the first ones of a process are slow."""


def fold_names(members: Iterable["MemberRecipe"], folds: int) -> list[str]:
    """Return the names of all trainings, ``<member>/fold-<k>``, fold by fold."""
    return [f"{member.name}/fold-{fold}" for fold in range(folds) for member in members]


@contextmanager
def training_context(names: Sequence[str], run: Path | None = None) -> Iterator[Context]:
    """Yield the context of a training: a live ranking on a terminal, a line per finished member elsewhere.

    Members that train in epochs have a line per finished fold, too. If the training is interrupted, the
    members that are finished are ranked in the end.

    Args:
        names: of all trainings, as :func:`fold_names` returns them.
        run: the run's folder, which can be stacked after an interruption; None where it cannot.
    """
    if console.is_quiet():
        with command_context() as context:
            yield context
        return
    with stop_flag() as should_stop:
        board = _Board(names, should_stop)
        try:
            if console.stderr_console().is_terminal:
                with _drawn(board) as listener:
                    yield Context(listener, should_stop)
            else:
                yield Context(board.print_line, should_stop)
        except Interrupted:
            board.print_ranking(run)
            raise


@contextmanager
def _drawn(board: "_Board") -> Iterator[Listener]:
    from rich.live import Live
    from rich.text import Text

    # It asks for the board at every refresh: the clock goes on while no event comes.
    with Live(
        get_renderable=board.shown, console=console.stderr_console(), refresh_per_second=4, transient=True
    ) as live:

        def listen(event: Event) -> None:
            if event.kind in ("note", "warning", "score") and event.message:
                style = {"note": "dim", "warning": "yellow", "score": "bold"}[event.kind]
                live.console.print(Text(event.message, style))
            board.take(event)

        yield listen


class _Board:
    """What is known of every member and fold, and how it looks.

    ``scores`` has the finished members, ``latest`` the last event of every fold that was begun here, and
    ``preparing`` that of any other work, such as pooling a feature set.
    """

    def __init__(self, names: Sequence[str], should_stop: ShouldStop) -> None:
        self.names = names
        self.should_stop = should_stop
        self.members: dict[str, list[str]] = {}
        for name in names:
            self.members.setdefault(name.rpartition("/")[0], []).append(name)
        self.scores: dict[str, Mapping[str, float | int | str]] = {}
        self.latest: dict[str, Event] = {}
        self.preparing: dict[str, Event] = {}
        self.finished: set[str] = set()
        self.failed: set[str] = set()
        self.best: dict[str, float] = {}
        self.started = time.monotonic()
        self.epochs_here = 0
        self.epochs_since = self.started

    def take(self, event: Event) -> None:
        """Remember an event."""
        if event.kind == "score":
            self.scores[event.task] = event.values
        elif event.kind == "finish":
            self.finished.add(event.task)
        elif event.kind == "warning":
            self.failed.update(event.task.split(" + "))  # a process that died takes a whole group with it
        elif event.kind in ("start", "advance"):
            if event.task.rpartition("/")[0] not in self.members:
                self.preparing[event.task] = event
                return
            self.latest[event.task] = event
            if event.kind == "advance":
                self.epochs_here += 1
            elif not self.epochs_here:
                self.epochs_since = time.monotonic()
        if "best" in event.values:
            self.best[event.task] = float(event.values["best"])

    def print_line(self, event: Event) -> None:
        """Print what is worth a line of a log: messages, finished folds and finished members."""
        self.take(event)
        if event.message and event.kind in ("note", "warning", "score"):
            print_message(event)
        elif event.kind == "finish" and event.task in self.best and self._has_epochs(event.task):
            epochs = self.latest[event.task].values["epoch"]
            score = f"{self._score_name()} {self.best[event.task]:.3f} on its stop rows"
            print_status(f"{event.task}: {epochs} epochs, {score}")
        elif event.kind == "score":
            scores = ", ".join(f"{_heading(key)} {_score(value)}" for key, value in event.values.items())
            folds = self.members.get(event.task, [])
            count = f"{len(folds)} folds" if any(name in self.latest for name in folds) else "trained before"
            print_status(f"{event.task}: out-of-fold {scores} ({count})")

    def print_ranking(self, run: Path | None) -> None:
        """Print the members that were finished before an interruption, best first, and what can be done."""
        if not self.scores:
            return
        console.stderr_console().print(self._ranking(len(self.scores)))
        finished = sum(name in self.members for name in self.scores)  # a derived baseline is not stacked
        if run is not None and finished:
            count = "this member" if finished == 1 else f"these {finished} members"
            print_status(
                f"sercache stack {run} works on {count} already; the same command goes on with the others."
            )

    def shown(self) -> "Group":
        """Return ranking, members in training, and the lines below them."""
        from rich.console import Group
        from rich.text import Text

        room = max(4, min(_MOST_ROWS, console.stderr_console().height - _OTHER_LINES))
        waiting = [member for member in self.members if member not in self.scores]
        lines = min(len(waiting), max(room // 2, room - len(self.scores)))
        parts: list[Table | Text] = []
        if self.scores:
            parts.append(self._ranking(room - lines))
        if waiting:
            parts.append(self._in_training(waiting, lines))
        parts += [Text(line, style="dim") for line in (*self._preparations(), *self._summary())]
        return Group(*parts)

    def _ranking(self, most: int) -> "Table":
        """Return the finished members, best first."""
        from rich.text import Text

        keys = list(dict.fromkeys(key for values in self.scores.values() for key in values))
        ranked = sorted(self.scores.items(), key=lambda item: -_number(item[1].get(keys[0])) if keys else 0)
        rows: list[Row] = []
        for member, values in ranked[:most]:
            style = "green" if member in self.members else "bold"  # a derived baseline is no member
            rows.append(Row((Text(member, style), *(_score(values.get(key)) for key in keys))))
        if (hidden := len(ranked) - most) > 0:
            rows.append(Row((f"and {hidden} more",), "dim"))
        headings = numbers(*map(_heading, keys), no_wrap=True)
        return make_table([Column("finished", no_wrap=True, overflow="ellipsis"), *headings], rows)

    def _in_training(self, members: Sequence[str], most: int) -> "Table":
        """Return how far the folds of members are, those at work first."""
        from rich.text import Text

        columns = [
            Column("in training", no_wrap=True, overflow="ellipsis", max_width=36),
            Column(f"epochs, or {self._score_name()} on stop rows", no_wrap=True, overflow="ellipsis"),
        ]
        begun = sorted(
            members, key=lambda member: not any(name in self.latest for name in self.members[member])
        )
        rows = [
            Row((member, Text("  ").join(map(self._cell, self.members[member]))))
            for member in members
            if member in begun[:most]
        ]
        if (hidden := len(members) - most) > 0:
            rows.append(Row((f"and {hidden} more",), "dim"))
        return make_table(columns, rows)

    def _preparations(self) -> list[str]:
        """Return what is read before folds can be fitted."""
        return [
            f"{task}: {event.done:,.0f} of {event.total:,.0f} utterances"
            for task, event in self.preparing.items()
            if event.total and event.done < event.total and task not in self.finished
        ]

    def _summary(self) -> tuple[str, str]:
        """Return how far all is, and what can be done; each fits 80 columns."""
        elapsed = time.monotonic() - self.started
        left = f", at most {_clock(self._seconds_left())} left" if self.epochs_here else ""
        finished = len(self.finished.intersection(self.names))
        done = f"{finished} of {len(self.names)} folds, {_clock(elapsed)}"
        if self.should_stop():
            return done, "stopping after this epoch; Ctrl-C again ends at once"
        return f"{done}{left}", "Ctrl-C stops; the same command goes on"

    def _score_name(self) -> str:
        from sercache.evaluation.primary import primary_in

        known = (*self.scores.values(), *(event.values for event in self.latest.values()))
        return primary_in({name for values in known for name in values}).name

    def _seconds_left(self) -> float:
        """All epochs that are left at the rate so far; early stopping can only make them fewer."""
        trained = {name: event for name, event in self.latest.items() if self._has_epochs(name)}
        totals = [event.total for event in trained.values() if event.total]
        usual = sum(totals) / max(1, len(totals))
        left = 0.0
        for name in self.names:
            if name not in self.finished and name not in self.failed:
                event = self.latest.get(name)
                left += (event.total or usual) - event.done if event else usual
        return left * (time.monotonic() - self.epochs_since) / self.epochs_here

    def _has_epochs(self, name: str) -> bool:
        """Whether a fold trained for an epoch here; a closed form has none."""
        return name in self.latest and "epoch" in self.latest[name].values

    def _cell(self, name: str) -> "Text":
        """Return how far a fold is."""
        from rich.text import Text

        event = self.latest.get(name)
        if name in self.failed:
            return Text("failed", "red")
        if name in self.finished:
            return Text(_score(self.best[name]) if self._has_epochs(name) else "done", "green")
        if event is None:
            return Text("-", "dim")
        if event.values:
            return Text(f"{event.values['epoch']}/{event.total:.0f}", "bold")
        return Text(f"0/{event.total:.0f}", "dim") if (event.total or 0) > 1 else Text("fitting", "bold")


def _heading(key: str) -> str:
    return _SCORES.get(key, key.replace("_", " "))


def _number(value: float | int | str | None) -> float:
    """Return a score that can be compared: one that is not known comes last."""
    score = float("nan") if value is None or isinstance(value, str) else float(value)
    return score if score == score else float("-inf")


def _score(value: float | int | str | None) -> str:
    return "-" if _number(value) == float("-inf") else f"{value:.3f}"


def _clock(seconds: float) -> str:
    """Return a time for people: 42 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def finetuning_context(batch_size: int) -> Iterator[Context]:
    """Yield the context of a fine-tuning: a line per epoch, and on a terminal a bar with rate and time left.

    Args:
        batch_size: rows of a step.
    """
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if console.is_quiet():
        with command_context() as context:
            yield context
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("steps  [dim]{task.fields[values]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("[dim]Ctrl-C stops, the same command goes on"),
    )
    stderr = console.stderr_console()
    bars = Progress(
        *columns, console=stderr, disable=not stderr.is_terminal, speed_estimate_period=_SMOOTHED_OVER
    )
    with stop_flag() as should_stop, bars as progress:
        bar = progress.add_task("loading encoders", total=None, values="")
        rate = _StepRate()

        def listen(event: Event) -> None:
            if event.kind in ("note", "warning"):
                print_message(event)
            elif event.kind == "start":
                progress.reset(
                    bar, description=escape(event.task), total=None, values="scoring where it starts"
                )
                rate.reset()
            elif event.kind == "advance":
                rows_per_second = round(rate.steps_per_second(event.done) * batch_size, 1)
                shown = values_text({**event.values, "rows/s": rows_per_second})
                progress.update(bar, completed=event.done, total=event.total, values=escape(shown))
            elif event.kind == "finish" and "best" not in event.values:
                print_status(f"{event.task}: fine-tuned before")

        yield Context(listen, should_stop)


class _StepRate:
    """How many steps a second there were since the fold began here."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin a fold."""
        self._began: tuple[float, float] | None = None

    def steps_per_second(self, done: float) -> float:
        """Return the rate since the first call after :meth:`reset`; that call returns 0.

        Args:
            done: steps of the fold that are done.
        """
        now = time.monotonic()
        if self._began is None or done < self._began[1]:
            self._began = (now, done)
            return 0.0
        seconds = now - self._began[0]
        return (done - self._began[1]) / seconds if seconds else 0.0
