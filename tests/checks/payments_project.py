"""The project of the payments check: the features that the data set publishes, and a model that learns beside them."""

from datetime import datetime

from msgspec import Struct
from river.linear_model import LogisticRegression
from river.preprocessing import StandardScaler

from features import Count, Entity, FeatureView, Mean, Source, night, weekend
from models import Label, ModelSpec, Project


class Payment(Struct, frozen=True):
    id: int
    customer: int
    terminal: int
    amount: float
    at: datetime


class Verdict(Struct, frozen=True):
    payment: int
    terminal: int
    fraud: bool
    at: datetime


payments = Source("check.payments.v1", Payment, id=Payment.id, time=Payment.at, key=Payment.customer)
verdicts = Source("check.verdicts.v1", Verdict, id=Verdict.payment, time=Verdict.at)

customer = Entity("customer", by=Payment.customer)
terminal = Entity("terminal", by=(Payment.terminal, Verdict.terminal))


class Customer(FeatureView, of=customer, source=payments):
    nb_1, nb_7, nb_30 = Count().over("1d", "7d", "30d")
    avg_1, avg_7, avg_30 = Mean(Payment.amount).over("1d", "7d", "30d")


class Terminal(FeatureView, of=terminal, source=verdicts):
    nb_1, nb_7, nb_30 = Count().over("1d", "7d", "30d")
    risk_1, risk_7, risk_30 = Mean(Verdict.fraud).over("1d", "7d", "30d")


fraud = ModelSpec(
    "fraud",
    request=payments,
    inputs=[Payment.amount, weekend(Payment.at), night(Payment.at), Customer, Terminal],
    label=Label(verdicts, value=Verdict.fraud, within="8d"),
    learner=StandardScaler() | LogisticRegression(),
)

project = Project("check", fraud)
