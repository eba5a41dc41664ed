"""How commands speak: data on stdout, everything else on stderr, colours only where someone sees them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from .errors import Told

_PLAIN_WIDTH = 160  # of tables that nobody watches: no line is broken for a screen that is not there


def stdout() -> Console:
    """Returns the console of data; made at each call, since tests and shells exchange the stream."""
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)


def stderr() -> Console:
    """Returns the console of diagnostics."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=not sys.stderr.isatty())


def note(text: str) -> None:
    """Says something that is no data."""
    stderr().print(escape(text))


def emit(data: Any) -> None:
    """Writes data as JSON for a program."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    sys.stdout.write(orjson.dumps(data, option=options).decode())
    sys.stdout.flush()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table of data; nothing where there are no rows."""
    made = Table(*columns, title=title, title_justify="left", title_style="bold", header_style="bold")
    for row in rows:
        made.add_row(*[escape(text(cell)) for cell in row])
    if made.row_count:
        stdout().print(made)


def pairs(title: str, facts: Mapping[str, object]) -> None:
    """Writes names and values as a table."""
    table(title, ("", ""), facts.items())


def text(value: object) -> str:
    """Returns a value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text, value))
    return str(value)


def size(count: float) -> str:
    """Returns a number of bytes as people read it.

    >>> size(363), size(43_912_800_000)
    ('363 B', '43.9 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.3g} TB"


def failure(parts: Told) -> None:
    """Says what went wrong, where, why, and what to do."""
    console = stderr()
    console.print(f"[bold red]error:[/] {escape(parts.what)}")
    for name, part in (("where", parts.where), ("why", parts.why), ("fix", parts.fix)):
        if part:
            console.print(f"  [bold]{name + ':':<6}[/] {escape(part)}")


def progress(shown: bool | None = None) -> Progress:
    """Returns a bar on stderr; by default it shows where that is a terminal."""
    console = stderr()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=console.is_terminal,  # in a file the last state is worth a line
        disable=not (console.is_terminal if shown is None else shown),
    )
