"""The town keeps the published rules, and is the same for one seed."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import islice, pairwise, takewhile

import pytest

from headrace.demo.generator import DAY, Payment, Town, Verdict, events
from headrace.demo.timeline import Timeline

TOWN = Town(start=1_000_000)


@pytest.fixture(scope="module")
def month() -> list[Payment | Verdict]:
    return list(takewhile(lambda event: event.t < TOWN.start + 30 * DAY, events(TOWN)))


def test_one_seed_gives_one_town() -> None:
    assert list(islice(events(TOWN), 2_000)) == list(islice(events(TOWN), 2_000))
    assert list(islice(events(TOWN), 50)) != list(islice(events(Town(TOWN.start, seed=8)), 50))


def test_events_come_in_time_order_and_ids_once(month: list[Payment | Verdict]) -> None:
    assert all(one.t <= other.t for one, other in pairwise(month))
    ids = [e.id for e in month if isinstance(e, Payment)]
    assert len(ids) == len(set(ids))


def test_there_are_two_payments_a_customer_and_day(month: list[Payment | Verdict]) -> None:
    paid = sum(isinstance(e, Payment) for e in month)
    assert 0.9 * 2 * TOWN.customers * 30 < paid < 2 * TOWN.customers * 30


def test_every_large_amount_is_a_fraud(month: list[Payment | Verdict]) -> None:
    large = [e for e in month if isinstance(e, Payment) and e.amount > 220]
    assert large
    assert all(e.fraud for e in large)


def test_a_hit_terminal_stays_so_for_four_weeks(month: list[Payment | Verdict]) -> None:
    by_terminal: dict[str, list[Payment]] = defaultdict(list)
    for event in month:
        if isinstance(event, Payment):
            by_terminal[event.terminal].append(event)
    wholly = [made for made in by_terminal.values() if len(made) > 20 and all(p.fraud for p in made[:10])]
    assert wholly


def test_every_fraud_becomes_known_and_some_genuine_payments_do(month: list[Payment | Verdict]) -> None:
    known = {e.payment: e.fraud for e in month if isinstance(e, Verdict)}
    settled = [e for e in month if isinstance(e, Payment) and e.t < TOWN.start + 28 * DAY]
    told = Counter((e.fraud, e.id in known) for e in settled)
    assert told[True, False] == 0
    assert 0.17 < told[False, True] / (told[False, True] + told[False, False]) < 0.23
    assert all(known[e.id] == e.fraud for e in settled if e.id in known)


def test_truth_is_never_known_before_its_time(month: list[Payment | Verdict]) -> None:
    paid = {e.id: e.t for e in month if isinstance(e, Payment)}
    delays = [e.t - paid[e.payment] for e in month if isinstance(e, Verdict)]
    assert min(delays) >= TOWN.soonest
    assert max(delays) <= TOWN.latest


def test_the_time_lapse_ends_in_the_present() -> None:
    line = Timeline(start=0, now=9_000, speed=10_000, live_speed=2_000)
    assert line.meets == 1.0
    assert (line.inner(0.5), line.stamp(5_000)) == (5_000, 5_000)
    assert line.stamp(line.inner(1.0)) == 10_000  # a second has passed on the wall as well
    assert line.stamp(line.inner(4.0)) == 13_000
