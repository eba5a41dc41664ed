"""The fold: one event into the state of its entity. There is no other way into a state.

What it does depends on the plan and on the entity's earlier records alone: no clock, no batch, no cache.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from enum import IntEnum

from .plan import StatePlan
from .small import BLOCK, SPAN
from .state import NARROWED, TILED, Block, State, Values, new_block
from .tiles import retire, to_base

CAPACITY = 512  # exact events a state; beyond, the oldest block goes into tiles


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
        if block is not None and len(block.t) < BLOCK and t - block.t0 < SPAN:
            if type(block.t) is not array:
                block.thaw(plan)
            block.t.append(t - block.t0)
            for column, x in zip(block.cols, values):  # noqa: B905  # the plan made both of one length
                column.append(x)
            block.ids.append(id32)
        else:
            if block is not None:
                block.drop_ids(s.floor)  # those that it is closed with, wherever it was encoded before
            blocks.append(new_block(plan, t, id32, values))
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
        block = _pop_oldest(s)
        s.evicted = block.last
        s.tiles.clear()  # all of them are older still
        s.flags &= ~TILED
        if plan.bases:
            to_base(plan, s, block, aged=True)


def _retire_oldest(plan: StatePlan, s: State) -> None:
    """Moves the oldest block into the tiles; nothing may be inserted before its end any more."""
    oldest = _pop_oldest(s)
    if oldest.last > s.newest - plan.lateness:
        s.flags |= NARROWED
    if oldest.last > s.floor:
        s.floor = oldest.last
    retire(plan, s, oldest)


def _pop_oldest(s: State) -> Block:
    block = s.blocks.pop(0)
    s.n -= len(block.t)
    s.size = s.kept = 0  # everything moves: the value is written whole
    s.packed = s.front = None
    return block


def locate(s: State, t: int, id32: int) -> tuple[bool, int, int]:
    """Returns whether the event (t, id32) is in the state, and its block and row, or those where it would go.

    Only instants after the floor can be told apart; the row may be the one after the block's last.
    """
    blocks = s.blocks
    k = len(blocks) - 1
    while k > 0 and t < blocks[k].t0:
        k -= 1
    p = bisect_right(blocks[k].t, t - blocks[k].t0)
    at, row = k, p
    while row or at:
        at, row = (at, row - 1) if row else (at - 1, len(blocks[at - 1].t) - 1)
        block = blocks[at]
        index = row - len(block.t)  # from the end, as ids are there of the newest
        if block.t0 + block.t[row] != t or -index > len(block.ids) or block.ids[index] < id32:
            break
        k, p = at, row
        if block.ids[index] == id32:
            return True, k, p
    return False, k, p


def _insert(plan: StatePlan, s: State, t: int, id32: int, values: Values) -> Folded:
    blocks = s.blocks
    if not blocks:  # everything newer has left for tiles or base, yet t is above the floor
        blocks.append(new_block(plan, t, id32, values))
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
        s.kept = min(s.kept, k)
        for column, x in zip(block.cols, values, strict=True):
            column[p] = x
        return Folded.REVISED
    s.n += 1
    dt = t - block.t0
    if dt >= SPAN or (dt < 0 and block.last - t >= SPAN):
        s.kept = min(s.kept, k + (dt > 0))
        blocks.insert(k + (dt > 0), new_block(plan, t, id32, values))
        return Folded.FOLDED
    s.kept = min(s.kept, k)
    block.thaw(plan)
    if block.last <= s.floor:
        block.drop_ids(s.floor)  # an encoding would have
    block.ids.insert(len(block.ids) - (len(block.t) - p), id32)
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
    first = len(block.t) - len(block.ids)  # row of the first id
    cut = max(0, half - first)
    upper = Block(t0, block.t[half:], [column[half:] for column in block.cols], block.ids[cut:])
    for row in range(len(upper.t)):
        upper.t[row] -= t0 - block.t0
    del block.t[half:], block.ids[cut:]
    for column in block.cols:
        del column[half:]
    for each in (block, upper):
        each.drop_ids(s.floor)  # as when a block is closed
    s.blocks.insert(k + 1, upper)


def _equal(one: object, other: object) -> bool:
    return one == other or (one != one and other != other)  # a missing number is NaN
