"""States that stay as their bytes: the same bytes as when they are taken apart for every event, and the same values."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from features.clock import NEVER
from features.fold import Folded
from features.small import BLOCK, SPAN, holds, is_small
from features.state import State, decode, encode, opened, whole

from . import oracle
from .oracle import Wanted
from .strategies import PLAIN, Bench, History, Payment, bench, histories, random_payment, windows_for

COUNTED = (Wanted("Count"),)


def appended(b: Bench, kept: bytes | None, payment: Payment, offset: int, gone: int = NEVER) -> bytes | None:
    """What the short way makes of an event."""
    assert b.plan.append is not None
    ident = b.plan.source.identify(payment, offset)
    return b.plan.append(kept, payment.at, ident, b.plan.extract(payment), offset + 1, gone)


@given(
    data=st.data(),
    history=histories,
    wanted=st.sampled_from((PLAIN, COUNTED, PLAIN[1:3])),
    revises=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_after_every_event_the_bytes_are_those_of_the_general_fold(
    data: st.DataObject, history: History, wanted: Sequence[Wanted], revises: bool
) -> None:
    windows = data.draw(windows_for(history.span))
    b = bench(windows, lateness=history.lateness, wanted=wanted, revises=revises)
    kept: bytes | State | None = None
    apart = State()
    ways = set()
    for offset, payment in enumerate(history.arrivals):
        outcome = b.fold(apart, payment, offset)
        made = appended(b, kept, payment, offset) if kept is None or isinstance(kept, bytes) else None
        ways.add(made is not None)
        if made is not None:
            assert outcome is Folded.FOLDED
            kept = made
        else:
            assert kept is not None  # the first one always goes the short way
            changed = whole(b.plan, kept)
            assert b.fold(changed, payment, offset) is outcome
            kept = opened(b.plan, encode(b.plan, changed))
        assert encode(b.plan, kept) == encode(b.plan, decode(b.plan, encode(b.plan, apart)))
    if kept is not None:
        assert True in ways
        row = b.reader.read([kept], whole(b.plan, kept).newest, None)
        events, _ = oracle.accepted(map(b.event, history.arrivals), history.lateness, revises=revises)
        assert b.differences(row, events, whole(b.plan, kept).newest) == []


def at(t: int, id: str = "p") -> Payment:
    return random_payment(random.Random(t), t, id)


def test_a_state_that_has_expired_reads_as_none() -> None:
    b = bench([oracle.Sliding(1000)], lateness=10, wanted=PLAIN)
    old = appended(b, None, at(0), 0)
    assert old is not None

    assert appended(b, old, at(5000), 1, gone=0) == appended(b, None, at(5000), 1)
    assert appended(b, old, at(5000), 1, gone=-1) == encode(b.plan, b.folded([at(0), at(5000)]))


def test_what_is_not_the_newest_event_of_an_open_block_goes_the_general_way() -> None:
    b = bench([oracle.Sliding(SPAN * 2)], lateness=10, wanted=PLAIN)
    few = encode(b.plan, b.folded([at(0), at(5)]))
    full = encode(b.plan, b.folded([at(t) for t in range(BLOCK)]))

    assert appended(b, few, at(6), 2) is not None
    assert appended(b, few, at(5, "q"), 2) is None
    assert appended(b, few, at(3), 2) is None
    assert appended(b, full, at(BLOCK), BLOCK) is None
    assert appended(b, few, at(SPAN - 1), 2) is not None
    assert appended(b, few, at(SPAN), 2) is None


def test_a_floor_above_the_newest_event_holds_it_off() -> None:
    b = bench([oracle.Sliding(1000)], lateness=10, wanted=PLAIN)
    state = b.folded([at(0)])
    state.floor = 50

    assert appended(b, encode(b.plan, state), at(50), 1) is None
    assert appended(b, encode(b.plan, state), at(51), 1) is not None


def test_texts_and_whatever_has_more_than_an_open_block_are_taken_apart() -> None:
    texts = bench([oracle.Sliding(1000)], lateness=10, wanted=(Wanted("Last", "note"),))
    assert texts.plan.append is None
    assert isinstance(opened(texts.plan, encode(texts.plan, texts.folded([at(0)]))), State)

    b = bench([oracle.Sliding(500), oracle.Lifetime(0)], lateness=1, wanted=PLAIN)
    several = b.folded([at(t) for t in range(BLOCK + 1)])
    based = b.folded([*(at(t) for t in range(BLOCK)), at(5000)])
    tiled = b.folded([at(t % 400 + t // 400) for t in range(0, 4000, 3)])
    assert len(several.blocks) == 2
    assert (len(based.blocks), len(based.base) > 0) == (1, True)
    for state in (several, based, tiled):
        assert isinstance(opened(b.plan, encode(b.plan, state)), State)
    assert isinstance(opened(b.plan, encode(b.plan, b.folded([at(0), at(9)]))), bytes)


@given(history=histories, data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_bytes_are_not_taken_for_a_small_state_unless_they_are_one(
    history: History, data: st.DataObject
) -> None:
    b = bench([oracle.Sliding(history.span)], lateness=history.lateness, wanted=PLAIN)
    intact = encode(b.plan, b.folded([*history.arrivals[:40], at(history.span)]))
    cut = data.draw(st.integers(0, len(intact) - 1))
    flipped = bytearray(intact)
    flipped[cut] ^= 1 << data.draw(st.integers(0, 7))
    columns = len(b.plan.codes)

    for wrong in (intact[:cut], intact + b"\x00", intact[:cut] + intact[cut + 1 :]):
        assert not is_small(wrong, columns)
    if is_small(bytes(flipped), columns):
        assert encode(b.plan, decode(b.plan, bytes(flipped))) is not None  # it is a state, if another one


def test_a_repeat_is_found_among_the_ids_that_are_kept() -> None:
    b = bench([oracle.Sliding(1000)], lateness=10, wanted=COUNTED)
    seen = [at(1, "a"), at(20, "a"), at(25, "b"), at(25, "c"), at(25, "d"), at(28, "a")]
    data = encode(b.plan, b.folded(seen))
    ident = {name: b.plan.source.identify(at(0, name), 0) for name in "abcde"}

    found = {(t, name) for t in range(30) for name in ident if holds(data, t, ident[name])}
    assert found == {(event.at, event.id) for event in seen[1:]}  # the first is older than the lateness
