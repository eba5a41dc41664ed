"""Reading a few exact events flat: what most entities have, at a tenth of the time that the general way takes.

It knows nothing of tiles, bases and lives. Where a state has more than exact events it answers None, and the general
reader does the work; both give the same bits, because every value is a function of the set of events in its window.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from math import fsum
from typing import Any, NamedTuple

from .aggregation import Aggregation, Events, Segment, present
from .fold import locate
from .small import Run, events_of, holds
from .state import Kept, newest_event
from .window import Lifetime, Sliding, Window

MOST = 192  # events; beyond, the totals of closed blocks are faster than looking at each event


class Part(NamedTuple):
    """One aggregation over one window: the slot that its value goes to, and the column that it is of (-1: none)."""

    slot: int
    aggregation: Aggregation[Any]
    column: int
    nullable: bool


OfValues = Callable[[Sequence[Any]], Any]
OfSum = Callable[[float, int], Any]


class _Window(NamedTuple):
    window: Window
    columns: list[tuple[int, bool, list[tuple[int, OfValues, OfSum | None]]]]
    timed: list[Part]  # what needs more than the values


class FlatReader:
    """The compiled reads of one view over exact events.

    Args:
        windows: each window of the view with its parts.
        codes: of the columns that a state keeps.
        slots: how many parts there are.
        own_event: whether the view counts the request's own event.
    """

    def __init__(
        self,
        windows: Sequence[tuple[Window, Sequence[Part]]],
        codes: Sequence[str | None],
        slots: int,
        own_event: bool,
    ) -> None:
        parts = [part for _, items in windows for part in items]
        self._slots = slots
        self._own_event = own_event
        self._codes = codes
        self._needed = sorted({part.column for part in parts if part.column >= 0})
        self._ordered = any(part.aggregation.ordered for part in parts)
        self._lives = any(isinstance(window, Lifetime) and window.forget_after for window, _ in windows)
        self._windows = [_taken(window, items) for window, items in windows]
        self._one = _written_out(self._windows, slots)

    def read(self, states: Sequence[Kept | None], t: int, own: Any) -> list[Any] | None:
        """Returns the value of each slot at time t, or None where the states have more than a few exact events."""
        runs = None if self._lives else self._runs(states, own)
        if runs is None:
            return None
        if len(runs) == 1:
            return self._one(*runs[0], t)
        out: list[Any] = [None] * self._slots
        for window, columns, timed in self._windows:
            begin, end = window.start(t), t - window.delay
            cuts = [
                (bisect_right(run[1], begin - run[0]), bisect_right(run[1], end - run[0])) for run in runs
            ]
            for c, nullable, functions in columns:
                xs: Sequence[Any]
                if c < 0:
                    xs = range(sum([j - i for i, j in cuts]))
                else:
                    xs = [x for run, (i, j) in zip(runs, cuts, strict=True) for x in run[2][c][i:j]]
                if nullable:
                    xs = [x for x in xs if present(x)]
                for slot, function, _ in functions:
                    out[slot] = function(xs)
            for part in timed:
                out[part.slot] = part.aggregation.value(_events(part, runs, cuts, begin, end))
        return out

    def _runs(self, states: Sequence[Kept | None], own: Any) -> list[Run] | None:
        """Returns the events in runs, in the order of time where one state has them all; None where it is not so."""
        runs: list[Run] = []
        n = holders = 0
        for s in states:
            if s is None:
                continue
            if isinstance(s, bytes):
                run = events_of(s, self._codes, self._needed)
                n += run[3]
                holders += 1
                runs.append(run)
                continue
            n += s.n
            if s.tiles or s.base or n > MOST:
                return None
            if s.blocks:
                holders += 1
                runs.extend([(b.t0, b.t.tolist(), self._columns(b.cols), len(b.t)) for b in s.blocks])
        if holders > 1 and self._ordered:
            return None
        if own is None:
            return runs
        newer = all(s is None or _empty(s) or own.t > newest_event(s) for s in states)
        if not newer:
            found = any(s is not None and _holds(s, own) for s in states)
            return runs if found and self._own_event else None
        if self._own_event:
            if len(runs) == 1:
                t0, times, cols, count = runs[0]
                times.append(own.t - t0)
                for c in self._needed:
                    cols[c].append(own.values[c])
                runs[0] = (t0, times, cols, count + 1)
            else:
                runs.append((own.t, [0], [[x] for x in own.values], 1))
        return runs

    def _columns(self, cols: Sequence[Any]) -> list[Any]:
        """Returns the columns that the view reads, as lists."""
        lists: list[Any] = [None] * len(self._codes)
        for c in self._needed:
            column = cols[c]
            lists[c] = column.copy() if type(column) is list else column.tolist()
        return lists


def _taken(window: Window, items: Sequence[Part]) -> _Window:
    columns: dict[tuple[int, bool], list[tuple[int, OfValues, OfSum | None]]] = {}
    timed = []
    for part in items:
        function = part.aggregation.of_values()
        if function is None:
            timed.append(part)
        else:
            taken = (part.slot, function, part.aggregation.of_sum())
            columns.setdefault((part.column, part.nullable), []).append(taken)
    return _Window(window, [(*key, taken) for key, taken in columns.items()], timed)


def _written_out(
    windows: Sequence[_Window], slots: int
) -> Callable[[int, list[int], list[Any], int, int], list[Any]]:
    """Returns the function from a single run and a time to the value of each slot.

    It is written out and compiled: to walk through windows and columns takes as long as what is to be computed.
    """
    known: dict[str, Any] = {
        "bisect_right": bisect_right,
        "fsum": fsum,
        "present": present,
        "events": _events,
    }
    lines = [
        "now, newest = t - t0, times[-1]",
        *(
            f"j{delay} = n if newest <= now - {delay} else bisect_right(times, now - {delay})"
            for delay in sorted({w.window.delay for w in windows})
        ),
    ]
    for k, (window, columns, timed) in enumerate(windows):
        j = f"j{window.delay}"
        if isinstance(window, Sliding):
            lines.append(f"begin = t - {window.reach}")
        else:
            known[f"start{k}"] = window.start
            lines.append(f"begin = start{k}(t)")
        lines.append("i = bisect_right(times, begin - t0)")
        for c, nullable, functions in columns:
            if c < 0:
                lines.append(f"xs = range({j} - i)")
            else:
                lines.append(f"xs = cols[{c}] if {j} - i == n else cols[{c}][i:{j}]")
                if nullable:
                    lines.append("xs = [x for x in xs if present(x)]")
            if any(of_sum for _, _, of_sum in functions):
                lines.append("total, size = fsum(xs), len(xs)")
            for slot, function, of_sum in functions:
                known[f"f{slot}"] = of_sum or function
                lines.append(f"v{slot} = f{slot}({'total, size' if of_sum else 'xs'})")
        for part in timed:
            known[f"p{part.slot}"], known[f"f{part.slot}"] = part, part.aggregation.value
            cut = f"[(t0, times, cols, n)], [(i, {j})], begin, t - {window.delay}"
            lines.append(f"v{part.slot} = f{part.slot}(events(p{part.slot}, {cut}))")
    body = "\n".join(
        f"    {line}" for line in [*lines, f"return [{', '.join(f'v{k}' for k in range(slots))}]"]
    )
    exec(f"def one(t0, times, cols, n, t):\n{body}", known)  # noqa: S102  # made of numbers
    made: Callable[[int, list[int], list[Any], int, int], list[Any]] = known["one"]
    return made


def _events(part: Part, runs: Sequence[Run], cuts: Sequence[tuple[int, int]], begin: int, end: int) -> Events:
    events = Events(begin, end)
    events.column, events.nullable = part.column, part.nullable
    for (t0, times, cols, _), (i, j) in zip(runs, cuts, strict=True):
        if i < j:
            events.segments.append(Segment(t0, times, cols, i, j))
            events.n += j - i
    return events


def _empty(s: Kept) -> bool:
    return not isinstance(s, bytes) and not s.blocks


def _holds(s: Kept, own: Any) -> bool:
    """Whether the request's own event stands in a state already."""
    if isinstance(s, bytes):
        return holds(s, own.t, own.id32)
    return bool(s.blocks) and s.floor < own.t <= s.newest and locate(s, own.t, own.id32)[0]
