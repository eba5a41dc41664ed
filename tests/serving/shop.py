"""A project with one of everything that the API tells apart."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct
from river.linear_model import LogisticRegression
from river.preprocessing import StandardScaler
from river.tree import HoeffdingTreeClassifier

from features import Count, Distinct, Entity, FeatureView, Last, Max, Mean, Source, Sum, TopK
from models import Label, ModelSpec, Project


class Payment(Struct, frozen=True):
    id: str
    card: str
    terminal: str
    amount: float
    at: datetime
    channel: str | None = None


class Chargeback(Struct, frozen=True):
    payment: str
    fraud: bool
    at: datetime


class Review(Struct, frozen=True):
    payment: str
    verdict: str
    at: datetime


payments = Source("shop.payments.v1", Payment, id=Payment.id, time=Payment.at, key=Payment.card)
chargebacks = Source("shop.chargebacks.v1", Chargeback, id=Chargeback.payment, time=Chargeback.at)
reviews = Source("shop.reviews.v1", Review, id=Review.payment, time=Review.at)

card = Entity("card", by=Payment.card)
terminal = Entity("terminal", by=Payment.terminal)
pair = Entity("pair", by=(Payment.card, Payment.terminal))


class Card(FeatureView, of=card, source=payments):
    count_1h, count_1d = Count().over("1h", "1d")
    spend_1d = Sum(Payment.amount).over("1d")
    mean_30d = Mean(Payment.amount).over("30d")
    terminals_1d = Distinct(Payment.terminal).over("1d")
    top_7d = TopK(Payment.terminal, 2).over("7d")


class Terminal(FeatureView, of=terminal, source=payments):
    count_1d = Count().over("1d")
    most_7d = Max(Payment.amount).over("7d")


class Before(FeatureView, of=pair, source=payments, own_event=False):
    count_7d = Count().over("7d")
    last_7d = Last(Payment.channel).over("7d")


def ratio(payment: Payment, activity: Card) -> float:
    return payment.amount / activity.mean_30d if activity.mean_30d else 1.0


def cents(payment: Payment) -> int:
    if payment.amount == 13.0:
        raise ValueError("unlucky")
    return round(payment.amount * 100)


class Broken:
    """A learner that has no answer for some amounts."""

    def learn_one(self, x: dict[str, Any], y: float) -> None: ...

    def predict_one(self, x: dict[str, Any]) -> float:
        return float("nan") if x["amount"] == 7.0 else x["amount"]

    def clone(self) -> Broken:
        return Broken()


fraud = ModelSpec(
    "fraud",
    request=payments,
    inputs=[
        Payment.amount,
        cents,
        Card.count_1h,
        Card.count_1d,
        Card.spend_1d,
        Card.terminals_1d,
        Terminal,
        ratio,
        Before.count_7d,
    ],
    label=Label(chargebacks, value=Chargeback.fraud, within="14d", absent=False),
    learner=StandardScaler() | LogisticRegression(),
    threshold=0.5,
)


class Risk(FeatureView, of=terminal, source=fraud.outcomes):
    risk_7d = Mean(Chargeback.fraud).over("7d")


fraud.add(Risk)

verdict = ModelSpec(
    "verdict",
    request=payments,
    inputs=[Payment.amount, Payment.channel, Card.count_1d, Before],
    label=Label(reviews, value=Review.verdict, within="14d"),
    learner=HoeffdingTreeClassifier(),
)


class Truth(Struct, frozen=True):
    payment: str
    loss: float
    at: datetime


truths = Source("shop.truths.v1", Truth, id=Truth.payment, time=Truth.at)

loss = ModelSpec(
    "loss",
    request=payments,
    inputs=[Payment.amount],
    label=Label(truths, value=Truth.loss, within="1d"),
    learner=Broken(),
)


class Place(Struct, frozen=True):
    terminal: str
    country: str
    at: datetime


places = Source("shop.places.v1", Place, time=Place.at, key=Place.terminal, compacted=True)


class Where(FeatureView, of=Entity("terminal", by=Place.terminal), source=places):
    country = Last(Place.country).lifetime(unbounded=True)


project = Project("shop", fraud, verdict, loss, views=[Card, Where])
