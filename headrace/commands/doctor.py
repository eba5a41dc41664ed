"""`headrace doctor`: what this machine, the servers and a project need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import Code
from ..output import emit, table
from ..settings import settings
from .options import NOWHERE, Json, Kafka, Redis, secured


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: headrace doctor payments.py --kafka broker:9092")(secured(doctor))


def doctor(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A project file; its topics are looked at as well."),
    ] = None,
    kafka: Kafka = NOWHERE,
    redis: Redis = None,
    json: Json = False,
) -> None:
    """Look at Python, packages, Kafka, Redis, ports and a project, and say what to do.

    Exits 1 where something is wrong.
    """
    from ..doctor import examine

    findings = examine(settings(kafka=kafka, redis=redis), file)
    if json:
        emit({"findings": [finding._asdict() for finding in findings]})
    else:
        table("Findings", ("", "what", "found", "what to do"), findings)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(Code.FAILED)
