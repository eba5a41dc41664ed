"""Inputs made at request time: plain functions of the request and of views, and the ready-made ones.

One mechanism serves them all: an `Input` names its slots, says which views it reads, and is called with the request's
event and the rows of those views. It runs in one place for the API, the worker and the replay.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from .aggregation import Feature
from .column import Column, column_of
from .errors import DefinitionError
from .fingerprint import function_fingerprint
from .view import FeatureView

Scalar = float | int | bool | str | None
_SCALARS = (float, int, bool, str)
EARTH_KM = 6371.0088  # mean radius (IUGG)


class Input:
    """One function of the request, whose value takes one slot of the vector."""

    def __init__(
        self,
        name: str,
        kind: type,
        nullable: bool,
        views: tuple[type[FeatureView], ...],
        call: Callable[..., Scalar],
        meaning: str,
    ) -> None:
        self.name, self.type, self.nullable, self.views, self.call, self.meaning = (
            name, kind, nullable, views, call, meaning,
        )  # fmt: skip

    def __repr__(self) -> str:
        return self.name


def function_input(function: Callable[..., Any], event: type[msgspec.Struct]) -> Input:
    """Returns the input that a typed function of the request and of views makes.

    Raises:
        DefinitionError: an argument is neither the request nor a view, or the result is no scalar.
    """
    name = function.__name__
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise DefinitionError(
            f"the types of {name} cannot be resolved: {error}", fix="define them above"
        ) from error
    arguments = list(inspect.signature(function).parameters)
    views: list[type[FeatureView]] = []
    pick: list[int] = []  # for each argument: -1 the request, else the index of its view
    for argument in arguments:
        hint = hints.get(argument)
        if hint is event:
            pick.append(-1)
        elif isinstance(hint, type) and issubclass(hint, FeatureView):
            if hint not in views:
                views.append(hint)
            pick.append(views.index(hint))
        else:
            raise DefinitionError(
                f"{name} takes {argument}: {getattr(hint, '__name__', hint)}, which is neither the request nor a view",
                fix=f"annotate it with {event.__name__} or a FeatureView",
            )
    kind, nullable = _result(hints.get("return"), name)

    def call(request: Any, *rows: Any) -> Scalar:
        value: Scalar = function(*[request if k < 0 else rows[k] for k in pick])
        return value

    return Input(name, kind, nullable, tuple(views), call, function_fingerprint(function))


def _result(hint: Any, name: str) -> tuple[type, bool]:
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    members = typing.get_args(hint) if union else (hint,)
    kinds = [member for member in members if member is not type(None)]
    if len(kinds) != 1 or kinds[0] not in _SCALARS:
        raise DefinitionError(
            f"{name} returns {getattr(hint, '__name__', hint)}",
            fix="annotate a result of float, int, bool or str",
        )
    return kinds[0], len(members) > len(kinds)


def hour(column: datetime, *, tz: str = "UTC") -> Input:
    """Returns the input of the hour of day, 0 to 23, in a time zone."""
    return _calendar("hour", column, tz, int, lambda local: local.hour)


def weekday(column: datetime, *, tz: str = "UTC") -> Input:
    """Returns the input of the day of the week, 0 for Monday to 6 for Sunday."""
    return _calendar("weekday", column, tz, int, lambda local: local.weekday())


def weekend(column: datetime, *, tz: str = "UTC") -> Input:
    """Returns the input of whether it is Saturday or Sunday."""
    return _calendar("weekend", column, tz, bool, lambda local: local.weekday() >= 5)


def night(column: datetime, *, tz: str = "UTC", until: int = 6) -> Input:
    """Returns the input of whether the hour of day is at most `until`."""
    return _calendar(f"night_until_{until}", column, tz, bool, lambda local: local.hour <= until)


def _calendar(what: str, column: object, tz: str, kind: type, read: Callable[[datetime], Scalar]) -> Input:
    time = column_of(column, what)
    if time.type is not datetime or time.nullable:
        raise DefinitionError(f"{what} of {time}", fix="give it a datetime column that is never missing")
    try:
        zone = ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise DefinitionError(
            f"time zone {tz!r} is unknown", fix='use a name like "Europe/Zurich"'
        ) from error
    get = attrgetter(time.name)
    name = what.partition("_")[0]
    return Input(
        f"{time.name}.{name}",
        kind,
        False,
        (),
        lambda event: read(get(event).astimezone(zone)),
        f"{what} {time} {tz}",
    )


def distance(latitude: float, longitude: float, *, to: tuple[object, object]) -> Input:
    """Returns the input of the great-circle distance, in km, from the request to the place that a view remembers.

    Args:
        latitude: column of the request, in degrees.
        longitude: column of the request, in degrees.
        to: the features `Last(...latitude)` and `Last(...longitude)` of one view with `own_event=False`.

    The value is missing where the view knows no place yet.
    """
    here = (column_of(latitude, "distance"), column_of(longitude, "distance"))
    there = to
    if not all(isinstance(feature, Feature) for feature in there):
        raise DefinitionError(
            "distance(to=...) is not two features", fix="give it (View.last_lat, View.last_lon)"
        )
    lat, lon = typing.cast("tuple[Feature[Any], Feature[Any]]", there)
    if lat.view is not lon.view:
        raise DefinitionError("distance(to=...) names two views", fix="take both features from one view")
    read = attrgetter(here[0].name, here[1].name)

    def call(event: Any, row: FeatureView) -> float | None:
        values = row.as_dict()
        last = (values[lat.name], values[lon.name])
        return None if None in last else haversine_km(*read(event), *last)

    meaning = f"distance {here[0]} {here[1]} {lat!r} {lon!r}"
    return Input(f"distance_to.{lat.view.__name__}", float, True, (lat.view,), call, meaning)


def haversine_km(lat1: float, lon1: float, lat2: float, lon2: float) -> float:
    """Returns the great-circle distance of two places in degrees, in km, by the haversine formula.

    Example:
        >>> round(haversine_km(47.3769, 8.5417, 46.2044, 6.1432))
        224
    """
    p1, p2 = math.radians(lat1), math.radians(lat2)
    a = (
        math.sin((p2 - p1) / 2) ** 2
        + math.cos(p1) * math.cos(p2) * math.sin(math.radians(lon2 - lon1) / 2) ** 2
    )
    return 2 * EARTH_KM * math.asin(min(1.0, math.sqrt(a)))


def column_input(column: Column) -> Input:
    """Returns the input that passes an attribute of the request through."""
    if column.type not in _SCALARS:
        raise DefinitionError(
            f"{column} is {getattr(column.type, '__name__', column.type)}, which no model can take",
            fix="write a function that makes a number, a truth value or a text of it",
        )
    return Input(column.name, column.type, column.nullable, (), attrgetter(column.name), f"column {column}")
