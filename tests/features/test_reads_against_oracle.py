"""Every value of every aggregation, at any time, compared by bits with loops over the list of events."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.flat import MOST
from features.fold import CAPACITY
from features.state import State, encode

from . import oracle
from .oracle import Wanted
from .strategies import (
    Bench,
    History,
    Payment,
    bench,
    histories,
    long_histories,
    payments,
    random_payment,
    short_histories,
    windows_for,
)


def read_times(newest: int, history: History) -> st.SearchStrategy[int]:
    """Times that are answered exactly: after `newest - lateness`, near and far."""
    return st.one_of(
        st.just(newest),
        st.integers(newest - history.lateness + 1, newest),
        st.integers(newest, newest + 2 * history.span + 5),
    )


@given(data=st.data(), history=histories, revises=st.booleans())
@settings(max_examples=60, deadline=None)
def test_reads_equal_the_oracle_after_any_history_with_restarts(
    data: st.DataObject, history: History, revises: bool
) -> None:
    b = bench(data.draw(windows_for(history.span)), lateness=history.lateness, revises=revises)
    r = random.Random(data.draw(st.integers(0, 1 << 32)))
    state, uninterrupted = State(), State()
    outcomes = []
    for offset, payment in enumerate(history.arrivals):
        outcomes.append(b.fold(state, payment, offset).name)
        b.fold(uninterrupted, payment, offset)
        if r.random() < 0.2:
            state = b.restarted(state)
    events, expected = oracle.accepted(map(b.event, history.arrivals), history.lateness, revises=revises)

    assert outcomes == expected
    assert encode(b.plan, state) == encode(b.plan, uninterrupted)
    assert encode(b.plan, b.restarted(state)) == encode(b.plan, state)
    for t in (
        data.draw(st.lists(read_times(state.newest, history), min_size=1, max_size=4)) if events else [0]
    ):
        row = b.reader.read([state], t, None)
        assert b.differences(row, events, t) == []
        assert row.bounds == {}
        assert not row.late


@given(data=st.data(), history=histories)
@settings(max_examples=40, deadline=None)
def test_a_prefix_is_answered_exactly_at_any_time_within_the_lateness(
    data: st.DataObject, history: History
) -> None:
    b = bench(data.draw(windows_for(history.span)), lateness=history.lateness, wanted=SOME)
    state = State()
    r = random.Random(data.draw(st.integers(0, 1 << 32)))
    for offset, payment in enumerate(history.arrivals):
        b.fold(state, payment, offset)
        if r.random() < min(1.0, 20 / len(history.arrivals)):
            events, _ = oracle.accepted(map(b.event, history.arrivals[: offset + 1]), history.lateness)
            t = state.newest - r.randrange(history.lateness)
            assert b.differences(b.reader.read([state], t, None), events, t) == []


SOME = (
    Wanted("Count"), Wanted("Sum", "amount"), Wanted("Min", "fee"), Wanted("Variance", "units"),
    Wanted("Last", "shop"), Wanted("First", "note"), Wanted("Distinct", "note"),
    Wanted("DecayedSum", "fee", 9), Wanted("TopK", "shop", 2),
)  # fmt: skip


@given(data=st.data(), history=histories, counted=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_own_event_counts_once_whether_folded_before_after_or_never(
    data: st.DataObject, history: History, counted: bool
) -> None:
    b = bench(data.draw(windows_for(history.span)), lateness=history.lateness, own_event=counted)
    state = b.folded(history.arrivals)
    events, _ = oracle.accepted(map(b.event, history.arrivals), history.lateness)
    newest = state.newest if events else 0
    repeat: bool = bool(events) and data.draw(st.booleans())
    if repeat:  # it is there already
        there = data.draw(st.sampled_from([e for e in events if e.t > newest - history.lateness]))
        own = next(p for p in history.arrivals if b.event(p) == there)
    else:
        own = data.draw(payments(read_times(newest, history)))
    t = own.at
    twin = next((e for e in events if (e.t, e.tie) == (t, b.event(own).tie)), None)
    seen = oracle.seen_by(events, twin or b.event(own), counted=counted)

    before = b.reader.read([state], t, b.own(own))
    assert b.differences(before, seen, t) == []
    if not events:
        never = b.reader.read([None], t, b.own(own))
        assert b.differences(never, seen, t) == []

    b.fold(state, own, len(history.arrivals))
    after = b.reader.read([state], t, b.own(own))
    assert oracle.bits(after.values) == oracle.bits(before.values)
    restarted = b.reader.read([b.restarted(state)], t, b.own(own))
    assert oracle.bits(restarted.values) == oracle.bits(before.values)


@given(data=st.data(), history=histories)
@settings(max_examples=40, deadline=None)
def test_another_order_of_arrival_within_the_lateness_gives_the_same_reads(
    data: st.DataObject, history: History
) -> None:
    b = bench(data.draw(windows_for(history.span)), lateness=history.lateness)
    r = random.Random(data.draw(st.integers(0, 1 << 32)))
    unique = list({(p.at, p.id): p for p in history.arrivals}.values())

    def shuffled() -> State:
        order = sorted(unique, key=lambda p: p.at + r.randrange(history.lateness))
        state = b.folded(order)
        assert state.n + len([p for p in unique if p.at <= state.evicted]) >= len(unique)
        return state

    one, other = shuffled(), shuffled()
    for t in data.draw(st.lists(read_times(one.newest, history), min_size=1, max_size=3)) if unique else [0]:
        assert oracle.bits(b.reader.read([one], t, None).values) == oracle.bits(
            b.reader.read([other], t, None).values
        )


@given(data=st.data(), parts=st.lists(short_histories(), min_size=2, max_size=4), counted=st.booleans())
@settings(max_examples=60, deadline=None)
def test_partials_of_several_partitions_read_as_one_set(
    data: st.DataObject, parts: list[History], counted: bool
) -> None:
    lateness, span = parts[0].lateness, max(part.span for part in parts)
    # a silence is told within a partition, so windows of several know lifetimes without end only
    windows = [
        w for w in data.draw(windows_for(span)) if not (isinstance(w, oracle.Lifetime) and w.forget_after)
    ]
    b = bench(windows or [oracle.Sliding(span)], lateness=lateness, own_event=counted)
    r = random.Random(data.draw(st.integers(0, 1 << 32)))
    states: list[State | None] = []
    events: list[oracle.Event] = []
    start = parts[0].arrivals[0].at if parts[0].arrivals else 0
    for k, part in enumerate(parts):
        arrivals = [
            msgspec.structs.replace(p, at=start + p.at % 1000, id=f"{p.id}{k}") for p in part.arrivals
        ]
        state = b.folded(arrivals)
        states.append(b.restarted(state) if r.random() < 0.5 else state)
        events += oracle.accepted([b.event(p, k) for p in arrivals], lateness)[0]
        if not arrivals:
            states[-1] = None
    newest = max((s.newest for s in states if s is not None), default=start)
    t = newest + data.draw(st.one_of(st.just(0), st.integers(-lateness + 1, 0), st.integers(0, 2 * span)))
    events.sort(key=lambda e: e.place)

    assert b.differences(b.reader.read(states, t, None), events, t) == []

    home = data.draw(st.integers(0, len(parts) - 1))
    own = data.draw(payments(st.just(t)))
    seen = oracle.seen_by(events, b.event(own, home), counted=counted)
    assert b.differences(b.reader.read(states, t, b.own(own, home)), seen, t) == []


@given(history=long_histories(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_block_totals_written_by_an_encoding_leave_no_trace_in_a_read(
    history: History, data: st.DataObject
) -> None:
    b = bench(data.draw(windows_for(history.span)), lateness=history.lateness)
    state = b.folded(history.arrivals)
    t = data.draw(read_times(state.newest, history))
    before = b.reader.read([state], t, None)
    encode(b.plan, state)
    assert oracle.bits(b.reader.read([state], t, None).values) == oracle.bits(before.values)


def one(b: Bench, state: State | None, t: int, own: Payment | None = None) -> Any:
    (value,) = b.reader.read([state], t, None if own is None else b.own(own)).values
    return value


def at(t: int, id: str = "p", **values: Any) -> Payment:
    return msgspec.structs.replace(random_payment(random.Random(1), t, id), **values)


@pytest.mark.parametrize(("delay", "shift"), [(0, 0), (7, 7)])
@pytest.mark.parametrize("restart", [False, True])
def test_an_event_exactly_at_the_end_is_in_and_exactly_at_the_start_is_out(
    delay: int, shift: int, restart: bool
) -> None:
    b = bench([oracle.Sliding(10, delay)], lateness=1000, wanted=[Wanted("Count")])
    state = b.folded([at(100)])
    state = b.restarted(state) if restart else state

    assert [one(b, state, t + shift) for t in (99, 100, 109, 110, 111)] == [0, 1, 1, 0, 0]


def test_a_window_of_one_millisecond_sees_its_own_millisecond() -> None:
    b = bench([oracle.Sliding(1)], lateness=1000, wanted=[Wanted("Count")])
    state = b.folded([at(99), at(100, "a"), at(100, "b"), at(101)])

    assert [one(b, state, t) for t in (98, 99, 100, 101, 102)] == [0, 1, 2, 1, 0]


def test_an_idle_key_decays_without_new_events() -> None:
    b = bench([oracle.Sliding(50)], lateness=5, wanted=[Wanted("Count")])
    state = b.folded([at(t) for t in range(0, 100, 10)])

    assert [one(b, state, t) for t in (90, 99, 100, 139, 140, 10**15)] == [5, 5, 4, 1, 0, 0]


def test_a_lifetime_ends_with_a_silence_longer_than_the_span() -> None:
    b = bench([oracle.Lifetime(10)], lateness=3, wanted=[Wanted("Count")])
    state = b.folded([at(0), at(10), at(21), at(22)])

    assert [one(b, state, t) for t in (20, 21, 22, 32, 33)] == [2, 1, 2, 2, 0]


def test_a_lifetime_remembers_what_left_the_exact_zone() -> None:
    b = bench([oracle.Lifetime(0), oracle.Lifetime(10)], lateness=3)
    state = State()
    arrivals = [msgspec.structs.replace(random_payment(random.Random(k), 9 * k, f"p{k}")) for k in range(300)]
    for offset, payment in enumerate(arrivals):
        b.fold(state, payment, offset)
        if offset % 50 == 7:
            state = b.restarted(state)
    events, _ = oracle.accepted(map(b.event, arrivals), 3)

    assert state.n < CAPACITY / 4
    assert b.differences(b.reader.read([state], 9 * 299, None), events, 9 * 299) == []


def test_few_exact_events_are_read_flat_and_no_others() -> None:
    b = bench([oracle.Sliding(10_000)], lateness=10)
    few = b.folded(at(t, f"p{t}") for t in range(MOST - 1))
    assert b.reader._flat.read([few], MOST, b.own(at(MOST))) is not None
    assert b.reader._flat.read([few, None, few], MOST, None) is None  # more of them
    one = b.folded([at(5, "a"), at(7, "c")])
    assert b.reader._flat.read([one], 8, b.own(at(7, "c"))) is not None  # its own event stands there already
    assert b.reader._flat.read([one], 8, b.own(at(6, "b"))) is None  # its place is between others
    tiled = b.folded(at(t, f"p{t}") for t in range(600))
    assert tiled.tiles
    assert b.reader._flat.read([tiled], 600, None) is None


def test_an_unknown_entity_gives_the_values_of_no_events() -> None:
    b = bench([oracle.Sliding(50), oracle.Lifetime(0)], lateness=5)
    row = b.reader.read([None], 100, None)

    assert b.differences(row, [], 100) == []
    assert row.newest < -(1 << 60)


def test_a_read_before_the_lateness_is_flagged() -> None:
    b = bench([oracle.Sliding(50)], lateness=5, wanted=[Wanted("Count")])
    state = b.folded([at(100)])

    assert [b.reader.read([state], t, None).late for t in (94, 95, 96, 100, 200)] == [
        True,
        True,
        False,
        False,
        False,
    ]


@given(
    t=st.integers(1_330_000_000_000, 2_100_000_000_000),
    since=st.sampled_from(("hour", "day", "week", "month", "year")),
    tz=st.sampled_from(
        ("UTC", "Europe/Zurich", "America/Sao_Paulo", "America/Havana", "Asia/Beirut", "Asia/Kathmandu",
         "Australia/Lord_Howe", "Pacific/Apia", "Antarctica/Troll", "Antarctica/Casey")
    ),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_calendar_window_begins_with_its_local_period(t: int, since: str, tz: str) -> None:
    b = bench([oracle.Calendar(since, tz)], lateness=1000, wanted=[Wanted("Count")])
    began = oracle.began_at(since, tz, t)
    arrivals = [at(x, f"{k}") for k, x in enumerate((began - 1, began, began + 1, t, t + 1))]
    state = b.restarted(b.folded(sorted(arrivals, key=lambda p: p.at)))
    events, _ = oracle.accepted(sorted(map(b.event, arrivals), key=lambda e: e.place), 1000)

    assert state.n == len(events), "the first event of the period is still kept"
    assert b.differences(b.reader.read([state], t, None), events, t) == []


HOUR = 3_600_000
CLOCK_CHANGES = [  # (zone, when the clock is changed)
    ("Europe/Zurich", 1_711_846_800_000),
    ("Europe/Zurich", 1_729_990_800_000),
    ("America/Sao_Paulo", 1_541_300_400_000),
    ("America/Havana", 1_730_610_000_000),
    ("Australia/Lord_Howe", 1_728_142_200_000),
    ("Australia/Lord_Howe", 1_712_415_600_000),
    ("Antarctica/Troll", 1_729_990_800_000),
]


@pytest.mark.parametrize(("tz", "change"), CLOCK_CHANGES)
@pytest.mark.parametrize("since", ["hour", "day", "week"])
@pytest.mark.parametrize("minutes", [-61, -1, 0, 10, 20, 45, 61, 125, 1300])
def test_a_calendar_window_is_right_when_the_clock_is_changed(
    tz: str, change: int, since: str, minutes: int
) -> None:
    b = bench([oracle.Calendar(since, tz)], lateness=1, wanted=[Wanted("Count")])
    t = change + minutes * 60_000
    arrivals = [at(x, f"{x}") for x in range(t - 30 * HOUR, t + 1, 900_000)]
    events = [b.event(p) for p in arrivals]

    assert b.differences(b.reader.read([b.folded(arrivals)], t, None), events, t) == []
