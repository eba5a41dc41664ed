"""What happens while everything breaks: payments and verdicts without end, the same for the same seed."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from itertools import islice

from tests.streams.shop import DAY, HOUR, START, Payment, Verdict

STEP = 6_000  # milliseconds between two payments, on average; more in short runs, which have labels as well
SPAN = 10 * DAY  # of event time, at least
DELAY = 26 * HOUR  # of a verdict: beyond the lateness, so it always stands behind its payment's prediction
CARDS, SHOPS = 2_000, 600  # enough that every state is exact: beyond 512 events tiles depend on who is ahead
JUDGED = 0.6
REPEATED = 0.005


def stream(payments: int, seed: int) -> Iterator[Payment | Verdict]:
    """Yields that many payments with their verdicts among them, in the order of time; all lie before 2026."""
    chance = random.Random(f"events of {seed}")
    step = max(STEP, SPAN // payments)
    t = START - payments * step - 30 * DAY
    waiting: deque[Verdict] = deque()
    for k in range(payments):
        t += chance.randrange(1, 2 * step)
        while waiting and waiting[0].at <= t:
            yield waiting.popleft()
        shop = f"s{chance.randrange(SHOPS)}"
        fraud = chance.random() < (0.5 if shop.endswith("3") else 0.02)
        amount = round(chance.lognormvariate(5 if fraud else 3, 0.8), 2)
        payment = Payment(f"p{k}", f"c{chance.randrange(CARDS)}", shop, amount, t)
        yield payment
        if chance.random() < REPEATED:
            yield payment
        if chance.random() < JUDGED:
            waiting.append(Verdict(f"p{k}", shop, fraud, t + DELAY))
    yield from waiting


def chunks(events: Iterator[Payment | Verdict], size: int) -> Iterator[list[Payment | Verdict]]:
    """Yields events some at a time."""
    while chunk := list(islice(events, size)):
        yield chunk
