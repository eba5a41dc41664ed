"""What a state cannot be that a fold made: looked for when a read fails, and only then.

`decode` checks that the bytes have the shape of a state. To look at every number in them as well would cost each read
as much as the read itself. Most that no fold would keep give a value all the same. Where one does not, the state is to
blame; where none is found, our code is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .aggregation import Aggregation, Events
from .clock import FIRST, LAST
from .column import LARGEST
from .plan import StatePlan
from .state import Kept, State, whole


def flaw(plan: StatePlan, kept: Kept) -> str | None:
    """Returns what is wrong with a state that was decoded, in words; None where nothing is."""
    s = whole(plan, kept)
    times, newest = [], FIRST
    for tile in s.tiles:
        times += [tile[3], tile[4]]
    for block in s.blocks:
        times += [block.t0 + dt for dt in block.t]
    for t in times:
        if not isinstance(t, int) or not FIRST <= t <= LAST:
            return f"an event has the time {t!r}"
    for block in s.blocks:
        for dt in block.t:
            if block.t0 + dt < newest:
                return "its events are not in the order of time"
            newest = block.t0 + dt
    if not FIRST <= s.newest <= LAST:
        return f"its newest event has the time {s.newest}"
    for k, (path, kind) in enumerate(zip(plan.paths, plan.kinds, strict=True)):
        missing = plan.columns[k].nullable or plan.source.compacted  # what a tombstone clears is missing
        for x in (x for block in s.blocks for x in block.cols[k] if kind == "number"):
            if not (-LARGEST < x < LARGEST or (missing and x != x)):
                return f"{path} is {x}"
    return next(
        (f"a partial of {type(a).__name__} is none" for a, p in _partials(plan, s) if not _is(a, p)), None
    )


def _partials(plan: StatePlan, s: State) -> Iterator[tuple[Aggregation[Any], Any]]:
    for block in s.blocks:
        for (a, _), p in zip(plan.sums, block.totals or (), strict=False):
            yield a, p
    for tile in s.tiles:
        for (a, _), p in zip(plan.cells, tile[5], strict=True):
            yield a, p
    for (_, p), (a, *_) in zip(s.base, plan.bases, strict=False):
        yield a, p


def _is(aggregation: Aggregation[Any], partial: Any) -> bool:
    try:
        events = Events(FIRST, LAST)
        events.partials = [partial]
        aggregation.value(events)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return False
    return True
