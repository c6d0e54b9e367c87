"""cli: how answers look: tables and bars for people, JSON for machines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from penstock.record.codec import moment, to_json

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console() -> Console:
    """Standard output. What draws on it is loaded with it: a server needs none of it."""
    from rich.console import Console

    # A pipe has no width of its own: wide enough that no cell is broken.
    return Console(markup=False, highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 240)


def as_json(value: Any) -> None:
    """Print strict JSON."""
    sys.stdout.write(to_json(value, indent=2).decode() + "\n")


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; columns of numbers are set to the right."""
    from rich.table import Table

    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(head):
        numbers = bool(rows) and all(isinstance(row[i], (int, float)) for row in rows)
        made.add_column(name, justify="right" if numbers else "left")
    for row in rows:
        made.add_row(*(_text(cell) for cell in row))
    console().print(made)


def _text(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)


def at(time_ms: int) -> str:
    """A time in UTC, to the minute."""
    return moment(time_ms).strftime("%Y-%m-%d %H:%M")


@contextmanager
def bar(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error: call what it gives with (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    stderr = Console(stderr=True)
    with Progress(
        *columns, console=stderr, transient=True, disable=quiet or not stderr.is_terminal
    ) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
