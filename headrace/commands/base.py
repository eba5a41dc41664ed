"""`headrace base`: every state at one position of the log, so that checks need not begin where the log once did."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..output import emit, table
from ..settings import settings
from .options import NOWHERE, File, Json, Kafka, Log, Redis, secured

if TYPE_CHECKING:
    from streams.security import Brokers

Bases = Annotated[
    Path | None,
    typer.Option("--bases", metavar="DIR", help="A folder of bases, for what the log no longer holds."),
]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: headrace base payments.py --to /var/lib/headrace/bases")(secured(base))


def base(
    file: File,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder of bases; made if missing.")],
    log: Log = None,
    kafka: Kafka = NOWHERE,
    redis: Redis = None,
    json: Json = False,
) -> None:
    """Fold the log on from the newest bases and write new ones at its end.

    Run it daily, and at least once in the time for which the log is kept. The states come from the log alone.
    """
    from ..opening import open_project

    loaded = open_project(file, check_learners=False)
    config = settings(kafka=kafka, redis=redis)
    made: list[Path] = asyncio.run(_make(loaded, log, config.brokers, config.redis, to))
    if json:
        emit({"bases": [path.name for path in made]})
    else:
        table("Bases", ("file", "bytes"), [(path.name, path.stat().st_size) for path in made])


async def _make(loaded: Any, log: Any, kafka: Brokers, redis: str, folder: Path) -> list[Path]:
    from streams.recompute import make_bases

    from ..logs import opened

    async with opened(loaded, log, kafka, redis) as places:
        return make_bases(
            places.deployment, places.log, bases_in(folder, places.deployment.project), places.first
        )


def bases_in(folder: Path, project: Any) -> Any:
    """Returns the bases of a project in a folder."""
    from streams.bases import Bases as InFolder

    return InFolder(folder, {source.topic: project.plans_digest(source) for source in project.sources})
