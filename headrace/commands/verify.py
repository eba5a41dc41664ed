"""`headrace verify`: logged predictions, recomputed from the log and compared bit by bit."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from ..errors import Code
from ..output import emit, note, progress, table
from ..settings import settings
from .base import Bases, bases_in
from .options import NOWHERE, File, Json, Kafka, Log, Redis, Secret, secured


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: headrace verify payments.py --limit 10000")(secured(verify))


def verify(
    file: File,
    log: Log = None,
    bases: Bases = None,
    limit: Annotated[
        int,
        typer.Option("--limit", min=0, help="Check the newest so many predictions of each model; 0 is all."),
    ] = 100_000,
    kept: Annotated[
        bool,
        typer.Option(
            "--kept/--no-kept", help="Rebuild versions from the nearest kept one, or from the first sample."
        ),
    ] = True,
    kafka: Kafka = NOWHERE,
    redis: Redis = None,
    secret: Secret = None,
    json: Json = False,
) -> None:
    """Recompute the vector and the score of logged predictions from the log, and compare every bit.

    Exits 1 where one differs, and 3 where none could be checked.
    """
    from ..opening import open_project
    from ..verifying import Verdict

    loaded = open_project(file, check_learners=False)
    config = settings(kafka=kafka, redis=redis, secret=secret)
    verdicts: list[Verdict] = asyncio.run(_verify(loaded, log, bases, config, limit, kept))
    if json:
        emit({"models": [verdict.as_dict() for verdict in verdicts]})
    else:
        _show(verdicts)
    if any(verdict.different for verdict in verdicts):
        raise typer.Exit(Code.FAILED)
    if not any(verdict.checked for verdict in verdicts):
        note("nothing could be checked")
        raise typer.Exit(Code.UNCHECKED)


async def _verify(loaded: Any, log: Any, bases: Any, config: Any, limit: int, kept: bool) -> list[Any]:
    from streams.kept import Kept

    from ..compose import snapshot_key
    from ..logs import opened
    from ..verifying import verify as compare

    key = snapshot_key(loaded, config.secret_text)
    async with opened(loaded, log, config.brokers, config.redis, versions=kept) as places:
        project = places.deployment.project
        known = None if bases is None else bases_in(bases, project)
        with progress() as bar:
            task = bar.add_task("comparing", total=None, rate="")
            return [
                compare(
                    *(places, model, limit, lambda n: bar.advance(task, n), known),
                    Kept(model, places.kept.get(model.name, {}), [key], loaded.modules),
                )
                for model in project.models
            ]


def _show(verdicts: list[Any]) -> None:
    table(
        "Predictions, recomputed from the log",
        ("model", "logged", "equal", "different", "not checkable"),
        [(v.model, v.logged, v.equal, v.different, v.unchecked.total()) for v in verdicts],
    )
    table(
        "Not checkable",
        ("model", "predictions", "because"),
        [(v.model, n, reason) for v in verdicts for reason, n in v.unchecked.most_common()],
    )
    table(
        "Kept versions that are not trusted",
        ("model", "version", "because"),
        [(v.model, version, why) for v in verdicts for version, why in v.refused.items()],
    )
    table(
        "Differences",
        ("model", "id", "origin", "version", "what", "logged", "recomputed"),
        # repr: the shortest text that tells two floats apart
        [
            (v.model, d.id, d.origin, d.version, d.what, repr(d.logged), repr(d.recomputed))
            for v in verdicts
            for d in v.differences
        ],
    )
