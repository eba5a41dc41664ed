"""Card payments: is this one fraud? The project that `headrace demo` runs."""

from datetime import datetime

from msgspec import Struct
from river.linear_model import LogisticRegression
from river.preprocessing import StandardScaler

from features import Count, Distinct, Entity, FeatureView, Mean, Source, Sum
from models import Label, ModelSpec, Project


class Transaction(Struct, frozen=True):
    id: str
    card: str
    terminal: str
    amount: float
    at: datetime


class Chargeback(Struct, frozen=True):
    transaction: str
    fraud: bool
    at: datetime


transactions = Source(
    "payments.transactions.v1", Transaction, id=Transaction.id, time=Transaction.at, key=Transaction.card
)
chargebacks = Source("payments.chargebacks.v1", Chargeback, id=Chargeback.transaction, time=Chargeback.at)

card = Entity("card", by=Transaction.card)
terminal = Entity("terminal", by=Transaction.terminal)


class CardActivity(FeatureView, of=card, source=transactions):
    count_10m, count_1h, count_1d = Count().over("10m", "1h", "1d")
    spend_1d, spend_30d = Sum(Transaction.amount).over("1d", "30d")
    mean_30d = Mean(Transaction.amount).over("30d")
    terminals_1d = Distinct(Transaction.terminal).over("1d")


class TerminalActivity(FeatureView, of=terminal, source=transactions):
    count_7d = Count().over("7d", delay="7d")


def amount_ratio(txn: Transaction, activity: CardActivity) -> float:
    return txn.amount / activity.mean_30d if activity.mean_30d else 1.0


fraud = ModelSpec(
    "fraud",
    request=transactions,
    inputs=[Transaction.amount, CardActivity, TerminalActivity, amount_ratio],
    label=Label(chargebacks, value=Chargeback.fraud, within="14d", absent=False),
    learner=StandardScaler() | LogisticRegression(),
)


class TerminalRisk(FeatureView, of=terminal, source=fraud.outcomes):
    risk_1d, risk_7d, risk_30d = Mean(Chargeback.fraud).over("1d", "7d", "30d")


fraud.add(TerminalRisk)

project = Project("payments", fraud)
