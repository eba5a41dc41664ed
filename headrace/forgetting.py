"""Forgetting an entity: a record into every log that tells of it, and a look whether everybody has come past it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from features import keys
from features.forgetting import Forgetting, encode_forgetting
from features.partition import partition_of
from features.source import Entity, Source
from features.store import Group, Position, Store
from models.deployment import Deployment
from models.outcomes import Outcomes
from models.project import Project
from streams.join_stage import JoinStage
from streams.log import LogReader, Partition
from streams.producer import Outgoing, Producer
from streams.score_stage import ScoreStage
from streams.security import Kafka

from .errors import ServiceFailed, UsageRefused

_LOOK = 0.2  # seconds between two looks at the positions


class Place(NamedTuple):
    """A reader of a partition, and where it has to have come."""

    group: Group
    reader: str
    end: int


def checked(project: Project, name: str, key: str) -> Entity:
    """Returns the entity, if that can be one of its keys.

    Raises:
        DefinitionError: the project has no such entity.
        UsageRefused: the key has other parts, or says a number in another way than the states do.
    """
    entity = project.entity(name)
    parts = [key] if entity.width == 1 else list(_split(key))
    columns = next(found for view in project.views if (found := _columns(entity, view.source)) is not None)
    if len(parts) != entity.width:
        told = " | ".join(column.name for column in columns)
        raise UsageRefused(
            f"a key of {name} has {entity.width} part(s), this one has {len(parts)}",
            where="KEY",
            fix=f"give {told}, joined by |; a | or backslash within a part has a backslash before it",
        )
    for part, column in zip(parts, columns, strict=True):
        if column.type is int and not _is_whole(part):
            raise UsageRefused(
                f"{part!r} is no whole number, as {column} is", where="KEY", fix="write it as 42"
            )
    return entity


def records_of(
    project: Project, entity: Entity, key: str, partitions: Mapping[str, int], now_ms: int
) -> list[Outgoing]:
    """Returns what is written: to every log that has states of the entity or requests that name it.

    In a compacted topic it takes the place of the entity's own record: its key is the entity's, or no view could be.

    Args:
        project: whose logs.
        entity: and
        key: who is forgotten.
        partitions: of each topic.
        now_ms: when.
    """
    value = encode_forgetting(Forgetting(entity.name, key))
    out: list[Outgoing] = []
    for source in project.sources:
        if isinstance(source, Outcomes) or not _tells_of(project, source, entity):
            continue
        columns = entity.columns_in(source.event)
        by_key = columns is not None and source.key is not None and columns == (source.key,)
        placed = by_key and source.partitioner == "murmur2"
        count = partitions[source.topic]
        numbers = [partition_of(key.encode(), count)] if placed else range(count)
        named = key.encode() if by_key else None
        out.extend(Outgoing(source.topic, named, value, (), now_ms, number) for number in numbers)
    return out


async def forget(bootstrap: Kafka, records: Sequence[Outgoing]) -> dict[tuple[str, int], int]:
    """Writes the records; returns the ends of their partitions behind them.

    Raises:
        StreamsError: the broker does not take them.
    """
    async with Producer(bootstrap, delivery_timeout=30.0) as producer:
        await producer.send(records)
    places = {(record.topic, record.partition or 0) for record in records}
    return await asyncio.to_thread(_ends, bootstrap, places)


def _ends(bootstrap: Kafka, places: set[tuple[str, int]]) -> dict[tuple[str, int], int]:
    with LogReader(bootstrap) as reader:
        found = reader.highwaters({Partition(*place) for place in places})
    return {(topic, number): end for (topic, number), end in found.items()}


async def states_of(store: Store, deployment: Deployment, entity: str, key: str) -> int:
    """Returns how many states of an entity there are."""
    wanted: dict[Group, list[str]] = {}
    project = deployment.project
    for source in project.sources:
        plans = [plan for plan in project.plans_over(source) if plan.entity == entity]
        for group in deployment.groups[source.topic] if plans else ():
            prefixes = [keys.state_prefix(group.tag, deployment.codes[plan.fingerprint]) for plan in plans]
            wanted[group] = [prefix + key for prefix in prefixes]
    found = await store.read(wanted)
    return sum(value is not None for read in found.values() for value in read.values)


async def passed(
    store: Store,
    deployment: Deployment,
    bootstrap: Kafka,
    ends: Mapping[tuple[str, int], int],
    seconds: float,
    tick: Callable[[str], None],
) -> None:
    """Returns when everybody who reads these logs, and those that are written from them, has come past the ends.

    Raises:
        ServiceFailed: not within so many seconds; names who has not.
    """
    deadline = time.monotonic() + seconds
    project = deployment.project
    sources = {source.topic: source for source in project.sources}
    await _past(store, _readers(deployment, sources, ends), deadline, tick)
    asked = [model for topic, _ in ends for model in project.requested_by(sources[topic])]
    logs = {(model.log_topic, n) for model in asked for n in range(len(deployment.groups[model.log_topic]))}
    there = await asyncio.to_thread(_ends, bootstrap, logs) if logs else {}
    joins = [Place(deployment.groups[topic][n], JoinStage.reader, end) for (topic, n), end in there.items()]
    await _past(store, joins, deadline, tick)
    samples = {(model.samples_topic, 0) for model in asked if model.samples_topic in sources}
    there = await asyncio.to_thread(_ends, bootstrap, samples) if samples else {}
    await _past(store, _readers(deployment, sources, there), deadline, tick)


def _readers(
    deployment: Deployment, sources: Mapping[str, Source[Any]], ends: Mapping[tuple[str, int], int]
) -> list[Place]:
    found: list[Place] = []
    for (topic, number), end in ends.items():
        group = deployment.groups[topic][number]
        found.append(Place(group, "", end))
        if deployment.project.requested_by(sources[topic]):
            found.append(Place(group, ScoreStage.reader, end))
    return found


async def _past(store: Store, places: Sequence[Place], deadline: float, tick: Callable[[str], None]) -> None:
    left = list(places)
    while left:
        stands: list[tuple[Place, int]] = []
        for place in left:
            data = await store.get(keys.position(place.group.tag, place.reader))
            stands.append((place, 0 if data is None else Position.unpack(data).next))
        left = [place for place, at in stands if at < place.end]
        if not left:
            return
        first, at = next((place, at) for place, at in stands if at < place.end)
        told = f"{first.group.name}{f' ({first.reader})' if first.reader else ''} at {at} of {first.end}"
        tick(told)
        if time.monotonic() > deadline:
            raise ServiceFailed(
                f"not everybody has read what was written: {told}",
                why="no worker runs that reads it, or it is far behind",
                fix="start the workers: what was written is in the log, and takes effect when they read it",
            )
        await asyncio.sleep(_LOOK)


def _tells_of(project: Project, source: Source[Any], entity: Entity) -> bool:
    if any(plan.entity == entity.name for plan in project.plans_over(source)):
        return True
    return bool(project.requested_by(source)) and entity.columns_in(source.event) is not None


def _columns(entity: Entity, source: Source[Any]) -> Sequence[Any] | None:
    return next((found for event in source.event_classes() if (found := entity.columns_in(event))), None)


def _split(key: str) -> Iterator[str]:
    """Yields the parts of a key's text, as `key_text` joined them."""
    part, escaped = "", False
    for c in key:
        if escaped or c not in "|\\":
            part, escaped = part + c, False
        elif c == "\\":
            escaped = True
        else:
            yield part
            part = ""
    yield part


def _is_whole(text: str) -> bool:
    try:
        return text == str(int(text))
    except ValueError:
        return False
