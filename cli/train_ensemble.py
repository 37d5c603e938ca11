"""``sercache train-ensemble``."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sercache.events import Event, Listener

if TYPE_CHECKING:
    from rich.table import Table

    from sercache.training.ensemble import EnsembleReport


def train_ensemble(
    recipe_path: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, .yaml.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes that train side by side; else one per core, on a GPU one in all."
        ),
    ] = None,
) -> None:
    """Train every member of a recipe on every fold, from the cache, and write out-of-fold posteriors.

    Interrupt it as you like: the same command goes on after the last finished epoch.

    Example: sercache train-ensemble recipe.yaml
    """
    from sercache.interrupts import stop_flag
    from sercache.recipe import load_recipe
    from sercache.training.ensemble import train_ensemble as train

    recipe = load_recipe(recipe_path)
    folds = {
        f"{member.name}/fold-{fold}": None for member in recipe.members for fold in range(recipe.folds.count)
    }
    with stop_flag() as should_stop, _live_table(list(folds)) as listener:
        report = train(recipe, device=device, workers=workers, listener=listener, should_stop=should_stop)
    _show(report, recipe.output)


@contextmanager
def _live_table(names: list[str]) -> Iterator[Listener]:
    """Yield a listener: a live table of members x folds on a terminal, a line per finished fold elsewhere."""
    from rich.live import Live

    from .console import progress_console

    board = _Board(names)
    if not progress_console.is_terminal:
        yield board.print_line
        return
    with Live(board.table(), console=progress_console, refresh_per_second=4, transient=True) as live:

        def listen(event: Event) -> None:
            if event.kind == "warning":
                live.console.print(event.message, style="yellow", markup=False, highlight=False)
            board.take(event)
            live.update(board.table())

        yield listen


class _Board:
    """What is known of every fold, and how it looks."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.latest: dict[str, Event] = {}
        self.finished: set[str] = set()
        self.failed: set[str] = set()
        self.started = time.monotonic()

    def take(self, event: Event) -> None:
        if event.kind == "finish":
            self.finished.add(event.task)
        elif event.kind == "warning":
            self.failed.add(event.task)
        elif event.kind in ("start", "advance"):
            self.latest[event.task] = event

    def print_line(self, event: Event) -> None:
        from .console import progress_console

        self.take(event)
        if event.kind == "warning":
            progress_console.print(event.message, style="yellow", markup=False, highlight=False)
        if event.kind == "finish" and event.task in self.latest:
            epochs = self.latest[event.task].values.get("epoch", 0)
            progress_console.print(
                f"{event.task}: {epochs} epochs, macro-F1 {float(event.values['best']):.3f} on its stop rows",
                highlight=False,
            )

    def table(self) -> "Table":
        from rich.table import Table

        members: dict[str, list[str]] = {}
        for name in self.names:
            members.setdefault(name.rpartition("/")[0], []).append(name)
        elapsed = time.monotonic() - self.started
        table = Table(
            box=None,
            pad_edge=False,
            caption=f"{len(self.finished)} of {len(self.names)} folds, {elapsed:.0f} s; "
            "Ctrl-C stops, the same command goes on",
            caption_justify="left",
        )
        table.add_column("member", no_wrap=True)
        for fold in range(max(map(len, members.values()))):
            table.add_column(f"fold {fold}", no_wrap=True)
        for member, names in members.items():
            table.add_row(member, *(self._cell(name) for name in names))
        return table

    def _cell(self, name: str) -> str:
        event = self.latest.get(name)
        if name in self.failed:
            return "[red]failed"
        if event is None:
            return "[green]done" if name in self.finished else "[dim]-"
        if not event.values:
            return "[dim]epoch 0"
        best = f"{float(event.values['best']):.3f}"
        if name in self.finished:
            return f"[green]{best}"
        return f"[bold]{best}[/] [dim]s{event.values['stage']} e{event.values['epoch']}/{event.total:.0f}"


def _show(report: "EnsembleReport", output: Path) -> None:
    from rich.table import Table

    from .console import console

    table = Table(box=None, pad_edge=False)
    table.add_column("member", overflow="fold")
    table.add_column("head")
    table.add_column("features", overflow="fold")
    for heading in ("parameters", "rows", "macro-F1", "UAR"):
        table.add_column(heading, justify="right")
    for member in report.members:
        described = (member.name, member.head, " + ".join(member.features), f"{member.parameters:,}")
        if member.error:
            table.add_row(*described, "-", "-", "-", style="red")
        else:
            table.add_row(*described, f"{member.rows:,}", f"{member.macro_f1:.3f}", f"{member.uar:.3f}")
    table.add_section()
    table.add_row(
        "majority class",
        *("",) * 4,
        f"{report.majority_macro_f1:.3f}",
        f"{1 / report.num_classes:.3f}",
        style="dim",
    )
    console.print(table)
    console.print("Out-of-fold: each row was predicted by a model that never heard its speaker.", style="dim")
    for member in report.members:
        if member.error:
            console.print(f"left out: {member.error}", style="red", markup=False, highlight=False)
    console.print(f"Next: sercache stack {output}", highlight=False, soft_wrap=True)
