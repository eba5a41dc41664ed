"""The state of one entity: the events that its windows can still see, as one string of bytes.

Little endian, so that a reader needs no copy: every column of a block is a `memoryview.cast` away.

    HEAD   u8 format | u8 flags | u16 blocks | u32 ids | i64 stamp | i64 newest | i64 floor | i64 evicted
           | u32 base | u32 tiles
    DIR    a block, oldest first: i64 t0 | u16 events | u16 bytes of totals | u32 bytes of the block
    BLOCK  u32 dt[n] | a column after the other: f64[n], u64[n] or u32 lengths[n] and UTF-8 | totals (MessagePack)
    IDS    u32[ids]: of the newest events, those with t > floor
    BASE, TILES   MessagePack

`stamp` is the log position after the record that last changed the state; `newest` the largest event time; nothing with
`t <= floor` is accepted any more; `evicted` is the newest time that was dropped. A closed block (every one but the
last) carries the totals that let a window take it whole. The bytes are a function of the plan and of the entity's
records.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from .clock import NEVER
from .errors import StateCorrupt
from .plan import FORMAT, StatePlan

TILED = 1  # some events live on in tiles only
NARROWED = 2  # so many events came within the lateness that late ones are accepted for a shorter time

HEAD = struct.Struct("<BBHIqqqqII")
_DIR = struct.Struct("<qHHI")
_MISSING_TEXT = 0xFFFFFFFF
_TYPECODE: dict[str, Literal["d", "Q"]] = {"number": "d", "hash": "Q"}

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode

Texts = list[str | None]
Values = Sequence[Any]


class Block:
    """Up to 64 events in time order, a column after the other."""

    __slots__ = ("cols", "raw", "t", "t0", "totals")

    def __init__(
        self, t0: int, t: Any, cols: list[Any], raw: Any = None, totals: list[Any] | None = None
    ) -> None:
        self.t0 = t0
        self.t = t
        self.cols = cols
        self.raw = raw  # the bytes of an unchanged block; None once its arrays can be written to
        self.totals = totals

    @property
    def last(self) -> int:
        """Time of the newest event."""
        return self.t0 + int(self.t[-1])

    def thaw(self, plan: StatePlan) -> None:
        """Makes the columns writable."""
        if self.raw is None:
            self.totals = None
            return
        self.raw = self.totals = None
        times = array("I")
        times.frombytes(self.t.tobytes())
        self.t = times
        for c, kind in enumerate(plan.kinds):
            if kind != "text":
                column = array(_TYPECODE[kind])
                column.frombytes(self.cols[c].tobytes())
                self.cols[c] = column


class State:
    """One entity's events, decoded as far as needed."""

    __slots__ = ("base", "blocks", "evicted", "flags", "floor", "ids", "n", "newest", "stamp", "tiles")

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.ids: array[int] = array("I")
        self.n = 0
        self.stamp = 0
        self.newest = self.floor = self.evicted = NEVER
        self.flags = 0
        self.base: list[
            list[Any]
        ] = []  # an entry of the plan's bases: [time of the newest event in it, partial]
        self.tiles: list[list[Any]] = []  # [start, size, events, first time, last time, partials]


def new_block(plan: StatePlan, t: int, values: Values) -> Block:
    """Returns a block of one event."""
    cols: list[Any] = [
        [x] if kind == "text" else array(_TYPECODE[kind], (x,))
        for kind, x in zip(plan.kinds, values, strict=True)
    ]
    return Block(t, array("I", (0,)), cols)


def encode(plan: StatePlan, s: State) -> bytes:
    """Returns the bytes of a state."""
    blocks = s.blocks
    kept = _ids_above_floor(s)
    directory: list[bytes] = []
    data: list[Any] = []
    last = len(blocks) - 1
    for k, block in enumerate(blocks):
        raw = block.raw
        if raw is None or (k == last) is not (block.totals is None):
            raw = _pack_block(plan, block, closed=k < last)
        head, body = raw
        directory.append(head)
        data.append(body)
    base = (
        _pack([[t, a.freeze(p)] for (t, p), (a, *_) in zip(s.base, plan.bases, strict=True)])
        if s.base
        else b""
    )
    tiles = _pack([[*cell[:5], _frozen(plan.cells, cell[5])] for cell in s.tiles]) if s.tiles else b""
    head = HEAD.pack(
        FORMAT, s.flags, len(blocks), len(kept), s.stamp, s.newest, s.floor, s.evicted, len(base), len(tiles)
    )
    return b"".join((head, *directory, *data, kept.tobytes(), base, tiles))


def decode(plan: StatePlan, data: bytes) -> State:
    """Returns the state of its bytes.

    Raises:
        StateCorrupt: the bytes are not a state of this format.
    """
    s = State()
    try:
        form, s.flags, count, ids, s.stamp, s.newest, s.floor, s.evicted, base, tiles = HEAD.unpack_from(
            data, 0
        )
        if form != FORMAT:
            raise StateCorrupt(
                f"state format {form} is not {FORMAT}",
                fix="run the version of Headrace that wrote it, or rebuild the features from the log",
            )
        view = memoryview(data)
        at = HEAD.size + count * _DIR.size
        for k in range(count):
            entry = HEAD.size + k * _DIR.size
            t0, n, totals, size = _DIR.unpack_from(data, entry)
            s.blocks.append(
                _view_block(plan, t0, n, totals, view[entry : entry + _DIR.size], view[at : at + size])
            )
            s.n += n
            at += size
        s.ids.frombytes(view[at : at + 4 * ids])
        at += 4 * ids
        if base:
            s.base = [
                [t, a.thaw(p)]
                for (t, p), (a, *_) in zip(_unpack(view[at : at + base]), plan.bases, strict=True)
            ]
            at += base
        if tiles:
            s.tiles = [[*cell[:5], _thawed(plan.cells, cell[5])] for cell in _unpack(view[at : at + tiles])]
            at += tiles
    except (struct.error, ValueError, TypeError, LookupError, OverflowError, msgspec.DecodeError) as error:
        raise StateCorrupt(f"{len(data)} bytes are not a state: {error}", where=plan.name) from error
    if at != len(data):
        raise StateCorrupt(f"a state of {at} bytes has {len(data)}", where=plan.name)
    return s


def stamp_of(data: bytes) -> int:
    """Returns the position of the last change, without decoding the rest."""
    return int.from_bytes(data[8:16], "little")


def newest_of(data: bytes) -> int:
    """Returns the newest event time, without decoding the rest."""
    return int.from_bytes(data[16:24], "little", signed=True)


def _ids_above_floor(s: State) -> array[int]:
    """Drops the ids that can no longer meet a repeat, and returns the others."""
    floor = s.floor
    above = 0
    for block in reversed(s.blocks):
        t, bound = block.t, floor - block.t0
        n = len(t)
        if bound < 0:
            above += n
            continue
        while n and t[n - 1] > bound:
            n -= 1
            above += 1
        break
    if above < len(s.ids):
        del s.ids[: len(s.ids) - above]
    return s.ids


def _pack_block(plan: StatePlan, block: Block, closed: bool) -> tuple[bytes, bytes]:
    parts: list[bytes] = [block.t.tobytes()]
    for kind, column in zip(plan.kinds, block.cols, strict=True):
        parts.append(_pack_text(column) if kind == "text" else column.tobytes())
    totals = b""
    if closed:
        if block.totals is None:
            block.totals = [_total(a, c, block) for a, c in plan.sums]
        totals = _pack(_frozen(plan.sums, block.totals))
        parts.append(totals)
    else:
        block.totals = None
    body = b"".join(parts)
    head = _DIR.pack(block.t0, len(block.t), len(totals), len(body))
    if closed:
        block.raw = (head, body)  # seldom touched again, so worth keeping; its arrays stay writable
    return head, body


def _view_block(plan: StatePlan, t0: int, n: int, totals: int, head: memoryview, body: memoryview) -> Block:
    at = 4 * n
    cols: list[Any] = []
    for kind in plan.kinds:
        if kind == "text":
            column, size = _view_text(body[at:], n)
            cols.append(column)
            at += size
        else:
            cols.append(body[at : at + 8 * n].cast(_TYPECODE[kind]))
            at += 8 * n
    sums = _thawed(plan.sums, _unpack(body[at : at + totals])) if totals else None
    return Block(t0, body[: 4 * n].cast("I"), cols, (head, body), sums)


def _pack_text(column: Texts) -> bytes:
    encoded = [None if x is None else x.encode() for x in column]
    sizes = array("I", [_MISSING_TEXT if x is None else len(x) for x in encoded])
    return sizes.tobytes() + b"".join(x for x in encoded if x is not None)


def _view_text(body: memoryview, n: int) -> tuple[Texts, int]:
    sizes = body[: 4 * n].cast("I")
    at = 4 * n
    texts: Texts = []
    for size in sizes:
        if size == _MISSING_TEXT:
            texts.append(None)
        else:
            texts.append(str(body[at : at + size], "utf-8"))
            at += size
    return texts, at


def _total(aggregation: Any, c: int, block: Block) -> Any:
    partial = aggregation.zero()
    for x in block.cols[c]:
        if x == x:  # a missing number is NaN
            partial = aggregation.add(partial, 0, x)
    return partial


def _frozen(kept: Sequence[tuple[Any, int]], partials: Sequence[Any]) -> list[Any]:
    return [a.freeze(p) for (a, _), p in zip(kept, partials, strict=True)]


def _thawed(kept: Sequence[tuple[Any, int]], frozen: Sequence[Any]) -> list[Any]:
    return [a.thaw(p) for (a, _), p in zip(kept, frozen, strict=True)]
