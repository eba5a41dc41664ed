"""`headrace forget`: one entity, from features, from what waits to be learned, and from outcomes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..output import emit, pairs, progress
from ..settings import settings
from .options import NOWHERE, File, Json, Kafka, Redis, secured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streams.producer import Outgoing
    from streams.security import Brokers

    from ..loading import Loaded


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: headrace forget payments.py card card-7")(secured(forget))


def forget(
    file: File,
    entity: Annotated[str, typer.Argument(metavar="ENTITY", help="The name of an entity of the project.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its key; parts of a key are joined by |.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Return when every worker has come past it.")
    ] = True,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for them.")] = 60.0,
    kafka: Kafka = NOWHERE,
    redis: Redis = None,
    json: Json = False,
) -> None:
    """Forget all that was known of an entity: a record in the logs that tell of it takes back what stands before it.

    Its states go, requests of it that wait for a label are not learned, and outcomes of it are not counted any more.
    What comes after the record counts as of somebody new. Not taken back: the records in the logs themselves, which go
    with their retention; what other entities' states have counted; what models have learned.
    """
    from ..opening import open_project

    loaded = open_project(file, check_learners=False)
    config = settings(kafka=kafka, redis=redis)
    with progress() as bar:
        task = bar.add_task("waiting", total=None, rate="")

        def tick(told: str) -> None:
            bar.update(task, description=told)

        told = asyncio.run(
            _forget(
                loaded, entity, key, dry_run, timeout if wait else None, config.brokers, config.redis, tick
            )
        )
    if json:
        emit(told)
        return
    facts = {"written" if not dry_run else "would be written": told["records"]}
    if "states" in told:
        facts["states before"], facts["states now"] = told["states"]["before"], told["states"]["now"]
    pairs(f"{entity} {key}", facts)


async def _forget(
    loaded: Loaded,
    name: str,
    key: str,
    dry_run: bool,
    seconds: float | None,
    kafka: Brokers,
    redis: str,
    tick: Callable[[str], None],
) -> dict[str, Any]:
    from .. import forgetting
    from ..compose import deployed, partitions_now

    entity = forgetting.checked(loaded.project, name, key)
    topics = await asyncio.to_thread(partitions_now, loaded, kafka)
    now = time.time_ns() // 1_000_000
    records = forgetting.records_of(loaded.project, entity, key, topics, now)
    told: dict[str, Any] = {"entity": name, "key": key, "records": _places(records, {})}
    if dry_run:
        return told
    if seconds is None:
        told["records"] = _places(records, await forgetting.forget(kafka, records))
        return told
    async with deployed(loaded, redis, topics) as (store, deployment):
        before = await forgetting.states_of(store, deployment, name, key)
        ends = await forgetting.forget(kafka, records)
        await forgetting.passed(store, deployment, kafka, ends, seconds, tick)
        now_there = await forgetting.states_of(store, deployment, name, key)
    return told | {"records": _places(records, ends), "states": {"before": before, "now": now_there}}


def _places(records: Sequence[Outgoing], ends: Mapping[tuple[str, int], int]) -> list[str]:
    places = [(record.topic, record.partition or 0) for record in records]
    return [
        f"{topic}/{number}" + (f" before {ends[topic, number]}" if (topic, number) in ends else "")
        for topic, number in places
    ]
