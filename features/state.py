"""The state of one entity: the events that its windows can still see, as one string of bytes.

Little endian, so that a reader needs no copy: every column of a block is a `memoryview.cast` away.

    HEAD    u8 format | u8 flags | u16 blocks | u32 bytes of CLOSED | u64 stamp | i64 newest | i64 floor | i64 evicted
            | u32 bytes of BASE | u32 bytes of TILES
    BASE, TILES   MessagePack
    CLOSED  every block but the newest, oldest first
    DIR     a block, oldest first: i64 t0 | u8 events | u8 ids | u16 bytes of totals | u32 bytes of the block
    OPEN    the newest block
    a block: u32 dt[n] | a column after the other: f64[n], u64[n] or u32 lengths[n] and UTF-8
             | u32 ids[m] of its newest events | totals (MessagePack)

`stamp` is the log position after the record that last changed the state; `newest` the largest event time; nothing with
`t <= floor` is accepted any more; `evicted` is the newest time that was dropped. A closed block carries the totals that
let a window take it whole. The bytes are a function of the plan and of the entity's records.

What an event changes stands at the two ends: the head, and from the directory on. A large state is therefore written by
a patch of both, and what stands between stays where it is.

Ids are there to know a repeat, which can only come above the floor. The open block has those of its events above the
floor. A closed block keeps the ids that it was closed with until all its events are at or below the floor, and then
none: its bytes change once, not with every event.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from .clock import NEVER
from .errors import StateCorrupt
from .plan import StatePlan
from .small import FORMAT, is_small, newest_of
from .store import Patch

TILED = 1  # some events live on in tiles only
NARROWED = 2  # so many events came within the lateness that late ones are accepted for a shorter time

SPARED = 1024  # bytes that a patch must spare: two commands cost Redis as much as writing a kilobyte

HEAD = struct.Struct("<BBHIQqqqII")
_DIR = struct.Struct("<qBBHI")
_HEAD_AND_DIR = struct.Struct("<BBHIQqqqIIqBBHI")  # of a state of one block
_MISSING_TEXT = 0xFFFFFFFF

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode

Texts = list[str | None]
Values = Sequence[Any]


class Block:
    """Up to 64 events in time order, a column after the other."""

    __slots__ = ("cols", "ids", "raw", "t", "t0", "totals")

    def __init__(
        self, t0: int, t: Any, cols: list[Any], ids: Any, raw: Any = None, totals: list[Any] | None = None
    ) -> None:
        self.t0 = t0
        self.t = t
        self.cols = cols
        self.ids = ids  # of the newest events, at least of those above the floor
        self.raw = raw  # directory entry and bytes of a closed block, while they hold
        self.totals = totals

    @property
    def last(self) -> int:
        """Time of the newest event."""
        return self.t0 + int(self.t[-1])

    def thaw(self, plan: StatePlan) -> None:
        """Makes the columns writable; what was made of them holds no longer."""
        self.raw = self.totals = None
        if type(self.t) is array:
            return
        self.t = _array("I", self.t)
        self.ids = _array("I", self.ids)
        self.cols = [
            column if code is None else _array(code, column)
            for code, column in zip(plan.codes, self.cols, strict=True)
        ]

    def drop_ids(self, floor: int) -> None:
        """Drops the ids of events at or below the floor."""
        first = len(self.t) - len(self.ids)
        self.ids = self.ids[bisect_right(self.t, floor - self.t0, first) - first :]


class Front(NamedTuple):
    """What a value in the store has before its open block, while no event changes it."""

    at: int  # where the directory begins
    closed: int  # bytes of the closed blocks
    base: int
    tiles: int
    heads: bytes  # the directory but for its last entry
    until: int  # with the floor there, a closed block loses its ids


class State:
    """One entity's events, decoded as far as needed."""

    __slots__ = (
        "base",
        "blocks",
        "evicted",
        "flags",
        "floor",
        "front",
        "kept",
        "n",
        "newest",
        "packed",
        "size",
        "stamp",
        "tiles",
    )

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.n = 0
        self.stamp = 0
        self.newest = self.floor = self.evicted = NEVER
        self.flags = 0
        self.base: list[
            list[Any]
        ] = []  # an entry of the plan's bases: [time of the newest event in it, partial]
        self.tiles: list[list[Any]] = []  # [start, size, events, first time, last time, partials]
        self.packed: tuple[Any, Any] | None = None  # the bytes of base and tiles, while they hold
        self.size = 0  # bytes of the value in the store; 0 where it must be written whole
        self.kept = 0  # how many closed blocks, from the oldest, stand in that value as they are now
        self.front: Front | None = None

    def stored(self, size: int) -> None:
        """Notes that the store has these events, in a value of so many bytes."""
        self.size = size
        self.kept = max(0, len(self.blocks) - 1)


Kept = State | bytes  # a small state stays as its bytes


def new_block(plan: StatePlan, t: int, id32: int, values: Values) -> Block:
    """Returns a block of one event."""
    cols: list[Any] = [[x] if code is None else array(code, (x,)) for code, x in zip(plan.codes, values)]  # noqa: B905
    return Block(t, array("I", (0,)), cols, array("I", (id32,)))


def encode(plan: StatePlan, s: Kept) -> bytes:
    """Returns the bytes of a state."""
    if isinstance(s, bytes):
        return s
    if len(s.blocks) == 1 and not s.base and not s.tiles and plan.plain:
        return _encode_one(s, s.blocks[0])
    packed, heads, bodies, _ = _sections(plan, s)
    entry, body = _pack_open(plan, s)
    head = _pack_head(s, sum(map(len, bodies)), len(packed[0]), len(packed[1]))
    return b"".join((head, *packed, *bodies, *heads, entry, *body))


def changes(plan: StatePlan, s: State) -> bytes | Patch:
    """Returns what brings the value in the store to this state, and takes it as done.

    Whoever does not get it done must drop the state.
    """
    if len(s.blocks) == 1 and not s.base and not s.tiles and plan.plain:
        data = _encode_one(s, s.blocks[0])
        s.size = len(data)
        return data
    size, front = s.size, s.front
    if front is not None and _stands(s, front):
        entry, body = _pack_open(plan, s)
        tail = b"".join((front.heads, entry, *body))
        if _fits(front.at, len(tail), size):
            s.size = front.at + len(tail)
            return Patch(size, _pack_head(s, front.closed, front.base, front.tiles), front.at, tail)
    packed, heads, bodies, until = _sections(plan, s)
    entry, body = _pack_open(plan, s)
    sizes = [len(each) for each in bodies]
    base, tiles, closed = len(packed[0]), len(packed[1]), sum(sizes)
    head = _pack_head(s, closed, base, tiles)
    at = HEAD.size + base + tiles + sum(sizes[: s.kept])
    tail = b"".join((*bodies[s.kept :], *heads, entry, *body))
    s.front = Front(HEAD.size + base + tiles + closed, closed, base, tiles, b"".join(heads), until)
    patch = _fits(at, len(tail), size)
    data = tail if patch else b"".join((head, *packed, *bodies[: s.kept], tail))
    s.size, s.kept = at + len(tail), len(bodies)
    return Patch(size, head, at, tail) if patch else data


def weight(plan: StatePlan, s: State) -> int:
    """Returns how many bytes `changes` would give, or a few more where the state is small."""
    if len(s.blocks) == 1 and not s.base and not s.tiles and plan.plain:
        return _HEAD_AND_DIR.size + s.n * plan.row_bytes
    size, front = s.size, s.front
    if front is not None and _stands(s, front):
        at, tail = front.at, len(front.heads) + _DIR.size + _open_size(plan, s)
        return (HEAD.size if _fits(at, tail, size) else at) + tail
    packed, heads, bodies, _ = _sections(plan, s)
    at = HEAD.size + sum(map(len, packed)) + sum(map(len, bodies[: s.kept]))
    tail = sum(map(len, bodies[s.kept :])) + (len(heads) + 1) * _DIR.size + _open_size(plan, s)
    return (HEAD.size if _fits(at, tail, size) else at) + tail


def _stands(s: State, front: Front) -> bool:
    """Whether the store has base, tiles and all closed blocks as they are now."""
    return s.size > 0 and s.kept == len(s.blocks) - 1 and s.floor < front.until


def _fits(at: int, tail: int, size: int) -> bool:
    """Whether a patch is worth its two commands, and the value grows: what is beyond a new end would stay."""
    return at - HEAD.size >= SPARED and at + tail >= size > 0


def decode(plan: StatePlan, data: bytes) -> State:
    """Returns the state of its bytes.

    Raises:
        StateCorrupt: the bytes are not a state of this format.
    """
    s = State()
    try:
        form, s.flags, count, closed, s.stamp, s.newest, s.floor, s.evicted, base, tiles = HEAD.unpack_from(
            data, 0
        )
        if form != FORMAT:
            raise StateCorrupt(
                f"state format {form} is not {FORMAT}",
                fix="run the version of Headrace that wrote it, or rebuild the features from the log",
            )
        view = memoryview(data)
        if count == 1 and not base and not tiles and not closed:  # what most states are
            t0, s.n, ids, totals, size = _DIR.unpack_from(data, HEAD.size)
            at = _HEAD_AND_DIR.size
            s.blocks.append(_view_block(plan, t0, s.n, ids, totals, view[at:]))
            return s
        at = HEAD.size
        if base or tiles:
            middle, end = at + base, at + base + tiles
            s.packed = view[at:middle], view[middle:end]
            if base:
                s.base = [
                    [t, a.thaw(p)]
                    for (t, p), (a, *_) in zip(_unpack(view[at:middle]), plan.bases, strict=True)
                ]
            if tiles:
                s.tiles = _thawed_tiles(plan, _unpack(view[middle:end]))
            at = end
        entry = at + closed
        for k in range(count):
            t0, n, ids, totals, size = _DIR.unpack_from(data, entry)
            if k == count - 1:
                at = HEAD.size + base + tiles + closed + count * _DIR.size
            block = _view_block(plan, t0, n, ids, totals, view[at : at + size])
            if k < count - 1:
                block.raw = view[entry : entry + _DIR.size], view[at : at + size]
            s.blocks.append(block)
            s.n += n
            at += size
            entry += _DIR.size
    except (struct.error, ValueError, TypeError, LookupError, OverflowError, msgspec.DecodeError) as error:
        raise StateCorrupt(f"{len(data)} bytes are not a state: {error}", where=plan.name) from error
    if at != len(data):
        raise StateCorrupt(f"a state of {at} bytes has {len(data)}", where=plan.name)
    return s


def opened(plan: StatePlan, data: bytes) -> Kept:
    """Returns the state of its bytes, taken apart only if it is not small.

    Raises:
        StateCorrupt: the bytes are not a state of this format.
    """
    return data if plan.append is not None and is_small(data, len(plan.codes)) else decode(plan, data)


def whole(plan: StatePlan, s: Kept) -> State:
    """Returns a state taken apart."""
    return decode(plan, s) if isinstance(s, bytes) else s


def newest_event(s: Kept) -> int:
    """Returns the newest event time."""
    return newest_of(s) if isinstance(s, bytes) else s.newest


def _array(code: Literal["I", "d", "Q"], view: memoryview) -> array[Any]:
    return array(code, view.tobytes())


def _encode_one(s: State, block: Block) -> bytes:
    """Returns the bytes of what most states are: one block of numbers and hashes, and nothing older."""
    ids, t = block.ids, block.t
    if ids and block.t0 + t[-len(ids)] <= s.floor:
        block.drop_ids(s.floor)
        ids = block.ids
    n, m, cols = len(t), len(ids), block.cols
    head = _HEAD_AND_DIR.pack(
        FORMAT,
        s.flags,
        1,
        0,
        s.stamp,
        s.newest,
        s.floor,
        s.evicted,
        0,
        0,
        block.t0,
        n,
        m,
        0,
        4 * (n + m) + 8 * n * len(cols),
    )
    return b"".join((head, t, *cols, ids))


def _pack_head(s: State, closed: int, base: int, tiles: int) -> bytes:
    return HEAD.pack(
        FORMAT, s.flags, len(s.blocks), closed, s.stamp, s.newest, s.floor, s.evicted, base, tiles
    )


def _pack_open(plan: StatePlan, s: State) -> tuple[bytes, list[Any]]:
    """Returns directory entry and columns of the newest block; nothing where there is none."""
    if not s.blocks:
        return b"", []
    size = _open_size(plan, s)
    block = s.blocks[-1]
    return _DIR.pack(block.t0, len(block.t), len(block.ids), 0, size), _columns(plan, block)


def _open_size(plan: StatePlan, s: State) -> int:
    """Returns the bytes of the newest block, and drops the ids that have no place in it."""
    if not s.blocks:
        return 0
    block = s.blocks[-1]
    n = len(block.t)
    if len(block.ids) and block.t0 + block.t[-len(block.ids)] <= s.floor:
        block.drop_ids(s.floor)
    size = 4 * (n + len(block.ids)) + 8 * n * len(block.cols)
    if plan.plain:
        return size
    for code, column in zip(plan.codes, block.cols, strict=True):
        if code is None:
            size += len("".join(filter(None, column)).encode()) - 4 * n
    return size


def _sections(plan: StatePlan, s: State) -> tuple[tuple[Any, Any], list[Any], list[Any], int]:
    """Returns base and tiles, entries and bytes of the closed blocks, and the floor at which ids leave one of them."""
    floor, until = s.floor, -NEVER
    heads, bodies = [], []
    for k, block in enumerate(s.blocks[:-1]):
        if len(block.ids):
            if block.last <= floor:
                block.drop_ids(floor)
                block.raw = None
                s.kept = min(s.kept, k)
            else:
                until = min(until, block.last)
        head, body = block.raw or _close(plan, block)
        heads.append(head)
        bodies.append(body)
    return _packed(plan, s), heads, bodies, until


def _packed(plan: StatePlan, s: State) -> tuple[Any, Any]:
    """Returns the bytes of base and tiles, which are made anew only when a block has left."""
    if s.packed is None:
        base = [[t, a.freeze(p)] for (t, p), (a, *_) in zip(s.base, plan.bases, strict=False)]
        s.packed = _pack(base) if base else b"", _pack(_frozen_tiles(plan, s.tiles)) if s.tiles else b""
    return s.packed


def _frozen_tiles(plan: StatePlan, tiles: Sequence[list[Any]]) -> list[Any]:
    """Returns the heads of the tiles, and for each kept aggregation what it stores of all tiles."""
    kept = [a.freeze_cells([cell[5][k] for cell in tiles]) for k, (a, _) in enumerate(plan.cells)]
    return [[cell[:5] for cell in tiles], kept]


def _thawed_tiles(plan: StatePlan, frozen: list[Any]) -> list[list[Any]]:
    heads, kept = frozen
    ends = [head[4] for head in heads]
    columns = [a.thaw_cells(column, ends) for (a, _), column in zip(plan.cells, kept, strict=True)]
    return [[*head, list(partials)] for head, partials in zip(heads, _rows(columns, len(heads)), strict=True)]


def _rows(columns: Sequence[Sequence[Any]], n: int) -> Sequence[Sequence[Any]]:
    return list(zip(*columns, strict=True)) if columns else [()] * n


def _close(plan: StatePlan, block: Block) -> tuple[bytes, bytes]:
    """Returns directory entry and bytes of a closed block; seldom touched again, they are kept."""
    if block.totals is None:
        block.totals = [_total(a, c, block) for a, c in plan.sums]
    totals = _pack(_frozen(plan.sums, block.totals))
    body = b"".join((*_columns(plan, block), totals))
    raw = _DIR.pack(block.t0, len(block.t), len(block.ids), len(totals), len(body)), body
    block.raw = raw
    return raw


def _columns(plan: StatePlan, block: Block) -> list[Any]:
    cols = [
        _pack_text(column) if code is None else column
        for code, column in zip(plan.codes, block.cols, strict=True)
    ]
    return [block.t, *cols, block.ids]


def _view_block(plan: StatePlan, t0: int, n: int, ids: int, totals: int, body: memoryview) -> Block:
    at = 4 * n
    cols: list[Any] = []
    for code in plan.codes:
        if code is None:
            column, size = _view_text(body[at:], n)
            cols.append(column)
            at += size
        else:
            cols.append(body[at : at + 8 * n].cast(code))
            at += 8 * n
    end = at + 4 * ids
    if not 0 < n >= ids or end + totals != len(body):
        raise ValueError(f"a block of {n} events and {ids} ids has {len(body)} bytes")
    sums = _thawed(plan.sums, _unpack(body[end:])) if totals else None
    return Block(t0, body[: 4 * n].cast("I"), cols, body[at:end].cast("I"), None, sums)


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
