"""A town that pays by card, and the frauds in it: an endless iterator of events in time order, the same for one seed.

Customers and terminals stand on a square of 100 by 100; a customer uses the terminals within a radius of 5. Each has
a mean amount of its own, U(5, 100), with half of it as standard deviation, and a mean number of payments a day,
U(0, 4); the second of the day is Normal(43200, 20000), inside the day. Three kinds of fraud: every amount over 220;
all payments at two terminals drawn each day, for 28 days; and a third of the payments of three customers drawn each
day, for 14 days, with five times the amount. What a payment was becomes known later: always for a fraud, sometimes for
a genuine one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

DAY = 86_400_000
_SIDE, _RADIUS = 100.0, 5.0
_NOON, _SPREAD = 43_200.0, 20_000.0
_LARGE = 220.0
_TERMINALS_A_DAY, _TERMINAL_DAYS = 2, 28
_CUSTOMERS_A_DAY, _CUSTOMER_DAYS, _CUSTOMER_SHARE, _TIMES = 3, 14, 3, 5.0


class Payment(NamedTuple):
    """A payment; `fraud` is what becomes known later."""

    t: int
    id: str
    card: str
    terminal: str
    amount: float
    fraud: bool


class Verdict(NamedTuple):
    """What became known of a payment."""

    t: int
    payment: str
    fraud: bool


@dataclass(frozen=True)
class Town:
    """The size of the town and its habits; times are milliseconds.

    With 500 customers there are about 1,000 payments a day.
    """

    start: int
    seed: int = 7
    customers: int = 500
    terminals: int = 1_000
    soonest: int = DAY // 8  # how long after the payment its truth is known
    latest: int = 2 * DAY
    confirmed: float = 0.2  # share of genuine payments that somebody confirms


class _Customer(NamedTuple):
    name: str
    mean: float
    a_day: float
    terminals: list[int]


def events(town: Town) -> Iterator[Payment | Verdict]:
    """Yields the payments and verdicts of a town from its start on, in time order."""
    random = Random(town.seed)
    customers = _customers(town, random)
    verdicts: list[Verdict] = []
    terminals_hit: dict[int, int] = {}  # the day on which it ends
    customers_hit: dict[int, int] = {}
    for before in range(1 - _TERMINAL_DAYS, 0):  # as many are hit on the first day as on any other
        _draw(random, terminals_hit, town.terminals, _TERMINALS_A_DAY, before + _TERMINAL_DAYS)
        _draw(random, customers_hit, town.customers, _CUSTOMERS_A_DAY, before + _CUSTOMER_DAYS)
    count = 0
    day = 0
    while True:
        _draw(random, terminals_hit, town.terminals, _TERMINALS_A_DAY, day + _TERMINAL_DAYS)
        _draw(random, customers_hit, town.customers, _CUSTOMERS_A_DAY, day + _CUSTOMER_DAYS)
        for second, c, terminal, amount in _day(customers, random):
            fraud = amount > _LARGE or terminals_hit.get(terminal, 0) > day
            if customers_hit.get(c, 0) > day and random.randrange(_CUSTOMER_SHARE) == 0:
                fraud, amount = True, round(amount * _TIMES, 2)
            t = town.start + day * DAY + int(second * 1000)
            while (
                verdicts and verdicts[0].t <= t
            ):  # at equal instants what is known comes before what is asked
                yield heapq.heappop(verdicts)
            made = Payment(t, f"p{count:08d}", customers[c].name, f"t{terminal:04d}", amount, fraud)
            count += 1
            if fraud or random.random() < town.confirmed:
                known = t + round(random.uniform(town.soonest, town.latest))
                heapq.heappush(verdicts, Verdict(known, made.id, fraud))
            yield made
        day += 1


def _customers(town: Town, random: Random) -> list[_Customer]:
    places = [(random.uniform(0, _SIDE), random.uniform(0, _SIDE)) for _ in range(town.terminals)]
    customers = []
    for c in range(town.customers):
        x, y = random.uniform(0, _SIDE), random.uniform(0, _SIDE)
        near = [k for k, place in enumerate(places) if math.dist((x, y), place) < _RADIUS]
        customers.append(_Customer(f"c{c:04d}", random.uniform(5, 100), random.uniform(0, 4), near))
    return customers


def _draw(random: Random, hit: dict[int, int], among: int, count: int, until: int) -> None:
    for k in random.sample(range(among), min(count, among)):
        hit[k] = until


def _day(customers: list[_Customer], random: Random) -> list[tuple[float, int, int, float]]:
    """Returns the payments of one day by second: customer, terminal, amount."""
    made = []
    for c, customer in enumerate(customers):
        for _ in range(_poisson(customer.a_day, random) if customer.terminals else 0):
            second = random.gauss(_NOON, _SPREAD)
            amount = random.gauss(customer.mean, customer.mean / 2)
            if amount < 0:
                amount = random.uniform(0, 2 * customer.mean)
            terminal = random.choice(customer.terminals)
            if 0 < second < DAY // 1000:
                made.append((second, c, terminal, round(amount, 2)))
    return sorted(made)


def _poisson(mean: float, random: Random) -> int:
    """Draws by Knuth's method: how many uniform factors until their product falls below exp(-mean)."""
    floor, product, count = math.exp(-mean), random.random(), 0
    while product > floor:
        product *= random.random()
        count += 1
    return count
