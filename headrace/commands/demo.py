"""`headrace demo`: the whole loop on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from ..output import emit, note, pairs
from .options import Json


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: headrace demo --seconds 30 --json")(demo)


def demo(
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds", min=1.0, help="Produce events so long, verify, and end; until Ctrl-C without."
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="Port of the page; 8000 or a free one without."),
    ] = None,
    json: Json = False,
) -> None:
    """Run everything at once: Kafka, Redis, a worker, the API with a live page, and a town that pays by card.

    No Docker, no account; it ends without a trace. With --seconds, it recomputes every prediction at the end and prints
    the figures; --json prints them for a program and nothing else.
    """
    from ..demo.runner import run

    if not json:
        note("starting Kafka, Redis, a worker and the API ...")
    figures = run(seconds, port, told=not json)
    if figures is None:
        note("demo ended; nothing is left of it")
    elif json:
        emit(figures)
    else:
        pairs("Figures", figures)
