"""The vector: states and a request become the inputs of a model. There is no other assembler."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, NamedTuple

from .aggregation import Feature
from .clock import NEVER
from .column import column_of
from .errors import DefinitionError, EventRefused
from .fingerprint import short_digest
from .plan import StatePlan, key_columns, plan_for
from .read import Own, Reader, Row
from .source import Source, key_text
from .state import Kept
from .transforms import Input, Scalar, column_input, function_input
from .view import FeatureView


class Assembled(NamedTuple):
    """A vector and what qualifies it."""

    vector: list[Scalar]
    flags: list[str]  # "unknown:<View>", "late:<View>", "approximate:<View>"
    newest: int  # event time of the newest event behind it; NEVER where there is none


class Slot(NamedTuple):
    """One position of the vector."""

    name: str
    type: type
    nullable: bool
    topics: frozenset[str] = frozenset()  # of the views that it is made from


class Wanted(NamedTuple):
    """Which entity of which plan a request reads."""

    plan: StatePlan
    key: Callable[[Any], str]


# an input, or how many slots a feature takes; the views that it reads, and which of their features it is
_Step = tuple[Input | None, int, list[int], list[int]]


class Vector:
    """The ordered inputs of a model over one request source, compiled.

    Args:
        request: the source whose events are scored.
        inputs: columns of the request, views, features, functions of the request and of views, ready-made inputs.
        plans: the plans of every view of the project.
    """

    def __init__(self, request: Source[Any], inputs: Sequence[object], plans: Sequence[StatePlan]) -> None:
        self.request = request
        if request.id is None:
            raise DefinitionError(
                f"the requests of {request.topic} have no id",
                why="a request that is in the topic as well could not be counted once",
                fix="name the column: Source(..., id=<event class>.<column>)",
            )
        if not inputs:
            raise DefinitionError(
                "a model has no inputs", fix="list columns, views or functions in inputs=[...]"
            )
        self._views: list[type[FeatureView]] = []
        self._steps: list[_Step] = []
        self.slots: list[Slot] = []
        meanings = [self._input(item) for item in inputs]
        names = [slot.name for slot in self.slots]
        for name in names:
            if names.count(name) > 1:
                raise DefinitionError(f"two inputs are called {name!r}", fix="rename or drop one of them")
        self.names = names
        self._steps = _joined(self._steps)
        self._bind(plans)
        self.fingerprint = short_digest("\n".join((*names, *meanings, *self._state_meanings())).encode())

    # compiling

    def _view(self, view: type[FeatureView]) -> int:
        if view not in self._views:
            self._views.append(view)
        return self._views.index(view)

    def _input(self, item: object) -> str:
        if isinstance(item, type) and issubclass(item, FeatureView):
            for feature in item.features:
                self._feature(item, feature)
            return f"view {[_meaning(feature) for feature in item.features]} own {item.own_event}"
        if isinstance(item, Feature):
            if item.view is None:
                raise DefinitionError(
                    f"the input {item!r} belongs to no view", fix="make it an attribute of a FeatureView"
                )
            self._feature(item.view, item)
            return f"feature {_meaning(item)} own {item.view.own_event}"
        if isinstance(item, types.FunctionType):
            made = function_input(item, self.request.event)
        elif isinstance(item, Input):
            made = item
        else:
            column = column_of(item, "an input")
            if not issubclass(self.request.event, column.owner):
                raise DefinitionError(
                    f"the input {column} is not a column of the request, {self.request.event.__name__}",
                    why="nothing provides it when a request comes",
                    fix="take a column of the request, or a feature of a view over the other source",
                )
            made = column_input(column)
        self._steps.append((made, 0, [self._view(view) for view in made.views], []))
        topics = frozenset(view.source.topic for view in made.views)
        self.slots.append(Slot(made.name, made.type, made.nullable, topics))
        return made.meaning

    def _feature(self, view: type[FeatureView], feature: Feature[Any]) -> None:
        index = self._view(view)
        place = view.features.index(feature)
        width = feature.aggregation.width
        self._steps.append((None, width, [index], [place]))
        column = next((part.column for part in feature.aggregation.parts() if part.column is not None), None)
        kind, nullable = _feature_type(feature, column.type if column else float)
        name, topics = f"{view.__name__}.{feature.name}", frozenset((view.source.topic,))
        if width == 1:
            self.slots.append(Slot(name, kind, nullable, topics))
            return
        ranked = feature.aggregation.kin[0] == "heavy"
        for k in range(width):
            label = f"{name}.{k // 2 + 1}.{'count' if k % 2 else 'value'}" if ranked else f"{name}.{k + 1}"
            self.slots.append(Slot(label, int if ranked and k % 2 else kind, True, topics))

    def _bind(self, plans: Sequence[StatePlan]) -> None:
        self.wanted: list[Wanted] = []
        self._readers: list[tuple[Reader, int]] = []
        bound: dict[int, int] = {}
        for view in self._views:
            plan = plan_for(view, plans)
            if plan is None:
                raise DefinitionError(
                    f"view {view.__name__} is not part of the project", fix="add it to views=[...]"
                )
            if id(plan) not in bound:
                bound[id(plan)] = len(self.wanted)
                self.wanted.append(Wanted(plan, _request_key(self.request, view)))
            self._readers.append((Reader(view, plan), bound[id(plan)]))

    def _state_meanings(self) -> list[str]:
        return [wanted.plan.fingerprint for wanted in self.wanted]

    # running

    def assemble(
        self, event: Any, t: int, states: Sequence[Sequence[Kept | None]], home: Sequence[int]
    ) -> Assembled:
        """Returns the vector of a request.

        Args:
            event: the request's event.
            t: its time.
            states: for each of `wanted`, the entity's states, one a partition that can hold some.
            home: for each of `wanted`, which of these states the event itself goes to.

        Raises:
            EventRefused: a function failed on this request, or a value is not finite.
        """
        owns = [
            self._own(wanted.plan, event, t, place) for wanted, place in zip(self.wanted, home, strict=True)
        ]
        rows: list[Row] = []
        flags: list[str] = []
        newest = NEVER
        for reader, k in self._readers:
            row = reader.read(states[k], t, owns[k])
            rows.append(row)
            name = reader.view.__name__
            if row.newest == NEVER:
                flags.append(f"unknown:{name}")
            elif row.newest > newest:
                newest = row.newest
            if row.late:
                flags.append(f"late:{name}")
            if row.bounds:
                flags.append(f"approximate:{name}")
        return Assembled(self._vector(event, rows), flags, newest)

    def _own(self, plan: StatePlan, event: Any, t: int, place: int) -> Own | None:
        if plan.source is not self.request or (plan.keep is not None and not plan.keep(event)):
            return None
        return Own(t, plan.source.identify(event, 0), plan.extract(event), place)

    def _vector(self, event: Any, rows: Sequence[Row]) -> list[Scalar]:
        views: list[FeatureView | None] = [None] * len(rows)
        vector: list[Scalar] = []
        for made, width, indices, places in self._steps:
            if made is None:
                values = rows[indices[0]].values
                if width == 1:
                    vector.extend([values[place] for place in places])
                else:
                    vector.extend(_spread(values[places[0]], width))
                continue
            for k in indices:
                if views[k] is None:
                    reader = self._readers[k][0]
                    views[k] = reader.view(dict(zip(reader.names, rows[k].values, strict=True)))
            try:
                value = made.call(event, *[views[k] for k in indices])
            except (
                Exception
            ) as error:  # a user's function may raise anything; the event is refused, not the worker lost
                raise EventRefused(
                    "function_failed", f"{made.name} raised {type(error).__name__}: {error}", where="inputs"
                ) from error
            if value.__class__ not in _PLAIN:
                value = _plain(value, made.name)
            if value.__class__ is float and not isfinite(value):
                raise EventRefused("not_finite", f"{made.name} is {value!r}", where="inputs")
            vector.append(value)
        return vector


_PLAIN = frozenset({float, int, bool, str, type(None)})


def _plain(value: Any, name: str) -> Scalar:
    """Returns what a function gave as one of the types that a vector holds; numbers of NumPy are taken for Python's.

    Raises:
        EventRefused: it is something else, whatever the function promised.
    """
    item = getattr(value, "item", None)
    found = item() if callable(item) and getattr(value, "shape", None) == () else value
    for kind in (bool, int, float, str):
        if isinstance(found, kind):
            return kind(found)
    raise EventRefused("function_failed", f"{name} gave a {type(value).__qualname__}", where="inputs")


def _request_key(request: Source[Any], view: type[FeatureView]) -> Callable[[Any], str]:
    from operator import attrgetter

    paths = key_columns(request, view.of, f"inputs of a model: view {view.__name__}")
    read = attrgetter(*paths)
    return (lambda event: key_text(read(event))) if len(paths) > 1 else (lambda event: str(read(event)))


def _joined(steps: Sequence[_Step]) -> list[_Step]:
    """Returns the steps with features that follow each other, of one view and of a slot each, in one."""
    joined: list[_Step] = []
    for made, width, views, places in steps:
        last = joined[-1] if joined else None
        if (
            last is not None
            and made is None
            and last[0] is None
            and width == last[1] == 1
            and views == last[2]
        ):
            last[3].extend(places)
        else:
            joined.append((made, width, views, list(places)))
    return joined


def _meaning(feature: Feature[Any]) -> str:
    aggregation = feature.aggregation
    return f"{feature!r} by {[part.code for part in (aggregation, *aggregation.parts())]}"


def _spread(value: Sequence[Any], width: int) -> list[Scalar]:
    flat: list[Scalar] = []
    for item in value:
        flat.extend(item) if isinstance(item, tuple) else flat.append(item)
    return flat + [None] * (width - len(flat))


def _feature_type(feature: Feature[Any], column: type) -> tuple[type, bool]:
    name = type(feature.aggregation).__name__
    if name in ("Count", "Distinct"):
        return int, False
    if name in ("Sum", "DecayedSum", "DecayedCount"):
        return float, False
    if name in ("Min", "Max", "First", "Last", "LastK", "TopK"):
        return column, True
    return float, True
