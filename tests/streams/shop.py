"""The project of the stream tests: payments by card, verdicts by shop, and a model of fraud."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType
from river.linear_model import LogisticRegression
from river.optim import SGD
from river.preprocessing import StandardScaler

from features import Count, Distinct, Entity, FeatureView, Max, Mean, Source, Sum
from models import Label, ModelSpec, Project
from models.join_rules import Vectors
from streams.producer import Outgoing

START = 1_767_225_600_000  # the first of January 2026
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


class Payment(Struct, frozen=True):
    id: str
    card: str
    shop: str
    amount: float
    at: int


class Verdict(Struct, frozen=True):
    payment: str
    shop: str
    fraud: bool
    at: int


def build(
    prefix: str,
    *,
    absent: bool | UnsetType = UNSET,
    learn_corrections: bool = False,
    partitioner: Literal["murmur2", "any"] = "murmur2",
    more: bool = False,
    again: bool = False,
    outcomes: bool = False,
    beside: bool = False,
    less: bool = False,
    max_bytes: int = 1_000_000,
    vectors: Vectors = "redis",
    max_pending: int | None = None,
    within: str = "4d",
    counts: Literal["first", "last"] = "first",
    silence: str = "0ms",
    rate: float | None = None,
) -> Project:
    """The project, over topics of this prefix.

    Args:
        more: another column is kept of payments, so that their states are others.
        outcomes: the model reads the share of frauds among its own outcomes, too.
        again: the model reads another mean, from the same states.
        beside: a second model reads other windows of the cards, within the reach of the first one's.
        less: the model reads nothing of the shops.
        vectors: where the vectors of waiting predictions are.
        max_pending: how many may wait.
        within, counts, silence: of the label of the first model.
        rate: at which the first model learns, if not at the usual one.
    """
    payments = Source(
        *(f"{prefix}.payments.v1", Payment),
        id=Payment.id,
        time=Payment.at,
        key=Payment.card,
        partitioner=partitioner,
        max_bytes=max_bytes,
    )
    verdicts = Source(f"{prefix}.verdicts.v1", Verdict, id=Verdict.payment, time=Verdict.at)
    card = Entity("card", by=Payment.card)
    shop = Entity("shop", by=(Payment.shop, Verdict.shop))

    class Card(FeatureView, of=card, source=payments):
        count_1h, count_7d = Count().over("1h", "7d")
        spent_7d = Sum(Payment.amount).over("7d")
        mean_7d = Mean(Payment.amount).over("7d")

    class Shop(FeatureView, of=shop, source=payments):
        count_7d = Count().over("7d")
        cards_1d = Distinct(Payment.card).over("1d")

    class Risk(FeatureView, of=shop, source=verdicts):
        share_7d = Mean(Verdict.fraud).over("7d")

    class Again(FeatureView, of=card, source=payments):
        mean_1h = Mean(Payment.amount).over("1h")

    class More(FeatureView, of=card, source=payments):
        largest_7d = Max(Payment.amount).over("7d")
        shops_7d = Distinct(Payment.shop).over("7d")

    class Beside(FeatureView, of=card, source=payments):
        count_2d = Count().over("2d")
        largest_1d = Max(Payment.amount).over("1d")
        mean_6h = Mean(Payment.amount).over("6h")

    extra: list[Any] = [*([More] if more else []), *([Again] if again else [])]
    fraud = ModelSpec(
        "fraud",
        request=payments,
        inputs=[Payment.amount, Card, *([] if less else [Shop]), Risk, *extra],
        label=Label(
            verdicts,
            value=Verdict.fraud,
            within=within,
            absent=absent,
            counts=counts,
            silence=silence,
            learn_corrections=learn_corrections,
            vectors=vectors,
            max_pending=max_pending,
        ),
        learner=StandardScaler() | (LogisticRegression() if rate is None else LogisticRegression(SGD(rate))),
    )
    second = ModelSpec(
        "second",
        request=payments,
        inputs=[Payment.amount, Beside],
        label=Label(verdicts, value=Verdict.fraud, within="4d", absent=absent),
        learner=StandardScaler() | LogisticRegression(),
    )
    if outcomes:

        class Outcomes(FeatureView, of=shop, source=fraud.outcomes):
            share_7d = Mean(Verdict.fraud).over("7d")

        fraud.add(Outcomes)
    return Project(prefix, fraud, *([second] if beside else []))


class Business(NamedTuple):
    """What happened: payments and verdicts, each in the order of time."""

    payments: list[Payment]
    verdicts: list[Verdict]


def business(
    n: int,
    *,
    seed: int = 1,
    step: int = 10 * MINUTE,
    delay: int = 2 * DAY,
    judged: float = 1.0,
    cards: int = 30,
    shops: int = 12,
) -> Business:
    """Payments about every `step`, with verdicts `delay` later on a share of them."""
    chance = random.Random(seed)
    payments, verdicts = [], []
    t = START
    for k in range(n):
        t += chance.randrange(1, 2 * step)
        shop = f"s{chance.randrange(shops)}"
        fraud = chance.random() < (0.5 if shop == "s3" else 0.02)
        amount = round(chance.lognormvariate(5 if fraud else 3, 0.8), 2)
        payments.append(Payment(f"p{k}", f"c{chance.randrange(cards)}", shop, amount, t))
        if chance.random() < judged:
            verdicts.append(Verdict(f"p{k}", shop, fraud, t + delay))
    return Business(payments, verdicts)


def sent(project: Project, *events: Payment | Verdict) -> list[Outgoing]:
    """The records of events, as their producers write them."""
    return list(_sent(project, events))


def _sent(project: Project, events: tuple[Payment | Verdict, ...]) -> Iterator[Outgoing]:
    sources = {source.event: source for source in project.sources}
    for event in events:
        source = sources[type(event)]
        key = source.key_bytes(event) or source.id_of(event).encode()
        yield Outgoing(source.topic, key, msgspec.json.encode(event), (), event.at)
