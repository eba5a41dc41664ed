"""Lookups: what a view over a compacted source may ask, and how a tombstone is written where there are no records.

Compaction keeps the newest record of a key and removes the others, sooner or later. So a view may ask only for what the
newest record decides alone: its columns, from when it came until another one replaces them or a tombstone clears them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import fields

from .aggregation import Feature
from .aggregations.order import Last
from .clock import to_ms
from .errors import DefinitionError, EventRefused
from .source import Entity, Source, Tombstone
from .window import Lifetime

_WHY = "compaction keeps the newest record of a key alone, and a tombstone has no columns"


def look_up(
    view: str, of: Entity, source: Source[Any], where: object, features: Sequence[Feature[Any]]
) -> None:
    """Makes the features of a view over a compacted source lookups.

    Raises:
        DefinitionError: one asks for more than the newest record of a key; names the view and the feature.
    """
    key = source.key
    assert key is not None  # as of every compacted source
    columns = of.columns_in(source.event)
    if columns is None or [column.name for column in columns] != [key.name]:
        raise DefinitionError(
            f"view {view} is of {of.name}, which is not the key of {source.topic}",
            why="a tombstone says its key and nothing else, so it could not clear another entity",
            fix=f"make it a view of an entity by {key}",
        )
    if where is not None:
        raise DefinitionError(
            f"view {view} filters {source.topic} by where=",
            why=_WHY,
            fix="look the column up, and test its value",
        )
    for feature in features:
        aggregation, window = feature.aggregation, feature.window
        if type(aggregation) is not Last:
            raise DefinitionError(
                f"{view}.{feature.name} asks for {type(aggregation).__name__} over the compacted source {source.topic}",
                why=_WHY,
                fix="ask for Last, or read a topic that keeps all records: a source without compacted=True",
            )
        if not isinstance(window, Lifetime) or window.delay:
            raise DefinitionError(
                f"{view}.{feature.name} is {window} over the compacted source {source.topic}",
                why="what a key had before its newest record is gone, and what it has does not expire by itself",
                fix=f"write Last({aggregation.column}).lifetime(unbounded=True), or forget_after= where it does expire",
            )
        feature.aggregation = aggregation.lookup()


def tombstone_in(source: Source[Any], row: Mapping[str, Any]) -> Tombstone | None:
    """Returns the tombstone that a row of a compacted source stands for; None where it gives more than key and time.

    Args:
        source: whose row it is.
        row: values by the names of the columns; one that is None, or that events do not have, gives nothing.

    Raises:
        EventRefused: its key or its time is not what the source declares.
    """
    names = {field.name: field.encode_name for field in fields(source.event)}
    key, time = source.key, source.time
    assert key is not None  # as of every compacted source
    if {name for name, written in names.items() if row.get(written) is not None} != {key.name, time.name}:
        return None
    try:
        entity: Any = msgspec.convert(row[names[key.name]], key.type, strict=False)
        at: Any = msgspec.convert(row[names[time.name]], time.type, strict=False)
    except msgspec.ValidationError as error:
        raise EventRefused("undecodable", str(error), where=source.topic) from error
    source.check_time(at)
    return Tombstone(str(entity).encode(), to_ms(at) if isinstance(at, datetime) else at)
