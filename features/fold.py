"""The fold: one event into the state of its entity. There is no other way into a state.

What it does depends on the plan and on the entity's earlier records alone: no clock, no batch, no cache.
"""

from __future__ import annotations

from bisect import bisect_right
from enum import IntEnum

from .plan import StatePlan
from .state import NARROWED, TILED, State, Values, new_block
from .tiles import retire, to_base

BLOCK = 64  # events a block
CAPACITY = 512  # exact events a state; beyond, the oldest block goes into tiles
_SPAN = 1 << 32  # milliseconds that a block can span


class Folded(IntEnum):
    """What became of an event."""

    FOLDED = 0
    LATE = 1  # older than the lateness allows
    DUPLICATE = 2  # the same id at the same time
    CONFLICT = 3  # the same id at the same time with other content
    REVISED = 4  # the same, and the source says that the later one holds
    EXPIRED = 5  # so old that no window of any entity can see it


def fold(plan: StatePlan, s: State, t: int, id32: int, values: Values, offset: int) -> Folded:
    """Folds one event of the entity; `offset` is its place in the log.

    Args:
        plan: what the state keeps.
        s: the state, changed in place.
        t: event time.
        id32: the event's identity among those of its instant.
        values: what the plan keeps of it, in the order of `plan.columns`.
        offset: its place in the log.
    """
    if t <= s.floor:
        return Folded.LATE
    if t > s.newest:  # the common case: the newest event of its entity
        blocks = s.blocks
        block = blocks[-1] if blocks else None
        if block is not None and len(block.t) < BLOCK and t - block.t0 < _SPAN:
            if block.raw is not None or block.totals is not None:
                block.thaw(plan)
            block.t.append(t - block.t0)
            for column, x in zip(block.cols, values):  # noqa: B905  # the plan made both of one length
                column.append(x)
        else:
            blocks.append(new_block(plan, t, values))
        s.ids.append(id32)
        s.n += 1
        s.newest = t
        settled = t - plan.lateness
        if settled > s.floor:
            s.floor = settled
        if blocks[0].t0 <= settled - plan.reach:
            _leave(plan, s, settled - plan.reach)
    else:
        outcome = _insert(plan, s, t, id32, values)
        if outcome is not Folded.FOLDED:
            if outcome is Folded.REVISED:
                s.stamp = offset + 1
            return outcome
    if s.n > CAPACITY:
        _retire_oldest(plan, s)
    s.stamp = offset + 1
    return Folded.FOLDED


def _leave(plan: StatePlan, s: State, gone: int) -> None:
    """Lets go of the blocks that no window can see any more."""
    while s.blocks[0].last <= gone:
        block = s.blocks.pop(0)
        s.n -= len(block.t)
        s.evicted = block.last
        s.tiles.clear()  # all of them are older still
        s.flags &= ~TILED
        if plan.bases:
            to_base(plan, s, block, aged=True)


def _retire_oldest(plan: StatePlan, s: State) -> None:
    """Moves the oldest block into the tiles; nothing may be inserted before its end any more."""
    oldest = s.blocks.pop(0)
    s.n -= len(oldest.t)
    if oldest.last > s.newest - plan.lateness:
        s.flags |= NARROWED
    if oldest.last > s.floor:
        s.floor = oldest.last
    retire(plan, s, oldest)


def locate(s: State, t: int, id32: int) -> tuple[bool, int, int]:
    """Returns whether the event (t, id32) is in the state, and its block and row, or those where it would go.

    Only instants after the floor can be told apart; the row may be the one after the block's last.
    """
    blocks, ids = s.blocks, s.ids
    k = len(blocks) - 1
    while k > 0 and t < blocks[k].t0:
        k -= 1
    block = blocks[k]
    p = bisect_right(block.t, t - block.t0)
    index = len(ids) - sum(len(b.t) for b in blocks[k + 1 :]) - (len(block.t) - p)  # of the event at (k, p)
    while index > 0:
        bk, bp = (k, p - 1) if p else (k - 1, len(blocks[k - 1].t) - 1)
        if bk < 0 or blocks[bk].t0 + blocks[bk].t[bp] != t or ids[index - 1] < id32:
            break
        k, p, index = bk, bp, index - 1
        if ids[index] == id32:
            return True, k, p
    return False, k, p


def _insert(plan: StatePlan, s: State, t: int, id32: int, values: Values) -> Folded:
    blocks = s.blocks
    if not blocks:  # everything newer has left for tiles or base, yet t is above the floor
        blocks.append(new_block(plan, t, values))
        s.ids.append(id32)
        s.n += 1
        return Folded.FOLDED
    found, k, p = locate(s, t, id32)
    block = blocks[k]
    if found:
        same = all(_equal(column[p], x) for column, x in zip(block.cols, values, strict=True))
        if same:
            return Folded.DUPLICATE
        if not plan.revises:
            return Folded.CONFLICT
        block.thaw(plan)
        for column, x in zip(block.cols, values, strict=True):
            column[p] = x
        return Folded.REVISED
    after = len(block.t) - p + sum(len(b.t) for b in blocks[k + 1 :])
    s.ids.insert(len(s.ids) - after, id32)
    s.n += 1
    dt = t - block.t0
    if dt >= _SPAN or (dt < 0 and block.last - t >= _SPAN):
        blocks.insert(k + (dt > 0), new_block(plan, t, values))
        return Folded.FOLDED
    block.thaw(plan)
    if dt < 0:
        block.t0 = t
        for row in range(len(block.t)):
            block.t[row] -= dt
        dt = 0
    block.t.insert(p, dt)
    for column, x in zip(block.cols, values, strict=True):
        column.insert(p, x)
    if len(block.t) > BLOCK:
        _split(s, k)
    return Folded.FOLDED


def _split(s: State, k: int) -> None:
    block = s.blocks[k]
    half = len(block.t) // 2
    t0 = block.t0 + block.t[half]
    upper = type(block)(t0, block.t[half:], [column[half:] for column in block.cols])
    for row in range(len(upper.t)):
        upper.t[row] -= t0 - block.t0
    del block.t[half:]
    for column in block.cols:
        del column[half:]
    s.blocks.insert(k + 1, upper)


def _equal(one: object, other: object) -> bool:
    return one == other or (one != one and other != other)  # a missing number is NaN
