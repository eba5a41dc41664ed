"""What becomes of events that a state no longer keeps one by one.

A block beyond the capacity goes into tiles: cells aligned to the epoch, each with the partials of its events. A cell at
age a is as fine as the finest window whose edge can still cut it: 1/32 of that window's length, rounded down to a power
of two. And at every age it is at most 1/8 of the age, so that a window which nobody thought of when the state was begun
can be read from it too. Cells therefore nest, and are merged as they age. Order never reaches a tile: events enter when
they have left the lateness, in (time, id) order.

A block leaves for the base where something must outlive every window: lifetimes, and samples that remember times.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from .aggregation import present
from .plan import StatePlan, StateSpec, cell_size
from .state import TILED, Block, State

COARSER = (
    4  # times the size of its own cells that a window may find, if it was not there when the state was begun
)


def resolution(plan: StatePlan | StateSpec, age: int) -> int:
    """Returns the size of a cell whose newest moment has an age.

    A read that is late by up to a quarter of its window finds cells as fine as one that is not; for later ones they
    grow with the age. Cells for every moment of the lateness would be as many as it has moments.
    """
    most = cell_size(COARSER * age)
    for edge, size in plan.edges:  # by edge, each with the finest size of those at it and beyond
        if age <= edge + min(plan.lateness, edge // 4):
            return min(size, most)
    return most


def retire(plan: StatePlan, s: State, block: Block) -> None:
    """Moves a block into the tiles, and into the base where the plan has one."""
    s.flags |= TILED
    touched = max(0, len(s.tiles) - 1)
    times, row = [block.t0 + dt for dt in block.t], 0
    while row < len(times):
        t = times[row]
        cell = s.tiles[-1] if s.tiles else None
        if cell is None or t >= cell[0] + cell[1]:
            size = resolution(plan, s.newest - t)
            cell = [t - t % size, size, 0, t, t, [a.zero() for a, _ in plan.cells]]
            s.tiles.append(cell)
        end = bisect_left(times, cell[0] + cell[1], row)
        cell[2] += end - row
        cell[4] = times[end - 1]
        cell[5] = [
            a.extend(p, *_present(times, block, c, row, end))
            for (a, c), p in zip(plan.cells, cell[5], strict=True)
        ]
        row = end
    for cell in s.tiles[touched:]:
        cell[5] = [a.trim(p) for (a, _), p in zip(plan.cells, cell[5], strict=True)]
    if plan.bases:
        to_base(plan, s, block, aged=False)
    _coarsen(plan, s)
    ends = [cell[4] for cell in s.tiles]
    for k, (a, _) in enumerate(plan.cells):
        partials = a.trim_cells([cell[5][k] for cell in s.tiles], ends)
        for cell, partial in zip(s.tiles, partials, strict=True):
            cell[5][k] = partial


def to_base(plan: StatePlan, s: State, block: Block, aged: bool) -> None:
    """Adds a block to the bases; one that only windows read takes no block that has left them all (`aged`)."""
    if not s.base:
        s.base = [[0, a.zero()] for a, *_ in plan.bases]
    gone = s.newest - plan.lateness - plan.reach
    for entry, (a, c, forget, windowed) in zip(s.base, plan.bases, strict=True):
        if windowed and aged:
            entry[1] = a.expire(entry[1], gone)
            continue
        for row, t in enumerate(block.t0 + dt for dt in block.t):
            x = block.cols[c][row] if c >= 0 else None
            if forget and t - entry[0] > forget:
                entry[1] = a.zero()
            entry[0] = t
            if c < 0 or a.counts_missing or present(x):
                entry[1] = a.add(entry[1], t, x)
        entry[1] = a.trim(entry[1])
        if windowed:
            entry[1] = a.expire(entry[1], gone)


def _present(
    times: Sequence[int], block: Block, c: int, i: int, j: int
) -> tuple[Sequence[int], Sequence[Any]]:
    """Returns the times and the values of rows `i` to `j`, without those whose value is missing."""
    if c < 0:
        return times[i:j], [None] * (j - i)
    values = list(block.cols[c][i:j])
    rows = [k for k, x in enumerate(values) if present(x)]
    if len(rows) == j - i:
        return times[i:j], values
    return [times[i + k] for k in rows], [values[k] for k in rows]


def _coarsen(plan: StatePlan, s: State) -> None:
    """Drops cells that no window can see and merges those that have aged into a coarser size."""
    newest = s.newest
    gone = newest - plan.lateness - plan.reach
    merged: list[list[Any]] = []
    for cell in s.tiles:
        start, size, n, first, last, partials = cell
        if last <= gone:
            s.evicted = max(s.evicted, last)
            continue
        wanted = resolution(plan, newest - (start + size - 1))
        while wanted > size:  # only if the whole of the coarser cell is old enough for it
            end = start - start % wanted + wanted - 1
            if resolution(plan, newest - end) >= wanted:
                start, size = start - start % wanted, wanted
                break
            wanted >>= 1
        previous = merged[-1] if merged else None
        if previous is not None and start < previous[0] + previous[1]:
            previous[1] = max(previous[1], start + size - previous[0])
            previous[2] += n
            previous[4] = last
            previous[5] = [
                a.trim(a.merge(p, q)) for (a, _), p, q in zip(plan.cells, previous[5], partials, strict=True)
            ]
        else:
            merged.append([start, size, n, first, last, partials])
    s.tiles = merged
