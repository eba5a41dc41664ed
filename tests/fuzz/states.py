"""States, positions and layouts: what is read from Redis."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import msgspec

from features.errors import StateCorrupt
from features.layout import choose, gaps, layout_in, name_of, under
from features.read import Own, Reader
from features.small import newest_of, stamp_of
from features.state import encode, newest_event, opened, whole
from features.store import NO_TOPIC, Adoption, Position
from tests.features import oracle
from tests.features.strategies import PLAIN, Bench, bench, random_payment

LATENESS = 10


@cache
def benches() -> Sequence[Bench]:
    """Views of numbers alone, and of everything; with windows alone, and with lifetimes."""
    windows = (oracle.Sliding(500), oracle.Sliding(200, 100), oracle.Calendar("day", "Europe/Zurich", 0))
    lives = (oracle.Lifetime(0, 0), oracle.Lifetime(700, 0))
    return (
        bench(windows, lateness=LATENESS, wanted=PLAIN),
        bench(windows[:1] + lives, lateness=LATENESS, wanted=PLAIN),
        bench(windows + lives, lateness=LATENESS),
    )


def state(data: bytes) -> bool:
    """The first byte names the view; what is taken as its state must be read, at any time and beside any event."""
    if not data:
        return False
    b = benches()[data[0] % len(benches())]
    try:
        kept = opened(b.plan, data[1:])
    except StateCorrupt:
        return False
    newest = newest_event(kept)
    assert newest == newest_of(data[1:])
    assert whole(b.plan, kept).stamp == stamp_of(data[1:])
    reader = Reader(b.reader.view, b.plan)
    payment = random_payment(random.Random(1), 0, "p1")
    values = b.plan.extract(payment)
    for t in (newest - LATENESS, newest - 1, newest, newest + 300):
        for own in (None, Own(t, 7, values, 1)):
            try:
                reader.read([kept, None], t, own)
            except StateCorrupt:
                return False
    assert isinstance(encode(b.plan, kept), bytes)
    return True


def states() -> list[bytes]:
    """States of one block and of several, with a base and with tiles."""
    made = []
    for number, b in enumerate(benches()):
        for times in (
            [0],
            [0, 5, 5, 9],
            [*range(0, 300, 4)],
            [*range(64), 5000],
            [t % 400 + t // 400 for t in range(0, 3000, 3)],
        ):
            history = [
                random_payment(random.Random(t), 1_700_000_000_000 + t, f"p{k}") for k, t in enumerate(times)
            ]
            made.append(bytes((number,)) + encode(b.plan, b.folded(history)))
    return made


def position(data: bytes) -> bool:
    """A position comes back as its bytes."""
    try:
        read = Position.unpack(data)
    except StateCorrupt:
        return False
    assert read.pack() == data
    return True


def positions() -> list[bytes]:
    """Of a group that was claimed, and of one that was not."""
    return [Position.start(NO_TOPIC).pack(), Position(b"i" * 16, 7, -1, 2**40, 3, b"t" * 16).pack()]


def layout(data: bytes) -> bool:
    """A stored layout serves a file, or does not, in words; nothing else may come of it."""
    b = benches()[1]
    known = [Adoption("n", "n", data)]
    read = layout_in(known, "n")
    missing = gaps(read, b.plan.source, [b.plan])
    assert choose(known, b.plan.source, [b.plan]).adoption.layout == (
        name_of([b.plan.spec]) if missing else "n"
    )
    if read is None or missing:
        return read is not None
    assert under(read, b.plan.source, [b.plan])
    return True


def layouts() -> list[bytes]:
    """Of one state and of two."""
    specs = [b.plan.spec for b in benches()]
    return [msgspec.json.encode([specs[1]]), msgspec.json.encode(specs[1:])]
