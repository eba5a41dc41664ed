"""Reading: the values of a view at time t, from the states of its entity.

A read at any `t > newest - lateness` is exact: nothing in it comes after t, whatever the states have seen since. The
request's own event counts once: it is put into its place among the events of the window, or found to stand there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

from .aggregation import Aggregation, Events, Feature, Segment
from .clock import NEVER
from .errors import StateCorrupt
from .flat import FlatReader, Part
from .fold import locate
from .plan import StatePlan
from .sound import flaw
from .state import NARROWED, Kept, State, new_block, newest_event, whole
from .view import FeatureView
from .window import Lifetime, Window

Bases = Sequence[tuple[Aggregation[Any], int, int, bool]]


class Own(NamedTuple):
    """The request's own event, as the plan of a view keeps it."""

    t: int
    id32: int
    values: Sequence[Any]
    state: int  # which of the entity's states its record goes to


class Row(NamedTuple):
    """The values of a view, and what qualifies them."""

    values: list[Any]
    bounds: dict[str, int]  # feature -> how many events may be on the wrong side of a window's edge
    newest: int  # event time of the newest event of the entity; NEVER where it is unknown, or a lookup finds nothing
    late: bool  # the time is at or before `newest - lateness`: what has been dropped since could be missing


class _Part(NamedTuple):
    slot: int
    aggregation: Aggregation[Any]
    column: int
    nullable: bool
    sums: int
    cell: int
    base: int


class Reader:
    """The compiled reads of one view: its windows, and what each takes from the states."""

    def __init__(self, view: type[FeatureView], plan: StatePlan) -> None:
        self.view = view
        self.plan = plan
        self.names = [feature.name for feature in view.features]
        self._windows: list[tuple[Any, list[_Part], list[str]]] = []
        self._outputs: list[tuple[Aggregation[Any] | None, list[int]]] = []
        by_window: dict[Any, tuple[Any, list[_Part], list[str]]] = {}
        slots = 0
        for feature in view.features:
            parts = feature.aggregation.parts()
            _, items, names = by_window.setdefault(feature.window, (feature.window, [], []))
            names.append(feature.name)
            for part in parts:
                items.append(self._part(slots, part, feature))
                slots += 1
            taken = list(range(slots - len(parts), slots))
            combined = parts != (feature.aggregation,)
            self._outputs.append((feature.aggregation if combined else None, taken))
        self._windows = list(by_window.values())
        self._slots = slots
        self._plain = all(a is None for a, _ in self._outputs)
        self._looks_up = view.source.compacted
        flat = [
            (window, [Part(p.slot, p.aggregation, p.column, p.nullable) for p in items])
            for window, items, _ in self._windows
        ]
        self._flat = FlatReader(flat, plan.codes, slots, view.own_event)

    def _part(self, slot: int, part: Aggregation[Any], feature: Feature[Any]) -> _Part:
        plan = self.plan
        nullable = part.column is not None and part.column.nullable and not part.counts_missing
        return _Part(
            slot,
            part,
            plan.column_index(part),
            nullable,
            plan.sum_index(part),
            plan.cell_index(part),
            plan.base_index(part, feature),
        )

    def read(self, states: Sequence[Kept | None], t: int, own: Own | None) -> Row:
        """Returns the values at time t.

        Args:
            states: the entity's states, one a partition that can hold some; None where there is none.
            t: the request's clock.
            own: the request's own event, if it is one of the view's source.

        Raises:
            StateCorrupt: a state is not what a fold makes, and has no value.
        """
        try:
            plan = self.plan
            bounds: dict[str, int] = {}
            out = self._flat.read(states, t, own)
            if out is None:
                opened = [None if s is None else whole(plan, s) for s in states]
                out, bounds = self._general(opened, t, own)
            values = out
            if not self._plain:
                values = [
                    out[k[0]] if a is None else a.combine([out[i] for i in k]) for a, k in self._outputs
                ]
            newest = max([newest_event(s) for s in states if s is not None], default=NEVER)
            if self._looks_up and all(value is None for value in values):
                newest = NEVER  # its key was never there, or has been cleared: nobody need know which
            late = any(s is not None and t <= _settled(plan, s) for s in states)
            return Row(values, bounds, newest, late)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            for s in states:
                if s is not None and (found := flaw(self.plan, s)):
                    raise StateCorrupt(
                        f"a state of {self.plan.name} cannot be read: {found}",
                        fix="rebuild the features from the log",
                    ) from error
            raise

    def _general(
        self, states: Sequence[State | None], t: int, own: Own | None
    ) -> tuple[list[Any], dict[str, int]]:
        """Returns the values from whatever the states have, and the bounds of those that are not exact."""
        sights = self._sights(states, own)
        out: list[Any] = [None] * self._slots
        bounds: dict[str, int] = {}
        for window, items, names in self._windows:
            found = _gather(self.plan, window, t, sights)
            for item in items:
                out[item.slot] = item.aggregation.value(found.events(item))
            if found.bound:
                bounds.update(dict.fromkeys(names, found.bound))
        return out, bounds

    def _sights(self, states: Sequence[State | None], own: Own | None) -> list[_Sight]:
        """Returns the states as this request sees them: with its own event in its place, or without it."""
        sights = [_Sight(s, [] if s is None else _runs(s)) for s in states]
        if own is None:
            return sights
        place = _place(states, own)
        if place is None and self.view.own_event:
            block = new_block(self.plan, own.t, own.id32, own.values)
            _insert(sights[own.state], own, (block.t0, block.t, block.cols, 0, 1, None))
        elif place is not None and not self.view.own_event:
            k, at, row = place
            runs = sights[k].runs
            t0, times, cols, _, n, _ = runs[at]
            runs[at : at + 1] = _pieces((t0, times, cols, 0, row, None), (t0, times, cols, row + 1, n, None))
        return sights


# (t0, times, columns, first row, row after the last, totals of them all or None)
Run = tuple[int, Sequence[int], Sequence[Any], int, int, list[Any] | None]


class _Sight(NamedTuple):
    """One state as a request sees it: runs of exact events in time order."""

    state: State | None
    runs: list[Run]


class _Found:
    """What a window holds: exact events, and the partials of those that are taken whole or kept no more."""

    __slots__ = ("bases", "bound", "cells", "count", "loose", "segments", "start", "stop", "whole")

    def __init__(self, start: int, end: int) -> None:
        self.start, self.stop = start, end
        self.segments: list[Segment] = []
        self.loose: list[Segment] = []  # the segments that are not in `whole`
        self.whole: list[list[Any]] = []  # totals of runs inside the window
        self.cells: list[list[Any]] = []
        self.bases: list[list[list[Any]]] = []
        self.bound = 0
        self.count = 0

    def events(self, part: _Part) -> Events:
        """Returns what an aggregation takes of it."""
        events = Events(self.start, self.stop)
        events.column, events.nullable = part.column, part.nullable
        if part.sums >= 0 and self.whole:
            events.segments = self.loose
            events.n = sum([g.j - g.i for g in self.loose])
            events.partials = [totals[part.sums] for totals in self.whole]
        else:
            events.segments, events.n = self.segments, self.count
        if part.base >= 0:
            events.partials = events.partials + [base[part.base][1] for base in self.bases]
        elif self.cells:
            if part.cell >= 0:
                events.partials = events.partials + [cell[5][part.cell] for cell in self.cells]
            else:
                events.partials = events.partials + [(cell[2], cell[3], cell[4]) for cell in self.cells]
        return events


def _gather(plan: StatePlan, window: Window, t: int, sights: Sequence[_Sight]) -> _Found:
    end, start = t - window.delay, window.start(t)
    found = _Found(start, end)
    for sight in sights:
        s = sight.state
        begin: int | None = start
        if isinstance(window, Lifetime) and window.forget_after:
            begin = _since_silence(sight, plan.bases, end, window.forget_after)
            if begin is None:
                continue
        if s is not None:
            if s.base and begin == start:
                found.bases.append(s.base)
            if s.tiles:
                _take_cells(found, s, isinstance(window, Lifetime))
        _take_runs(found, sight.runs, start if begin is None else begin, end)
    found.count = sum([g.j - g.i for g in found.segments])
    return found


def _take_runs(found: _Found, runs: Sequence[Run], begin: int, end: int) -> None:
    for t0, times, cols, low, high, totals in runs:
        if t0 + times[high - 1] <= begin:
            continue
        if t0 + times[low] > end:
            break
        i = low if t0 + times[low] > begin else bisect_right(times, begin - t0, low, high)
        j = high if t0 + times[high - 1] <= end else bisect_right(times, end - t0, low, high)
        if i >= j:
            continue
        segment = Segment(t0, times, cols, i, j)
        found.segments.append(segment)
        if totals is not None and j - i == high - low:
            found.whole.append(totals)
        else:
            found.loose.append(segment)


def _take_cells(found: _Found, s: State, lives_on: bool) -> None:
    """Takes the tiles that belong to a window; one that its edge cuts is counted to the side of its last event."""
    start, end = found.start, found.stop
    for cell in s.tiles:
        n, first, last = cell[2], cell[3], cell[4]
        if lives_on:  # the base holds its events, also those too new for a delayed or late read
            found.bound += n if last > end else 0
        elif last > end:
            found.bound += n if first <= end else 0
        elif last > start:
            found.bound += n if first <= start else 0
            found.cells.append(cell)


def _runs(s: State) -> list[Run]:
    return [(b.t0, b.t, b.cols, 0, len(b.t), b.totals) for b in s.blocks]


def _insert(sight: _Sight, own: Own, run: Run) -> None:
    """Puts the request's own event where the fold would put it."""
    s, runs = sight.state, sight.runs
    if s is None or not s.blocks or own.t > s.newest:
        runs.append(run)
        return
    _, at, row = locate(s, own.t, own.id32)
    t0, times, cols, _, n, _ = runs[at]
    runs[at : at + 1] = _pieces((t0, times, cols, 0, row, None), run, (t0, times, cols, row, n, None))


def _pieces(*runs: Run) -> list[Run]:
    return [run for run in runs if run[3] < run[4]]


def _settled(plan: StatePlan, s: Kept) -> int:
    settled = newest_event(s) - plan.lateness
    return settled if isinstance(s, bytes) or not s.flags & NARROWED else max(settled, s.floor)


def _place(states: Sequence[State | None], own: Own) -> tuple[int, int, int] | None:
    """Returns where the own event already stands: state, block and row."""
    for k, s in enumerate(states):
        if s is None or not s.blocks or own.t > s.newest or own.t <= s.floor:
            continue
        found, block, row = locate(s, own.t, own.id32)
        if found:
            return (k, block, row)
    return None


def _since_silence(sight: _Sight, bases: Bases, end: int, forget: int) -> int | None:
    """Returns the exclusive start of the life that is going on at `end`; None if it is over.

    NEVER means that the base belongs to it.
    """
    oldest: int | None = None  # the oldest event of the life found so far
    for t0, times, _, low, high, _ in reversed(sight.runs):
        for row in range(high - 1, low - 1, -1):
            t = t0 + times[row]
            if t > end:
                continue
            if (end if oldest is None else oldest) - t > forget:
                return None if oldest is None else oldest - 1
            oldest = t
    entries = sight.state.base if sight.state is not None else []
    lives = [entry[0] for entry, kept in zip(entries, bases, strict=False) if not kept[3]]
    if (end if oldest is None else oldest) - max(lives, default=NEVER) > forget:
        return None if oldest is None else oldest - 1
    return NEVER
