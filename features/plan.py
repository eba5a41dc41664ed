"""The plan of a state: what is kept of which events, decided once when the project is loaded.

Views over the same entity, source and filter share one plan. Its specification is plain data with a fingerprint, so
that two processes can tell whether they mean the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec

from .aggregation import Aggregation, Feature
from .column import Column, Kind
from .errors import DefinitionError
from .extract import extractor
from .fingerprint import function_fingerprint, short_digest
from .source import Entity, Source, key_text
from .window import Calendar, Lifetime

if TYPE_CHECKING:
    from .view import FeatureView

Values = tuple[Any, ...]
FOREVER = 1 << 63
FORMAT = 1  # of the bytes of a state
PARTS = 32  # cells a window
Kin = tuple[str, str, str]  # what a partial holds: its name, the path of its column, its parameter
BaseKey = tuple[
    str, str, str, int, bool
]  # and how long after the last event it is forgotten, and whether windows read it


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
    columns: tuple[tuple[str, str], ...]  # (path in the event, kind)
    kept: tuple[tuple[str, str, str], ...]  # the partials of tiles: (name, column, parameter)
    bases: tuple[tuple[str, str, str, int, bool], ...]  # and of bases: ..., forgotten after, read by windows
    edges: tuple[tuple[int, int], ...]  # (age, size of cells up to it) in milliseconds
    reach: int  # milliseconds that the longest window reaches back
    lateness: int
    revises: bool

    def fingerprint(self) -> str:
        """Returns the digest that names the state."""
        return short_digest(msgspec.json.encode(self))


class StatePlan:
    """How the events of one source become the states of one entity."""

    def __init__(self, source: Source[Any], entity: Entity, views: Sequence[type[FeatureView]]) -> None:
        first = views[0]
        self.source = source
        self.entity = entity
        self.where = first.where
        self.keep = _both(source.filter, first.where)
        self.name = f"{entity.name} of {source.topic}"
        self.lateness = source.lateness
        self.revises = source.revises
        features = [feature for view in views for feature in view.features]
        self._columns(features)
        self._partials(features)
        self._reach(features)
        self.by = key_columns(source, entity, f"view {first.__name__}")
        self.partial = not self._follows_key()
        self.spec = StateSpec(
            format=FORMAT,
            source=source.topic,
            entity=entity.name,
            by=self.by,
            where=function_fingerprint(self.where) if self.where else "",
            id=source.id.name if source.id else "",
            time=source.time.name,
            columns=tuple((path, kind) for path, kind in zip(self.paths, self.kinds, strict=True)),
            kept=tuple(self._cell_of),
            bases=tuple(self._base_of),
            edges=self.edges,
            reach=self.reach,
            lateness=self.lateness,
            revises=self.revises,
        )
        self.fingerprint = self.spec.fingerprint()
        # milliseconds behind its group's clock at which an event can be seen by nobody, and its entity has gone
        lifetimes = [forget for _, _, forget, windowed in self.bases if not windowed]
        self.retain = FOREVER if 0 in lifetimes else self.reach + max(lifetimes, default=0) + self.lateness
        self.row_bytes = 8 + 8 * len(self.kinds)
        self.key_of = self._key_reader()
        self.extract = extractor(self.paths, self.columns, self.kinds)

    def column_index(self, part: Aggregation[Any]) -> int:
        """Returns where the plan keeps the column of an aggregation; -1 for one without a column."""
        return -1 if part.column is None else self._index[(part.column, part.keeps)]

    def cell_index(self, part: Aggregation[Any]) -> int:
        """Returns where a tile keeps the partial of an aggregation; -1 if it does not."""
        return self._cell_of.get(self._kin(part), -1)

    def sum_index(self, part: Aggregation[Any]) -> int:
        """Returns where a closed block keeps the partial of an aggregation; -1 if it does not."""
        return self._sum_of.get(self._kin(part), -1)

    def base_index(self, part: Aggregation[Any], feature: Feature[Any]) -> int:
        """Returns where the base keeps the partial of an aggregation for a feature; -1 if it does not."""
        return -1 if _in_cells(part, feature) else self._base_of.get(self._base_key(part, feature), -1)

    # what the views need

    def _columns(self, features: Sequence[Feature[Any]]) -> None:
        self._index: dict[tuple[Column, Kind | None], int] = {}
        self.columns: list[Column] = []
        self.kinds: list[Kind] = []
        self.paths: list[str] = []
        for part in sorted(_parts(features), key=lambda part: (str(part.column), str(part.keeps))):
            if part.column is None or part.keeps is None or (part.column, part.keeps) in self._index:
                continue
            path = self.source.locate(part.column)
            if path is None:
                raise DefinitionError(
                    f"{part!r} names a column that events of {self.source.topic} do not have",
                    where=f"views of {self.name}",
                    fix=f"use a column of {self.source.event.__name__}",
                )
            self._index[(part.column, part.keeps)] = len(self.columns)
            self.columns.append(part.column)
            self.kinds.append(part.keeps)
            self.paths.append(path)

    def _partials(self, features: Sequence[Feature[Any]]) -> None:
        cells: dict[Kin, tuple[Aggregation[Any], int]] = {}
        sums: dict[Kin, tuple[Aggregation[Any], int]] = {}
        bases: dict[BaseKey, tuple[Aggregation[Any], int, int, bool]] = {}
        for feature in features:
            for part in feature.aggregation.parts():
                kin, column = self._kin(part), self.column_index(part)
                if part.compact:
                    sums.setdefault(kin, (part, column))
                if not _in_cells(part, feature):
                    key = self._base_key(part, feature)
                    bases.setdefault(key, (part, column, *key[3:]))
                elif part.kin[0] != "span":  # a cell's head is its span
                    cells.setdefault(kin, (part, column))
        self._cell_of = {kin: k for k, kin in enumerate(sorted(cells))}
        self._sum_of = {kin: k for k, kin in enumerate(sorted(sums))}
        self._base_of = {key: k for k, key in enumerate(sorted(bases))}
        self.cells = [cells[kin] for kin in self._cell_of]
        self.sums = [sums[kin] for kin in self._sum_of]
        self.bases = [bases[key] for key in self._base_of]

    def _kin(self, part: Aggregation[Any]) -> Kin:
        # by the path in the event: columns of two classes may have one name
        name, _, parameter = part.kin
        column = self.column_index(part)
        return (name, self.paths[column] if column >= 0 else "", str(parameter))

    def _base_key(self, part: Aggregation[Any], feature: Feature[Any]) -> BaseKey:
        window = feature.window
        if isinstance(window, Lifetime):
            return (*self._kin(part), window.forget_after, False)
        return (*self._kin(part), 0, True)

    def _reach(self, features: Sequence[Feature[Any]]) -> None:
        windows = [feature.window for feature in features]
        self.reach = max(window.reach for window in windows)
        edges: dict[int, int] = {}
        for window in windows:
            if isinstance(window, Lifetime):
                continue
            size = cell_size(window.width)
            for edge in {window.reach, window.delay} - {0}:
                edges[edge] = min(size, edges.get(edge, size))
        self.coarsest = max(edges.values(), default=1)
        finest, reversed_edges = self.coarsest, []
        for edge in sorted(edges, reverse=True):
            finest = min(finest, edges[edge])
            reversed_edges.append((edge, finest))
        self.edges = tuple(reversed(reversed_edges))
        if any(isinstance(window, Calendar) for window in windows):
            # the edge of a calendar window wanders through every age up to its reach
            size = min(cell_size(window.width) for window in windows if isinstance(window, Calendar))
            self.edges = tuple((edge, min(size, cell)) for edge, cell in self.edges)

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


def plans_of(views: Sequence[type[FeatureView]]) -> list[StatePlan]:
    """Returns one plan for each source, entity and filter that views share, in the order of the views."""
    groups: dict[tuple[int, int, int], list[type[FeatureView]]] = {}
    for view in views:
        groups.setdefault((id(view.source), id(view.of), id(view.where) if view.where else 0), []).append(
            view
        )
    return [StatePlan(members[0].source, members[0].of, members) for members in groups.values()]


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
