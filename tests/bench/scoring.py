"""The project file of the API's benchmark: a vector of twenty slots, a scaler and a logistic regression."""

from datetime import datetime

from msgspec import Struct
from river.linear_model import LogisticRegression
from river.preprocessing import StandardScaler

from features import Count, Distinct, Entity, FeatureView, Max, Mean, Source, Sum
from models import Label, ModelSpec, Project


class Payment(Struct, frozen=True):
    id: str
    card: str
    terminal: str
    amount: float
    at: datetime


class Chargeback(Struct, frozen=True):
    payment: str
    fraud: bool
    at: datetime


payments = Source("scoring.payments.v1", Payment, id=Payment.id, time=Payment.at, key=Payment.card)
chargebacks = Source("scoring.chargebacks.v1", Chargeback, id=Chargeback.payment, time=Chargeback.at)
card = Entity("card", by=Payment.card)


class Card(FeatureView, of=card, source=payments):
    count_1m, count_1h, count_1d, count_30d = Count().over("1m", "1h", "1d", "30d")
    sum_1m, sum_1h, sum_1d, sum_30d = Sum(Payment.amount).over("1m", "1h", "1d", "30d")
    mean_1m, mean_1h, mean_1d, mean_30d = Mean(Payment.amount).over("1m", "1h", "1d", "30d")
    max_1m, max_1h, max_1d, max_30d = Max(Payment.amount).over("1m", "1h", "1d", "30d")
    terminals_1d, terminals_30d = Distinct(Payment.terminal).over("1d", "30d")


def ratio(payment: Payment, activity: Card) -> float:
    return payment.amount / activity.mean_30d if activity.mean_30d else 1.0


fraud = ModelSpec(
    "fraud",
    request=payments,
    inputs=[Payment.amount, Card, ratio],
    label=Label(chargebacks, value=Chargeback.fraud, within="14d", absent=False),
    learner=StandardScaler() | LogisticRegression(),
    threshold=0.5,
)

project = Project("scoring", fraud)
