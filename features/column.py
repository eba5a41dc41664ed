"""Columns: the attributes of an event class, named without strings.

`Transaction.amount` is, at run time, the slot of the attribute: it knows its class and its name. Type checkers see the
attribute's own type, so `Sum(Transaction.card)` is an error in the editor and `Sum(Transaction.amuont)` one at import.
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

import msgspec
import xxhash

from .errors import DefinitionError, EventRefused

Kind = Literal["number", "hash", "text"]

MISSING: dict[Kind, Any] = {"number": float("nan"), "hash": 0, "text": None}  # how a state keeps no value

UNIT = 1 << 128  # stored sums are integers in units of 2**-128
_SCALE = 2.0**128
LARGEST = 2.0**96  # numbers of this size and more leave the range of the stored sums
SMALL = 2.0**-75  # below this a double has digits finer than the unit
_LONGEST_INT = 1 << 53
KEY = 0x48656164  # the seed of every stored hash; changing it changes the state format


@dataclass(frozen=True, slots=True)
class Column:
    """One attribute of an event class: its name, its type and whether it may be missing."""

    owner: type[msgspec.Struct]
    name: str
    type: type
    nullable: bool

    def __str__(self) -> str:
        return f"{self.owner.__name__}.{self.name}"

    @property
    def numeric(self) -> bool:
        """Whether its values have an order and a sum."""
        return self.type in (float, int, bool)

    @property
    def type_text(self) -> str:
        """Its type as it is written, such as `float | None`."""
        return self.type.__name__ + (" | None" if self.nullable else "")


def column_of(attribute: object, use: str) -> Column:
    """Returns the column that an attribute like `Transaction.amount` stands for.

    Raises:
        DefinitionError: it is not an attribute of an event class.
    """
    if isinstance(attribute, Column):
        return attribute
    owner = getattr(attribute, "__objclass__", None)
    name = getattr(attribute, "__name__", "")
    if not (
        isinstance(owner, type) and issubclass(owner, msgspec.Struct) and name in owner.__struct_fields__
    ):
        raise DefinitionError(
            f"{use} is given {attribute!r}, which is no column",
            why="a column is an attribute of an event class (a msgspec.Struct)",
            fix="write it like Transaction.amount, without quotes",
        )
    return _columns(owner)[name]


def columns_of(owner: type[msgspec.Struct]) -> dict[str, Column]:
    """Returns every attribute of an event class that can be a column, by name."""
    return dict(_columns(owner))


@lru_cache(maxsize=256)
def _columns(owner: type[msgspec.Struct]) -> dict[str, Column]:
    hints = typing.get_type_hints(owner, include_extras=False)
    columns = {}
    for name in owner.__struct_fields__:
        base, nullable = _plain_type(hints[name])
        columns[name] = Column(owner, name, base, nullable)
    return columns


def _plain_type(hint: Any) -> tuple[type, bool]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        nullable = len(members) < len(typing.get_args(hint))
        if len(members) == 1:
            return _plain_type(members[0])[0], nullable
        return object, nullable
    if typing.get_origin(hint) is Literal:
        kinds = {type(value) for value in typing.get_args(hint)}
        return (kinds.pop() if len(kinds) == 1 else object), False
    return (hint if isinstance(hint, type) else object), False


def require(column: Column, allowed: tuple[type, ...], use: str) -> Column:
    """Returns the column if its type is one that the aggregation can take."""
    if column.type not in allowed:
        names = ", ".join(kind.__name__ for kind in allowed)
        raise DefinitionError(
            f"{use} cannot take {column}, which is {getattr(column.type, '__name__', column.type)}",
            fix=f"give it a column of type {names}",
        )
    return column


NUMBERS = (float, int, bool)
SCALARS = (float, int, bool, str)
KEYS = (str, int, bool)


def number(value: Any, column: Column) -> float:
    """Returns a value as the state keeps it: finite, below 2**96, a multiple of 2**-128, and never minus zero.

    Raises:
        EventRefused: the value cannot be kept exactly.
    """
    if column.type is int and not -_LONGEST_INT <= value <= _LONGEST_INT:
        raise EventRefused(
            "number_out_of_range", f"{column} is beyond 2**53", fix="send an integer of at most 2**53"
        )
    x = float(value)
    if not -LARGEST < x < LARGEST:  # also true of NaN
        raise EventRefused(
            "number_out_of_range", f"{column} is {value!r}", fix="send a finite number below 2**96"
        )
    if -SMALL < x < SMALL:
        return int(x * _SCALE) / UNIT
    return x


def hashed(value: Any) -> int:
    """Returns the 64-bit hash of a value; 0 stands for a missing one."""
    if isinstance(value, float):
        value += 0.0  # minus zero equals zero
    text = value if isinstance(value, str) else repr(value)
    return xxhash.xxh64_intdigest(text.encode(), KEY) or 1


def identity(value: str | int) -> int:
    """Returns the 32-bit hash by which an event is told from others of its entity and instant."""
    text = value if isinstance(value, str) else str(value)
    return xxhash.xxh64_intdigest(text.encode(), KEY) & 0xFFFFFFFF


TIMES = (datetime, int)
