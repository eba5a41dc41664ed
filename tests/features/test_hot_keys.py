"""Keys with more events than are kept one by one: tiles, bases, and what their values may differ by."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.fold import CAPACITY, Folded
from features.plan import cell_size
from features.state import NARROWED, TILED, State, encode

from . import oracle
from .oracle import Wanted
from .strategies import Bench, Payment, bench, random_payment

EXACT = (
    Wanted("Count"), Wanted("TimeSinceFirst"), Wanted("DecayedCount", parameter=5000),
    Wanted("DecayedSum", "fee", 700),
    *(Wanted(name, c) for name in ("Sum", "Mean", "Min", "Max", "Variance") for c in ("amount", "fee", "units")),
    *(Wanted(name, c) for name in ("First", "Last") for c in ("amount", "note")), Wanted("LastK", "fee", 5),
)  # fmt: skip
WIDTHS = (40, 1000, 7777, 60_000, 400_000)
WINDOWS: tuple[oracle.Window, ...] = (
    *(oracle.Sliding(width) for width in WIDTHS),
    oracle.Sliding(20_000, 30_000),
)


def steady(
    seed: int, n: int, *, step: int = 40, jitter: int = 0, start: int = 1_700_000_000_000
) -> list[Payment]:
    """Events of one key in the order in which they arrive, none of them later than `jitter`."""
    r = random.Random(seed)
    t = start
    timed = []
    for k in range(n):
        t += r.randrange(2 * step)
        timed.append((t + (r.randrange(jitter) if jitter else 0), random_payment(r, t, f"p{k}")))
    timed.sort(key=lambda pair: pair[0])
    return [payment for _, payment in timed]


def folded_with_restarts(b: Bench, arrivals: Sequence[Payment], seed: int) -> State:
    r = random.Random(seed)
    state = State()
    for offset, payment in enumerate(arrivals):
        b.fold(state, payment, offset)
        if r.random() < 0.02:
            state = b.restarted(state)
    return state


def known(b: Bench, arrivals: Sequence[Payment]) -> list[oracle.Event]:
    """All arrivals as the oracle's events; the histories here hold no repeats and no late events."""
    return sorted(map(b.event, arrivals), key=lambda e: e.place)


def test_hot_histories_here_lose_nothing() -> None:
    b = bench([oracle.Sliding(10**9)], lateness=400, wanted=[Wanted("Count")])
    state = State()
    arrivals = steady(1, 3000, jitter=400)
    outcomes = {b.fold(state, payment, k) for k, payment in enumerate(arrivals)}

    assert outcomes == {Folded.FOLDED}
    assert state.flags == TILED
    assert b.differences(b.reader.read([state], state.newest, None), known(b, arrivals), state.newest) == []


@given(seed=st.integers(0, 1 << 32), n=st.integers(CAPACITY + 1, 2500), ahead=st.integers(-399, 70_000))
@settings(max_examples=8, deadline=None)
def test_values_are_exact_where_the_bound_is_zero_and_counts_within_it_elsewhere(
    seed: int, n: int, ahead: int
) -> None:
    b = bench(WINDOWS, lateness=400, wanted=EXACT)
    arrivals = steady(seed, n, jitter=400)
    state = folded_with_restarts(b, arrivals, seed)
    events = known(b, arrivals)
    t = state.newest + ahead
    row = b.reader.read([state], t, None)

    for k, (got, expected) in enumerate(zip(row.values, b.expected(events, t), strict=True)):
        wanted, window = b.wanted[k]
        bound = row.bounds.get(f"f{k}", 0)
        if not bound:
            assert oracle.bits(got) == oracle.bits(expected), (wanted, window)
        elif wanted.name == "Count":
            assert abs(got - expected) <= bound, (wanted, window)
    oldest_exact = state.blocks[0].t0
    inside = [w for w in WINDOWS if t - w.delay - getattr(w, "width", 0) >= oldest_exact]
    bounded = {b.wanted[int(name[1:])][1] for name in row.bounds}
    assert not bounded & set(inside), "a window inside the exact zone is exact"


@pytest.mark.parametrize("n", [600, 5000])
def test_the_bound_is_at_most_the_events_of_one_cell_at_either_edge(n: int) -> None:
    b = bench([oracle.Sliding(w) for w in WIDTHS], lateness=400, wanted=[Wanted("Count")])
    arrivals = steady(3, n, jitter=400)
    state = b.folded(arrivals)
    row = b.reader.read([state], state.newest, None)

    for k, (_, window) in enumerate(b.wanted):
        assert isinstance(window, oracle.Sliding)
        most = window.width / 32 / 40 * 2 + 10  # one event in 40 ms on average, twice that at most
        assert row.bounds.get(f"f{k}", 0) <= most


@given(seed=st.integers(0, 1 << 32), n=st.integers(CAPACITY + 1, 1500))
@settings(max_examples=6, deadline=None)
def test_lifetime_values_are_exact_for_hot_keys(seed: int, n: int) -> None:
    b = bench([oracle.Lifetime(0), oracle.Lifetime(75), oracle.Sliding(10**9)], lateness=400, wanted=EXACT)
    arrivals = steady(seed, n, jitter=400)
    state = folded_with_restarts(b, arrivals, seed)

    t = state.newest
    assert b.differences(b.reader.read([state], t, None), known(b, arrivals), t) == []


ALL = (
    *EXACT, Wanted("Distinct", "note"), Wanted("TopK", "note", 5), Wanted("Quantile", "amount", 0.5),
    Wanted("StdDev", "fee"), Wanted("DecayedSum", "amount", 70),
)  # fmt: skip


@given(
    seed=st.integers(0, 1 << 32),
    step=st.sampled_from((1, 40, 400)),
    lateness=st.sampled_from((50, 400, 100_000)),
)
@settings(max_examples=10, deadline=None)
def test_replays_with_restarts_end_in_the_same_bytes(seed: int, step: int, lateness: int) -> None:
    windows = (*WINDOWS, oracle.Lifetime(0), oracle.Lifetime(50, 100))
    b = bench(windows, lateness=lateness, wanted=ALL)
    r = random.Random(seed)
    arrivals = [
        msgspec.structs.replace(p, note=f"n{int(r.paretovariate(0.5)) % 3000}")
        for p in steady(seed, 1500, step=step, jitter=400)
    ]
    restarted, uninterrupted = folded_with_restarts(b, arrivals, seed), b.folded(arrivals)

    assert encode(b.plan, restarted) == encode(b.plan, uninterrupted)
    t = restarted.newest + r.randrange(1000)
    assert oracle.bits(b.reader.read([restarted], t, None).values) == oracle.bits(
        b.reader.read([uninterrupted], t, None).values
    )


@pytest.mark.parametrize("lateness", [400, 100_000, 5_000_000])
def test_cells_stay_bounded_however_long_the_key_is_hot(lateness: int) -> None:
    b = bench(
        [oracle.Sliding(w) for w in WIDTHS],
        lateness=lateness,
        wanted=[Wanted("Count"), Wanted("Sum", "amount")],
    )
    state = State()
    most, size = 0, 0
    for offset, payment in enumerate(steady(5, 20_000)):
        b.fold(state, payment, offset)
        if offset % 500 == 499:
            most = max(most, len(state.tiles))
            size = max(size, len(encode(b.plan, state)))

    assert most <= 33 * len(WIDTHS) + 8
    assert size < 64 * 1024


def test_a_cell_is_at_most_a_thirty_second_of_its_window() -> None:
    for width in (1, 31, 32, 33, 600_000, 86_400_000, 30 * 86_400_000):
        assert cell_size(width) <= max(1, width / 32) < 2 * cell_size(width)


def test_more_events_within_the_lateness_than_are_kept_narrow_it() -> None:
    b = bench([oracle.Sliding(10**6)], lateness=10**6, wanted=[Wanted("Count")])
    arrivals = steady(2, 2000, step=2)
    state = b.folded(arrivals)

    assert state.flags == TILED | NARROWED
    assert b.fold(state, msgspec.structs.replace(arrivals[0], id="late"), 2000) is Folded.LATE
    assert b.fold(state, arrivals[5], 2001) is Folded.LATE, "a repeat of what is tiled counts no second time"
    assert b.reader.read([state], state.newest, None).values == [2000]
    assert b.reader.read([state], state.floor, None).late
    assert not b.reader.read([state], state.floor + 1, None).late


def test_a_hot_key_gone_quiet_leaves_its_tiles_behind() -> None:
    b = bench(
        [oracle.Sliding(1000), oracle.Lifetime(0)],
        lateness=400,
        wanted=[Wanted("Count"), Wanted("Sum", "fee")],
    )
    arrivals = steady(2, 2000, step=2)
    state = b.folded(arrivals)
    assert state.tiles
    later = arrivals[-1].at + 10_000
    for k in range(5):
        b.fold(state, random_payment(random.Random(k), later + 500 * k, f"q{k}"), 2000 + k)

    assert state.tiles == []
    assert len(encode(b.plan, state)) < 1000


def one(b: Bench, state: State, t: int) -> Any:
    (value,) = b.reader.read([state], t, None).values
    return value


def test_five_thousand_distinct_values_are_counted_within_fifteen_percent() -> None:
    windows: list[oracle.Window] = [oracle.Sliding(10**9), oracle.Sliding(30_000), oracle.Lifetime(0)]
    b = bench(windows, lateness=400, wanted=[Wanted("Distinct", "note")])
    r = random.Random(11)
    arrivals = [
        msgspec.structs.replace(p, note=f"n{k if k < 5000 else r.randrange(5000)}")
        for k, p in enumerate(steady(7, 8000, jitter=400))
    ]
    state = folded_with_restarts(b, arrivals, 3)
    t = state.newest
    row = b.reader.read([state], t, None)

    for got, expected in zip(row.values, b.expected(known(b, arrivals), t), strict=True):
        assert abs(got - expected) <= 0.15 * expected


def test_distinct_values_of_a_delayed_window_are_counted_although_they_were_seen_again() -> None:
    b = bench([oracle.Sliding(30_000, 30_000)], lateness=400, wanted=[Wanted("Distinct", "note")])
    arrivals = [msgspec.structs.replace(p, note=f"n{k % 50}") for k, p in enumerate(steady(7, 4000))]
    state = b.folded(arrivals)

    assert one(b, state, state.newest) == 50


@pytest.mark.parametrize("values", [300, 600, 100_000])
def test_distinct_values_of_delayed_windows_leave_a_state_of_bounded_size(values: int) -> None:
    windows = [oracle.Sliding(w, w) for w in (60_000, 1_000_000, 20_000_000)]
    b = bench(windows, lateness=400, wanted=[Wanted("Distinct", "shop")])
    r = random.Random(11)
    state, largest = State(), 0
    arrivals = [
        msgspec.structs.replace(p, shop=f"s{r.randrange(values)}") for p in steady(7, 12_000, step=4000)
    ]
    for offset, payment in enumerate(arrivals):
        b.fold(state, payment, offset)
        if offset % 640 == 639:
            state = b.restarted(state)
            largest = max(largest, len(encode(b.plan, state)))
    row = b.reader.read([state], state.newest, None)

    assert largest < 32 * 1024
    assert len(state.tiles) > 60
    truth = b.expected(known(b, arrivals), state.newest)
    for k, (got, expected) in enumerate(zip(row.values, truth, strict=True)):
        if values == 300:
            assert abs(got - expected) <= row.bounds.get(f"f{k}", 0)
        else:
            assert abs(got - expected) <= 0.3 * expected


@pytest.mark.parametrize("q", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_quantiles_of_old_events_are_within_their_buckets(q: float) -> None:
    window = oracle.Sliding(10**9)
    b = bench([window], lateness=400, wanted=[Wanted("Quantile", "amount", q), Wanted("Count")])
    r = random.Random(4)
    arrivals = [
        msgspec.structs.replace(p, amount=r.choice((-1, 1)) * r.lognormvariate(3, 4)) for p in steady(7, 4000)
    ]
    state = folded_with_restarts(b, arrivals, 3)
    row = b.reader.read([state], state.newest, None)
    (expected, _) = b.expected(known(b, arrivals), state.newest)

    assert row.bounds == {}
    assert abs(row.values[0] - expected) <= 0.008 * abs(expected)


def test_the_most_frequent_values_are_too_low_by_at_most_a_sixty_fifth() -> None:
    b = bench([oracle.Sliding(10**9), oracle.Lifetime(0)], lateness=400, wanted=[Wanted("TopK", "note", 3)])
    r = random.Random(4)
    arrivals = [msgspec.structs.replace(p, note=f"n{int(r.paretovariate(0.6))}") for p in steady(7, 5000)]
    state = folded_with_restarts(b, arrivals, 3)

    for got, expected in zip(
        b.reader.read([state], state.newest, None).values,
        b.expected(known(b, arrivals), state.newest),
        strict=True,
    ):
        truth = dict(expected)
        assert [x for x, _ in got] == [x for x, _ in expected]
        assert all(0 <= truth[x] - n <= 5000 / 65 for x, n in got)


def test_a_delayed_lifetime_of_a_hot_key_tells_what_may_be_too_new() -> None:
    b = bench([oracle.Lifetime(0, 60_000)], lateness=400, wanted=[Wanted("Count")])
    arrivals = steady(7, 4000)
    state = b.folded(arrivals)
    row = b.reader.read([state], state.newest, None)
    (expected,) = b.expected(known(b, arrivals), state.newest)

    assert row.values[0] - row.bounds.get("f0", 0) <= expected <= row.values[0] + row.bounds.get("f0", 0)


def times_of(state: State) -> Iterator[int]:
    for block in state.blocks:
        yield from (block.t0 + dt for dt in block.t)


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=6, deadline=None)
def test_exact_events_stay_in_order_and_within_the_capacity(seed: int) -> None:
    b = bench([oracle.Sliding(10**5)], lateness=4000, wanted=[Wanted("Count")])
    state = State()
    for offset, payment in enumerate(steady(seed, 1500, step=7, jitter=4000)):
        b.fold(state, payment, offset)
        assert state.n <= CAPACITY
    times = list(times_of(state))

    assert times == sorted(times)
    assert len(times) == state.n
