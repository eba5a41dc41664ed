"""An event to try a model with, made from the columns of its request source."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from features.clock import from_ms
from features.column import Column, columns_of
from features.source import Source


def example(source: Source[Any], now_ms: int) -> dict[str, Any]:
    """Returns an event that the source would take, at the given time, with an id of its own."""
    made: dict[str, Any] = {}
    for name, column in columns_of(source.event).items():
        if column == source.time:
            made[name] = _time(column, now_ms)
        elif column == source.id:
            made[name] = f"try-{now_ms}" if column.type is str else now_ms
        else:
            made[name] = _value(column, now_ms)
    return {msgspec_name: made[name] for name, msgspec_name in _encoded_names(source.event)}


def _encoded_names(event: type[msgspec.Struct]) -> list[tuple[str, str]]:
    return list(zip(event.__struct_fields__, event.__struct_encode_fields__, strict=True))


def _value(column: Column, now_ms: int) -> Any:
    if column.nullable:
        return None
    made = {str: f"{column.name}-1", float: 42.5, int: 1, bool: False, datetime: from_ms(now_ms).isoformat()}
    return made.get(column.type)


def _time(column: Column, now_ms: int) -> int | str:
    return now_ms if column.type is int else from_ms(now_ms).isoformat()
