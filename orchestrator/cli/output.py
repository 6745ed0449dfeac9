"""What a command prints: tables and sentences for people, one JSON object for scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class Printer:
    """One for each command.

    json: facts go to stdout as one object on the last line, notes and progress to stderr, and tables nowhere.
    """

    def __init__(self, json: bool = False):
        self.json = json

    @cached_property
    def console(self) -> Console:
        """Where notes and progress go."""
        from rich.console import Console

        return Console(stderr=self.json, highlight=False)

    def note(self, sentence: str) -> None:
        """Say something to a person."""
        self.console.print(sentence, markup=False, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
        """Print rows for a person. Floats get four digits; numbers stand to the right; None is an empty cell."""
        if self.json:
            return
        from rich import box
        from rich.table import Table

        rows = [list(row) for row in rows]
        table = Table(
            title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False
        )
        for index, name in enumerate(columns):
            numeric = all(isinstance(row[index], (int, float)) or row[index] is None for row in rows)
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(_cell, row))
        self.console.print(table, markup=False)

    @contextmanager
    def counter(self, what: str) -> Iterator[Callable[[int], object]]:
        """Show how many there are so far, on a terminal only; yields what to call with each new number."""
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = SpinnerColumn(), TextColumn("{task.completed} {task.description}"), TimeElapsedColumn()
        hidden = not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=hidden) as progress:
            task = progress.add_task(what, total=None)
            yield lambda count: progress.update(task, completed=count)

    def facts(self, facts: Mapping[str, object]) -> None:
        """The outcome, for scripts. Call it last."""
        if self.json:
            from pydantic_core import to_json

            print(to_json(facts).decode(), flush=True)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
