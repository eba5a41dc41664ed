"""Aggregations made again from what a stored specification says of their partials.

A state goes on being folded with everything it keeps, also when no view in the file asks for some of it any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .aggregation import Aggregation
from .aggregations import (
    Count,
    DecayedCount,
    DecayedSum,
    Distinct,
    First,
    Last,
    LastK,
    Min,
    Quantile,
    Sum,
    TopK,
    Variance,
)
from .column import Column

# by the name of the partial; aggregations of one kin are interchangeable, so any one of them will do
_MADE: dict[str, Callable[[Any, str], Aggregation[Any]]] = {
    "buckets": lambda column, _: Quantile(column, 0.5),
    "decayedcount": lambda _, half_life: DecayedCount(half_life),
    "decayedsum": DecayedSum,
    "distinct": lambda column, _: Distinct(column),
    "extremes": lambda column, _: Min(column),
    "first": lambda column, _: First(column),
    "heavy": lambda column, _: TopK(column, 1),
    "last": lambda column, _: Last(column),
    "lastk": lambda column, k: LastK(column, int(k)),
    "lookup": lambda column, _: Last(column).lookup(),
    "span": lambda *_: Count(),
    "squares": lambda column, _: Variance(column),
    "sum": lambda column, _: Sum(column),
}


def restored(name: str, column: Column | None, parameter: str) -> Aggregation[Any] | None:
    """Returns an aggregation that keeps a partial; None where the name is not one of Headrace's own."""
    made = _MADE.get(name)
    return None if made is None else made(column, parameter)
