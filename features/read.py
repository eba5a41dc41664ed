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
from .fold import locate
from .plan import StatePlan
from .state import NARROWED, Block, State, new_block
from .view import FeatureView
from .window import Lifetime


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
    newest: int  # event time of the newest event of the entity; NEVER where it is unknown
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

    def _part(self, slot: int, part: Aggregation[Any], feature: Feature[Any]) -> _Part:
        plan = self.plan
        nullable = part.column is not None and part.column.nullable
        return _Part(
            slot,
            part,
            plan.column_index(part),
            nullable,
            plan.sum_index(part),
            plan.cell_index(part),
            plan.base_index(part, feature),
        )

    def read(self, states: Sequence[State | None], t: int, own: Own | None) -> Row:
        """Returns the values at time t.

        Args:
            states: the entity's states, one a partition that can hold some; None where there is none.
            t: the request's clock.
            own: the request's own event, if it is one of the view's source.
        """
        plan = self.plan
        newest = max([s.newest for s in states if s is not None], default=NEVER)
        place = None if own is None else _place(states, own)
        counted = self.view.own_event
        extra: Block | None = None
        if own is not None and place is None and counted:
            extra = new_block(plan, own.t, own.values)
        out: list[Any] = [None] * self._slots
        bounds: dict[str, int] = {}
        for window, items, names in self._windows:
            bound = self._window(window, items, states, t, own, place, extra, counted, out)
            if bound:
                for name in names:
                    bounds[name] = bound
        values = (
            out
            if self._plain
            else [
                out[taken[0]] if a is None else a.combine([out[k] for k in taken])
                for a, taken in self._outputs
            ]
        )
        late = any(s is not None and t <= _settled(plan, s) for s in states)
        return Row(values, bounds, newest, late)

    def _window(
        self,
        window: Any,
        items: list[_Part],
        states: Sequence[State | None],
        t: int,
        own: Own | None,
        place: tuple[int, int, int] | None,
        extra: Block | None,
        counted: bool,
        out: list[Any],
    ) -> int:
        end = t - window.delay
        start = window.start(t)
        lives_on = isinstance(window, Lifetime)
        forget = window.forget_after if lives_on else 0
        events = Events(start, end)
        segments: list[Segment] = []
        loose: list[Segment] = []
        whole: list[Block] = []
        cells: list[list[Any]] = []
        bases: list[list[list[Any]]] = []
        bound = 0
        plan_bases = self.plan.bases
        for k, s in enumerate(states):
            mine = own if own is not None and k == own.state and extra is not None else None
            if s is None:
                if mine is not None and extra is not None and start < mine.t <= end:
                    _append(segments, loose, extra, 0, 1)
                continue
            begin = start
            if forget:
                begin = _since_silence(s, plan_bases if s.base else [], end, forget, mine.t if mine else None)
                if begin is None:
                    if mine is not None and extra is not None and mine.t <= end:
                        _append(segments, loose, extra, 0, 1)
                    continue
            if s.base and begin == start:
                bases.append(s.base)
            for cell in s.tiles:
                if lives_on:  # the base holds its events, also those too new for a delayed or late read
                    bound += cell[2] if cell[4] > end else 0
                    continue
                if cell[4] <= start or cell[3] > end:
                    continue
                if cell[4] > end:
                    bound += cell[2]
                    continue
                if cell[3] <= start:
                    bound += cell[2]
                cells.append(cell)
            cut = place if place is not None and place[0] == k and not counted else None
            seat = (
                locate(s, mine.t, mine.id32) if mine is not None and s.blocks and mine.t <= s.newest else None
            )
            last = len(s.blocks) - 1
            for b, block in enumerate(s.blocks):
                t0, dts = block.t0, block.t
                n = len(dts)
                i = 0 if t0 > begin else bisect_right(dts, begin - t0)
                j = n if t0 + dts[n - 1] <= end else bisect_right(dts, end - t0) if t0 <= end else 0
                if seat is not None and seat[1] == b and extra is not None and begin < extra.t0 <= end:
                    p = seat[2]
                    if i < p:
                        _append(segments, loose, block, i, p)
                    _append(segments, loose, extra, 0, 1)
                    if p < j:
                        _append(segments, loose, block, max(i, p), j)
                    continue
                if i >= j:
                    continue
                if cut is not None and cut[1] == b and i <= cut[2] < j:
                    if i < cut[2]:
                        _append(segments, loose, block, i, cut[2])
                    if cut[2] + 1 < j:
                        _append(segments, loose, block, cut[2] + 1, j)
                elif b < last and j - i == n and block.totals is not None:
                    segments.append(Segment(t0, dts, block.cols, i, j))
                    whole.append(block)
                else:
                    _append(segments, loose, block, i, j)
            if mine is not None and seat is None and extra is not None and begin < mine.t <= end:
                _append(segments, loose, extra, 0, 1)
        count = sum([g.j - g.i for g in segments])
        brief = count if not whole else sum([g.j - g.i for g in loose])
        for slot, aggregation, column, nullable, sums, cell_index, base_index in items:
            events.column = column
            events.nullable = nullable
            partials: list[Any] = []
            if sums >= 0 and whole:
                events.segments, events.n = loose, brief
                partials = [block.totals[sums] for block in whole]  # type: ignore[index]  # whole blocks have totals
            else:
                events.segments, events.n = segments, count
            if base_index >= 0:
                partials += [base[base_index][1] for base in bases]
            elif cells:
                if cell_index >= 0:
                    partials += [cell[5][cell_index] for cell in cells]
                else:
                    partials += [(cell[2], cell[3], cell[4]) for cell in cells]
            events.partials = partials
            out[slot] = aggregation.value(events)
        return bound


def _append(segments: list[Segment], loose: list[Segment], block: Block, i: int, j: int) -> None:
    segment = Segment(block.t0, block.t, block.cols, i, j)
    segments.append(segment)
    loose.append(segment)


def _settled(plan: StatePlan, s: State) -> int:
    return max(s.newest - plan.lateness, s.floor) if s.flags & NARROWED else s.newest - plan.lateness


def _place(states: Sequence[State | None], own: Own) -> tuple[int, int, int] | None:
    """Returns where the own event already stands: state, block and row."""
    for k, s in enumerate(states):
        if s is None or not s.blocks or own.t > s.newest or own.t <= s.floor:
            continue
        found, block, row = locate(s, own.t, own.id32)
        if found:
            return (k, block, row)
    return None


def _since_silence(s: State, bases: Bases, end: int, forget: int, own: int | None) -> int | None:
    """Returns the exclusive start of the life that is going on at `end`; None if it is over.

    NEVER means that the base belongs to it.
    """
    times = [block.t0 + dt for block in s.blocks for dt in block.t if block.t0 + dt <= end]
    if own is not None and own <= end:
        times.append(own)
        times.sort()
    oldest: int | None = None  # the oldest event of the life found so far
    for t in reversed(times):
        if (end if oldest is None else oldest) - t > forget:
            return None if oldest is None else oldest - 1
        oldest = t
    settled = max((entry[0] for entry, kept in zip(s.base, bases, strict=True) if not kept[3]), default=NEVER)
    if (end if oldest is None else oldest) - settled > forget:
        return None if oldest is None else oldest - 1
    return NEVER
