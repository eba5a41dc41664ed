"""A project that looks its cards up in a table, and what a run without lag must read there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from river.linear_model import LogisticRegression

from features import Count, Entity, FeatureView, Last, Source
from models import Label, ModelSpec, Project
from streams.producer import Outgoing
from tests.features import oracle
from tests.streams.shop import DAY, HOUR, MINUTE, START, Verdict

LATENESS = DAY
NAMES = ("country", "limit", "blocked")


class Payment(Struct, frozen=True):
    id: str
    card: str
    country: str
    amount: float
    at: int


class Holder(Struct, frozen=True):
    """What a card stands for."""

    card: str
    country: str
    limit: float | None
    blocked: bool
    at: int


def build(prefix: str) -> Project:
    """The project, over topics of this prefix."""
    payments = Source(f"{prefix}.payments.v1", Payment, id=Payment.id, time=Payment.at, key=Payment.card)
    holders = Source(f"{prefix}.holders.v1", Holder, time=Holder.at, key=Holder.card, compacted=True)
    verdicts = Source(f"{prefix}.verdicts.v1", Verdict, id=Verdict.payment, time=Verdict.at)
    card = Entity("card", by=(Payment.card, Holder.card))

    class Home(FeatureView, of=card, source=holders):
        country = Last(Holder.country).lifetime(unbounded=True)
        limit = Last(Holder.limit).lifetime(unbounded=True)
        blocked = Last(Holder.blocked).lifetime(unbounded=True)

    class Card(FeatureView, of=card, source=payments):
        count_1d = Count().over("1d")

    def abroad(payment: Payment, home: Home) -> bool:
        return home.country is not None and home.country != payment.country

    abroad.__annotations__["home"] = Home  # a class of this call has no name that could be looked up

    fraud = ModelSpec(
        "fraud",
        request=payments,
        inputs=[Payment.amount, Card, Home.limit, Home.blocked, abroad],
        label=Label(verdicts, value=Verdict.fraud, within="4d", absent=False),
        learner=LogisticRegression(),
    )
    return Project(prefix, fraud)


class Town(NamedTuple):
    """What happened, each in the order of its log; a holder without values is cleared."""

    payments: list[Payment]
    holders: list[tuple[str, int, dict[str, Any] | None]]  # card, time, what it stands for


def town(n: int, seed: int, *, cards: int = 8) -> Town:
    """Payments about every ten minutes, and cards that are given, changed and taken away about as often."""
    chance = random.Random(seed)
    made, t = Town([], []), START
    for k in range(n):
        t += chance.randrange(1, 10 * MINUTE)
        card = f"c{chance.randrange(cards)}"
        values = {
            "country": chance.choice(("CH", "FR")),
            "limit": chance.choice((None, 100.0, 0.0)),
            "blocked": chance.random() < 0.3,
        }
        made.holders.append((card, t, values if chance.random() < 0.6 else None))
        # in the very millisecond, or a while later
        at = t + chance.choice((0, 1, chance.randrange(HOUR)))
        made.payments.append(
            Payment(f"p{k}", f"c{chance.randrange(cards)}", chance.choice(("CH", "FR")), float(k % 7), at)
        )
    made.payments.sort(key=lambda payment: payment.at)
    return made


def sent(project: Project, happened: Town) -> list[Outgoing]:
    """The records, as producers write them: a tombstone has a key and a timestamp alone."""
    payments, _, holders = (source.topic for source in project.sources)
    out = [Outgoing(payments, p.card.encode(), msgspec.json.encode(p), (), p.at) for p in happened.payments]
    for card, t, values in happened.holders:
        value = None if values is None else msgspec.json.encode({"card": card, "at": t, **values})
        out.append(Outgoing(holders, card.encode(), value, (), t))
    return out


def expected(happened: Town, payment: Payment, holders: Sequence[Any] | None = None) -> list[Any]:
    """The vector of a payment in a run without lag, from the lists."""
    said = [
        oracle.Said(t, k, values)
        for k, (card, t, values) in enumerate(happened.holders if holders is None else holders)
        if card == payment.card
    ]
    found = oracle.stands_for([one for one in said if one.t <= payment.at], LATENESS, payment.at)
    count = sum(p.card == payment.card and payment.at - DAY < p.at <= payment.at for p in happened.payments)
    country = found.get("country")
    abroad = country is not None and country != payment.country
    return [payment.amount, count, found.get("limit"), found.get("blocked"), abroad]
