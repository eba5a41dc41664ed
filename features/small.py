"""A small state stays as its bytes: an event is put into them, and windows are read from them.

Small is what most entities have: one block of numbers and hashes, and nothing older. To take such a state apart and put
it together again costs several times what the event does. Whatever is not that simple (a late event, a full block) goes
the general way, through `decode`, `fold` and `encode`; both give the same bytes, since these are a function of the
entity's records.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from .clock import NEVER

FORMAT = 2  # of the bytes of a state
BLOCK = 64  # events a block
SPAN = 1 << 32  # milliseconds that a block can span

# time of the first event, offsets of the events from it, columns, how many events
Run = tuple[int, list[int], list[Any], int]
# a state's bytes (None: there is no state), event time, identity, values, position after the record, newest time of a
# state that has expired; returns the new bytes, or None where that is not for here
Append = Callable[[bytes | None, int, int, Sequence[Any], int, int], bytes | None]

# head and directory as `state` has them
_BEGIN = struct.pack("<BBHI", FORMAT, 0, 1, 0)  # no flags, one block, none of them closed
_HEAD = struct.Struct("<8sQqqq8xqBBHI")
_FIELDS = struct.Struct("<qqq8xqBB")  # from the newest time on
_NEWEST = 16
_NO_BASE_NO_TILES = bytes(8)
_EVENTS = _HEAD.size


def is_small(data: bytes, columns: int) -> bool:
    """Whether these bytes are a small state; anything else, damaged bytes included, is for `decode` to tell."""
    size = len(data) - _EVENTS
    if size < 0 or data[:8] != _BEGIN or data[40:48] != _NO_BASE_NO_TILES:
        return False
    n, ids = data[56], data[57]
    told = int.from_bytes(data[58:_EVENTS], "little") >> 16 if data[58:60] == b"\0\0" else -1
    return 0 < n >= ids and size == told == 4 * (n + ids) + 8 * n * columns


def stamp_of(data: bytes) -> int:
    """Returns the position of the last change of any state, without decoding the rest."""
    return int.from_bytes(data[8:16], "little")


def newest_of(data: bytes) -> int:
    """Returns the newest event time of any state, without decoding the rest."""
    return int.from_bytes(data[16:24], "little", signed=True)


def events_of(data: bytes, codes: Sequence[str | None], needed: Sequence[int]) -> Run:
    """Returns the events of a small state, with the columns that are needed."""
    n = data[56]
    view = memoryview(data)
    at = _EVENTS + 4 * n
    columns: list[Any] = [None] * len(codes)
    for c in needed:
        columns[c] = view[at + 8 * n * c : at + 8 * n * (c + 1)].cast(codes[c]).tolist()  # type: ignore[call-overload]
    return int.from_bytes(data[48:56], "little", signed=True), view[_EVENTS:at].cast("I").tolist(), columns, n


def holds(data: bytes, t: int, id32: int) -> bool:
    """Whether an event stands in a small state; only those above the floor can be told."""
    _, floor, _, t0, n, m = _FIELDS.unpack_from(data, _NEWEST)
    if t <= floor or t < t0:
        return False
    view = memoryview(data)
    times = view[_EVENTS : _EVENTS + 4 * n].cast("I")
    ids = view[len(data) - 4 * m :].cast("I")
    row = max(bisect_left(times, t - t0), n - m)
    while row < n and times[row] == t - t0:
        if ids[row - (n - m)] == id32:
            return True
        row += 1
    return False


def appender(codes: Sequence[str | None], lateness: int) -> Append:
    """Returns the function that puts the newest event of an entity into its small state.

    It is written out and compiled for the columns, as what it does takes no longer than a loop over them would.

    Args:
        codes: of the columns, as `struct` and `array` name them.
        lateness: of the source, in milliseconds.
    """
    width = len(codes)
    ends = [f"e{k + 1} = e{k} + 8 * n" for k in range(width)]
    columns = "".join(f"data[e{k}:e{k + 1}], p{k}(x{k}), " for k in range(width))
    row = "".join(f"x{k}, " for k in range(width))
    body = f"""
def append(data, t, id32, values, stamp, gone):
    {f"{row}= values" if width else ""}
    if data is not None:
        newest, floor, evicted, t0, n, m = fields(data, {_NEWEST})
    if data is None or newest <= gone:  # none, or one that reads as none
        return b"".join((
            head(BEGIN, stamp, t, t - {lateness}, NEVER, t, 1, 1, 0, {8 + 8 * width}),
            FIRST, {"".join(f"p{k}(x{k}), " for k in range(width))}u32(id32),
        ))
    dt = t - t0
    if t <= newest or t <= floor or n >= {BLOCK} or dt >= {SPAN}:
        return None
    if t - {lateness} > floor:
        floor = t - {lateness}
    e0 = {_EVENTS} + 4 * n
    {"; ".join(ends) or "pass"}
    ids = e{width}
    while m and t0 + at(data, e0 - 4 * m)[0] <= floor:  # ids of events that cannot be repeated any more
        m -= 1
        ids += 4
    return b"".join((
        head(BEGIN, stamp, t, floor, evicted, t0, n + 1, m + 1, 0, 4 * (n + m + 2) + {8 * width} * (n + 1)),
        data[{_EVENTS}:e0], u32(dt), {columns}data[ids:], u32(id32),
    ))
"""
    u32 = struct.Struct("<I")
    known: dict[str, Any] = {
        "BEGIN": _BEGIN,
        "FIRST": bytes(4),
        "NEVER": NEVER,
        "at": u32.unpack_from,
        "fields": _FIELDS.unpack_from,
        "head": _HEAD.pack,
        "u32": u32.pack,
        **{f"p{k}": struct.Struct(f"<{code}").pack for k, code in enumerate(codes)},
    }
    exec(body, known)  # noqa: S102  # made of numbers
    made: Append = known["append"]
    return made
