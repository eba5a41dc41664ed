"""`headrace produce`: a file of events to Kafka."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageRefused
from ..output import emit, note, progress
from ..settings import settings
from .options import NOWHERE, File, Json, Kafka, secured


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: headrace produce payments.py transactions tx.ndjson --rate 500")(
        secured(produce)
    )


def produce(
    file: File,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Its topic, or the dataset in it: transactions.")
    ],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="NDJSON, CSV or Parquet.")],
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.001, help="Events a second; as fast as possible without.")
    ] = None,
    kafka: Kafka = NOWHERE,
    json: Json = False,
) -> None:
    """Send a file of events to a source's topic, keyed and timed as declared, and wait for the broker."""
    from ..opening import open_project
    from ..producing import produce as send
    from ..reading import count_of, events_of

    if not data.is_file():
        raise UsageRefused(f"there is no file {data}", where="DATA", fix="correct the path")
    project = open_project(file, check_learners=False).project
    target = project.source(source)
    with progress() as bar:
        task = bar.add_task(target.topic, total=None if bar.disable else count_of(data), rate="")
        acknowledged = 0

        def tick(count: int) -> None:
            nonlocal acknowledged
            acknowledged += count
            bar.advance(task, count)

        try:
            asyncio.run(
                send(target, events_of(target, data), settings(kafka=kafka).brokers, rate=rate, tick=tick)
            )
        finally:
            if json:
                emit({"topic": target.topic, "acknowledged": acknowledged})
            else:
                note(f"{acknowledged} events acknowledged on {target.topic}")
