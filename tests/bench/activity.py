"""The project file of the worker's benchmark: one view, twelve windowed aggregates."""

from datetime import datetime

from msgspec import Struct

from features import Count, Entity, FeatureView, Max, Mean, Source, Sum
from models import Project


class Payment(Struct, frozen=True):
    id: str
    card: str
    amount: float
    at: datetime


payments = Source("bench.payments.v1", Payment, id=Payment.id, time=Payment.at, key=Payment.card)
card = Entity("card", by=Payment.card)


class Activity(FeatureView, of=card, source=payments):
    count_1m, count_1h, count_1d = Count().over("1m", "1h", "1d")
    sum_1m, sum_1h, sum_1d = Sum(Payment.amount).over("1m", "1h", "1d")
    mean_1m, mean_1h, mean_1d = Mean(Payment.amount).over("1m", "1h", "1d")
    max_1m, max_1h, max_1d = Max(Payment.amount).over("1m", "1h", "1d")


project = Project("bench", views=[Activity])
