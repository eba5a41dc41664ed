"""The plan of a state: what is kept of which events, decided once when the project is loaded.

Views over the same entity, source and filter share one plan. Its specification is plain data with a fingerprint, so
that two processes can tell whether they mean the same bytes, and a plan can be made from a specification that was
stored by another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from .aggregation import Aggregation, Feature
from .aggregations import Min, Sum, Variance
from .column import MISSING, Column, Kind
from .errors import DefinitionError
from .extract import extractor, parter
from .fingerprint import function_fingerprint, short_digest
from .restore import restored
from .small import FORMAT, appender
from .source import Entity, Source, key_text
from .window import Lifetime

if TYPE_CHECKING:
    from .view import FeatureView

Values = tuple[Any, ...]
FOREVER = 1 << 63
CODES: dict[Kind, Literal["d", "Q"]] = {"number": "d", "hash": "Q"}  # of arrays; texts are lists
PARTS = 32  # cells a window
Kin = tuple[
    str, str, str, str
]  # what a partial holds: its name, the path of its column, its parameter, its code
# and how long after the last event it is forgotten, and whether windows read it
BaseKey = tuple[str, str, str, str, int, bool]


def cell_size(width: int) -> int:
    """Returns the size of the cells of a window, in milliseconds."""
    return 1 << (max(1, width // PARTS).bit_length() - 1)


class StateSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the bytes of a state, as plain data."""

    format: int
    source: str
    entity: str
    by: tuple[str, ...]
    where: str  # fingerprint of the filter; empty without one
    id: str
    time: str
    columns: tuple[tuple[str, Kind, str], ...]  # (path in the event, what is kept of it, its type)
    kept: tuple[Kin, ...]  # the partials of tiles
    sums: tuple[Kin, ...]  # of closed blocks
    bases: tuple[BaseKey, ...]
    edges: tuple[tuple[int, int], ...]  # (age, size of cells up to it) in milliseconds
    reach: int  # milliseconds that the longest window reaches back
    lateness: int
    revises: bool

    def fingerprint(self) -> str:
        """Returns the digest that names the state."""
        return short_digest(msgspec.json.encode(self))

    @property
    def subject(self) -> tuple[str, tuple[str, ...], str]:
        """What it describes: the entity, where it stands in the events, and the filter."""
        return self.entity, self.by, self.where

    @property
    def told(self) -> str:
        """What it describes, in words."""
        return f"{self.entity} (by {', '.join(self.by)}{', filtered' if self.where else ''})"


class StatePlan:
    """How the events of one source become the states of one entity.

    Args:
        spec: what decides the bytes.
        source: where the events come from.
        where: the filter that `spec` names.
        columns: columns by their path; the source is asked for others.
        parts: aggregations by what their partials hold; others are made again.

    Raises:
        DefinitionError: the spec keeps something that the source's events or this version do not have.
    """

    def __init__(
        self,
        spec: StateSpec,
        source: Source[Any],
        where: Callable[[Any], bool] | None = None,
        columns: Mapping[str, Column] | None = None,
        parts: Mapping[Kin, Aggregation[Any]] | None = None,
    ) -> None:
        self.spec = spec
        self.source = source
        self.entity = spec.entity
        self.where = where
        self.name = f"{spec.entity} of {source.topic}"
        if spec.where and where is None:
            raise DefinitionError(
                f"the state of {self.name} has a filter that is not in the file any more",
                why="a filter is a function, of which only a fingerprint is stored",
                fix="keep a view with the filter",
            )
        self.keep = _both(source.filter, where)
        self.lateness = spec.lateness
        self.revises = spec.revises
        self.edges = spec.edges
        self.reach = spec.reach
        self.by = spec.by
        self.partial = not self._follows_key()
        self.fingerprint = spec.fingerprint()
        self._known = (dict(columns or {}), dict(parts or {}))
        self.paths = [path for path, _, _ in spec.columns]
        self.kinds: list[Kind] = [kind for _, kind, _ in spec.columns]
        self.columns = [self._column(path, told) for path, _, told in spec.columns]
        self._index = {(path, kind): k for k, (path, kind, _) in enumerate(spec.columns)}
        self._cell_of = {kin: k for k, kin in enumerate(spec.kept)}
        self._sum_of = {kin: k for k, kin in enumerate(spec.sums)}
        self._base_of = {key: k for k, key in enumerate(spec.bases)}
        self.cells = [self._part(kin) for kin in spec.kept]
        self.sums = [self._part(kin) for kin in spec.sums]
        self.bases = [(*self._part(key[:4]), *key[4:]) for key in spec.bases]
        # milliseconds behind its group's clock at which an event can be seen by nobody, and its entity has gone
        lifetimes = [forget for _, _, forget, windowed in self.bases if not windowed]
        self.retain = FOREVER if 0 in lifetimes else self.reach + max(lifetimes, default=0) + self.lateness
        self.row_bytes = 8 + 8 * len(self.kinds)  # an event with its id, if no column is text
        self.plain = "text" not in self.kinds
        self.codes = [CODES.get(kind) for kind in self.kinds]
        self.append = appender(self.codes, spec.lateness) if self.plain else None
        self.nothing = tuple([MISSING[kind] for kind in self.kinds])  # what it keeps of a tombstone
        self.key_of = self._key_reader()
        self.extract = extractor(self.paths, self.columns, self.kinds)
        self.part = parter(self, self.by, self.paths, self.columns, self.kinds)

    def adopting(self, spec: StateSpec) -> StatePlan:
        """Returns the plan that folds and reads the states of another spec, which covers this one's.

        Raises:
            DefinitionError: the spec keeps something that cannot be folded any more.
        """
        return self if spec == self.spec else StatePlan(spec, self.source, self.where, *self._known)

    def column_index(self, part: Aggregation[Any]) -> int:
        """Returns where the plan keeps the column of an aggregation; -1 for one without a column."""
        if part.column is None or part.keeps is None:
            return -1
        return self._index[(_path(self.source, part), part.keeps)]

    def cell_index(self, part: Aggregation[Any]) -> int:
        """Returns where a tile keeps the partial of an aggregation; -1 if it does not."""
        return self._cell_of.get(_kin(self.source, part), -1)

    def sum_index(self, part: Aggregation[Any]) -> int:
        """Returns where a closed block keeps the partial of an aggregation; -1 if it does not."""
        return self._sum_of.get(_kin(self.source, part), -1)

    def base_index(self, part: Aggregation[Any], feature: Feature[Any]) -> int:
        """Returns where the base keeps the partial of an aggregation for a feature; -1 if it does not."""
        if _in_cells(part, feature):
            return -1
        return self._base_of.get(_base_key(self.source, part, feature), -1)

    # what is kept

    def _column(self, path: str, told: str) -> Column:
        column = self._known[0].get(path) or self.source.column_at(path)
        if column is None or column.type_text != told:
            found = "that its events do not have" if column is None else f"that is {column.type_text} now"
            raise DefinitionError(
                f"the state of {self.name} keeps the column {path} ({told}), {found}",
                where=f"events of {self.source.topic}",
                fix="keep the column in the event class as it was",
            )
        return column

    def _part(self, kin: Kin) -> tuple[Aggregation[Any], int]:
        name, path, parameter, code = kin
        part = self._known[1].get(kin)
        if part is None and (not path or path in self.paths):
            part = restored(name, self.columns[self.paths.index(path)] if path else None, parameter)
        if part is None or part.code != code:
            known = "is unknown" if part is None else "has changed"
            raise DefinitionError(
                f"the state of {self.name} keeps {name}({path}), which {known}",
                why="it was made by other code than there is now",
                fix="keep a view with the aggregation as it was",
            )
        return part, self.column_index(part)

    def _follows_key(self) -> bool:
        source = self.source
        return (
            source.key is not None
            and source.partitioner == "murmur2"
            and self.by == (source.locate(source.key),)
        )

    # what runs for each event

    def _key_reader(self) -> Callable[[Any], str]:
        read = attrgetter(*self.by)
        return (lambda event: key_text(read(event))) if len(self.by) > 1 else (lambda event: str(read(event)))


# what views need


def plans_of(views: Sequence[type[FeatureView]]) -> list[StatePlan]:
    """Returns one plan for each source, entity and filter that views share, in the order of the views."""
    groups: dict[tuple[Any, ...], list[type[FeatureView]]] = {}
    for view in views:
        groups.setdefault((id(view.source), *_subject(view)), []).append(view)
    return [_plan(members) for members in groups.values()]


def plan_for(view: type[FeatureView], plans: Iterable[StatePlan]) -> StatePlan | None:
    """Returns the plan that a view is read from; None where none of these is."""
    subject = _subject(view)
    for plan in plans:
        if plan.source is view.source and plan.spec.subject == subject:
            return plan
    return None


def _subject(view: type[FeatureView]) -> tuple[str, tuple[str, ...], str]:
    """Returns what a view describes: the entity, where it stands in the events, and the filter."""
    by = key_columns(view.source, view.of, f"view {view.__name__}")
    return view.of.name, by, function_fingerprint(view.where) if view.where else ""


def _plan(views: Sequence[type[FeatureView]]) -> StatePlan:
    source = views[0].source
    entity, by, where = _subject(views[0])
    features = [feature for view in views for feature in view.features]
    parts = {_kin(source, part): part for part in _parts(features)}
    columns = {(_path(source, p), p.keeps): p.column for p in _parts(features) if p.column and p.keeps}
    cells = _cells(source, features)
    spec = StateSpec(
        format=FORMAT,
        source=source.topic,
        entity=entity,
        by=by,
        where=where,
        id=source.id.name if source.id else "",
        time=source.time.name,
        columns=tuple((path, kind, columns[path, kind].type_text) for path, kind in sorted(columns)),
        kept=tuple(sorted(cells)),
        sums=tuple(sorted(kin for kin, part in parts.items() if part.compact)),
        bases=tuple(sorted(_bases(source, features))),
        edges=_edges(features),
        reach=max(feature.window.reach for feature in features),
        lateness=source.lateness,
        revises=source.revises,
    )
    return StatePlan(
        spec, source, views[0].where, {path: c for (path, _), c in columns.items()}, {**cells, **parts}
    )


def _cells(source: Source[Any], features: Sequence[Feature[Any]]) -> dict[Kin, Aggregation[Any]]:
    """Returns the partials of tiles.

    A number is kept in every ordinary way where it is kept in one, so that another ordinary aggregation needs no other
    tiles: only keys with more events than are kept one by one have any.
    """
    cells: dict[Kin, Aggregation[Any]] = {}
    for feature in features:
        for part in feature.aggregation.parts():
            if not _in_cells(part, feature) or part.kin[0] == "span":  # a cell's head is its span
                continue
            cells.setdefault(_kin(source, part), part)
            if part.column is not None and part.column.numeric:
                ordinary = {_kin(source, p): p for p in _ordinary(part.column)}
                if _kin(source, part) in ordinary:
                    cells.update(ordinary)
    return cells


def _ordinary(column: Any) -> list[Aggregation[Any]]:
    return [Sum(column), Min(column), Variance(column)]


def _bases(source: Source[Any], features: Sequence[Feature[Any]]) -> set[BaseKey]:
    return {
        _base_key(source, part, feature)
        for feature in features
        for part in feature.aggregation.parts()
        if not _in_cells(part, feature)
    }


def _edges(features: Sequence[Feature[Any]]) -> tuple[tuple[int, int], ...]:
    """Returns the ages at which windows are cut, each with the finest size of cells that one at it or beyond asks for.

    The edge of a calendar window wanders through every age up to its reach; cells are as fine all the way.
    """
    edges: dict[int, int] = {}
    for window in (feature.window for feature in features):
        if isinstance(window, Lifetime):
            continue
        size = cell_size(window.width)
        for edge in {window.reach, window.delay} - {0}:
            edges[edge] = min(size, edges.get(edge, size))
    finest, found = max(edges.values(), default=1), []
    for edge in sorted(edges, reverse=True):
        finest = min(finest, edges[edge])
        found.append((edge, finest))
    return tuple(reversed(found))


def _kin(source: Source[Any], part: Aggregation[Any]) -> Kin:
    # by the path in the event: columns of two classes may have one name
    name, _, parameter = part.kin
    return (name, _path(source, part), str(parameter), part.code)


def _base_key(source: Source[Any], part: Aggregation[Any], feature: Feature[Any]) -> BaseKey:
    window = feature.window
    if isinstance(window, Lifetime):
        return (*_kin(source, part), window.forget_after, False)
    return (*_kin(source, part), 0, True)


def _path(source: Source[Any], part: Aggregation[Any]) -> str:
    """Returns the path of an aggregation's column in the events; empty for one without a column."""
    if part.column is None:
        return ""
    path = source.locate(part.column)
    if path is None:
        raise DefinitionError(
            f"{part!r} names a column that events of {source.topic} do not have",
            where=f"views over {source.topic}",
            fix=f"use a column of {source.event.__name__}",
        )
    return path


def key_columns(source: Source[Any], entity: Entity, where: str) -> tuple[str, ...]:
    """Returns the paths of an entity's key columns in the events of a source.

    Raises:
        DefinitionError: the entity does not occur in them.
    """
    for event in source.event_classes():
        columns = entity.columns_in(event)
        if columns is not None:
            paths = tuple(source.locate(column) for column in columns)
            return tuple(path for path in paths if path is not None)
    raise DefinitionError(
        f"entity {entity.name!r} has no column in the events of {source.topic}",
        where=where,
        why=f"its key is not among the columns of {source.event.__name__}",
        fix=f"add the column to the entity: Entity({entity.name!r}, by=(..., {source.event.__name__}.<column>))",
    )


def _both(
    one: Callable[[Any], bool] | None, other: Callable[[Any], bool] | None
) -> Callable[[Any], bool] | None:
    if one is None or other is None:
        return one or other
    return lambda event: one(event) and other(event)


def _parts(features: Sequence[Feature[Any]]) -> list[Aggregation[Any]]:
    return [part for feature in features for part in feature.aggregation.parts()]


def _in_cells(part: Aggregation[Any], feature: Feature[Any]) -> bool:
    """Whether old events are kept by time; a base that remembers last times cannot tell what a delayed window saw."""
    window = feature.window
    return not isinstance(window, Lifetime) and (part.home == "cells" or window.delay > 0)
