"""`headrace features get`: the features of one entity, as the API reads them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..output import emit, pairs, text
from ..settings import settings
from .options import NOWHERE, File, Json, Kafka, Redis, moment, secured

if TYPE_CHECKING:
    from streams.security import Brokers


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(help="Features as they stand in the store.", no_args_is_help=True)
    example = "Example: headrace features get payments.py CardActivity card-7 --at 2026-01-31T12:00:00Z"
    group.command("get", epilog=example)(secured(get))
    app.add_typer(group, name="features")


def get(
    file: File,
    view: Annotated[str, typer.Argument(metavar="VIEW", help="The class name of a view.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="The entity; parts of a key are joined by |.")],
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="ISO 8601 with a zone, or milliseconds; now without."),
    ] = None,
    kafka: Kafka = NOWHERE,
    redis: Redis = None,
    json: Json = False,
) -> None:
    """Show the values of a view for one entity, and the log positions behind them."""
    t = time.time_ns() // 1_000_000 if at is None else moment(at)
    from ..opening import open_project

    loaded = open_project(file, check_learners=False)
    config = settings(kafka=kafka, redis=redis)
    told = asyncio.run(_look(loaded, view, key, t, config.brokers, config.redis))
    if json:
        emit(told)
        return
    pairs(f"{view} of {key}", {name: _exact(value) for name, value in told["values"].items()})
    facts = {"at": told["at"], "newest event": told["newest"], "flags": told["flags"], "as of": told["as_of"]}
    pairs("", {**facts, "as of": [f"{group}: {offset}" for group, offset in told["as_of"].items()]})


async def _look(loaded: Any, view: str, key: str, t: int, kafka: Brokers, redis: str) -> dict[str, Any]:
    from features.clock import from_ms
    from serving.lookup import Lookup
    from serving.reads import Reads

    from ..compose import deployed, partitions_now

    wanted = loaded.project.view(view)
    topics = await asyncio.to_thread(partitions_now, loaded, kafka)
    async with deployed(loaded, redis, topics) as (store, deployment):
        looked = await Lookup(wanted, deployment).at(Reads(store, lambda _: None), key, t)
    return {
        "view": view,
        "key": key,
        "at": from_ms(t).isoformat(),
        "values": looked.values,
        "newest": None if looked.newest is None else from_ms(looked.newest).isoformat(),
        "age_ms": None if looked.newest is None else t - looked.newest,
        "bounds": looked.bounds,
        "flags": looked.flags,
        "as_of": looked.as_of,
    }


def _exact(value: object) -> str:
    return repr(value) if isinstance(value, float) else text(value)
