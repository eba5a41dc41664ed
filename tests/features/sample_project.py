"""A project file with every aggregation, as a user writes it; type checkers read it with `--strict`."""

from __future__ import annotations

from datetime import datetime
from typing import assert_type

from msgspec import Struct

from features import (
    Count,
    DecayedCount,
    DecayedSum,
    Distinct,
    Entity,
    Feature,
    FeatureView,
    First,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    Quantile,
    Ratio,
    Source,
    StdDev,
    Sum,
    TimeSinceFirst,
    TimeSinceLast,
    TopK,
    Variance,
    Vector,
    distance,
    hour,
    night,
    weekday,
    weekend,
)
from features.plan import plans_of


class Transaction(Struct, frozen=True):
    id: str
    card: str
    terminal: str
    amount: float
    fee: float | None
    items: int
    country: str
    latitude: float
    longitude: float
    at: datetime


transactions = Source(
    "payments.transactions.v1", Transaction, id=Transaction.id, time=Transaction.at, key=Transaction.card
)

card = Entity("card", by=Transaction.card)
terminal = Entity("terminal", by=Transaction.terminal)


def large(txn: Transaction) -> bool:
    return txn.amount > 1000.0


class CardActivity(FeatureView, of=card, source=transactions):
    count_10m, count_1h, count_1d = Count().over("10m", "1h", "1d")
    spend_1d, spend_30d = Sum(Transaction.amount).over("1d", "30d")
    fees_1d = Sum(Transaction.fee).over("1d")
    mean_30d = Mean(Transaction.amount).over("30d")
    least = Min(Transaction.amount).lifetime(forget_after="1y")
    most_items = Max(Transaction.items).over("7d")
    spread_30d = Variance(Transaction.amount).over("30d")
    deviation_30d = StdDev(Transaction.amount).over("30d")
    terminals_1d = Distinct(Transaction.terminal).over("1d")
    median_7d = Quantile(Transaction.amount, 0.5).over("7d")
    countries_7d = TopK(Transaction.country, 2).over("7d")
    first_country = First(Transaction.country).lifetime(unbounded=True)
    last_items = Last(Transaction.items).over("30d")
    last_amounts = LastK(Transaction.amount, 3).over("30d")
    since_first = TimeSinceFirst().over("30d")
    heat = DecayedCount("1h").over("1d")
    burn = DecayedSum(Transaction.amount, "1h").over("1d")
    share = Ratio(Sum(Transaction.amount), Count()).over("1d")
    today = Count().since("day", tz="Europe/Zurich")


class CardBefore(FeatureView, of=card, source=transactions, own_event=False):
    since_last = TimeSinceLast().over("30d")
    last_latitude = Last(Transaction.latitude).over("30d")
    last_longitude = Last(Transaction.longitude).over("30d")


class TerminalActivity(FeatureView, of=terminal, source=transactions):
    count_7d = Count().over("7d", delay="7d")


class LargeAtTerminal(FeatureView, of=terminal, source=transactions, where=large):
    count_1d = Count().over("1d")


def amount_ratio(txn: Transaction, activity: CardActivity) -> float:
    return txn.amount / activity.mean_30d if activity.mean_30d else 1.0


def known_country(txn: Transaction, activity: CardActivity) -> bool | None:
    if activity.first_country is None:
        return None
    return activity.first_country == txn.country


views: list[type[FeatureView]] = [CardActivity, CardBefore, TerminalActivity, LargeAtTerminal]

vector = Vector(
    transactions,
    [
        Transaction.amount,
        CardActivity,
        CardBefore.since_last,
        TerminalActivity,
        LargeAtTerminal.count_1d,
        amount_ratio,
        known_country,
        hour(Transaction.at, tz="Europe/Zurich"),
        weekday(Transaction.at),
        weekend(Transaction.at),
        night(Transaction.at),
        distance(
            Transaction.latitude,
            Transaction.longitude,
            to=(CardBefore.last_latitude, CardBefore.last_longitude),
        ),
    ],
    plans_of(views),
)


def what_a_type_checker_knows(row: CardActivity, before: CardBefore) -> None:
    """On a class an attribute is the feature, on a row its value; both with their types."""
    assert_type(CardActivity.count_10m, Feature[int])
    assert_type(CardActivity.spend_30d, Feature[float])
    assert_type(CardActivity.mean_30d, Feature[float | None])
    assert_type(CardActivity.countries_7d, Feature[tuple[tuple[str, int], ...]])
    assert_type(CardActivity.last_amounts, Feature[tuple[float, ...]])
    assert_type(row.count_10m, int)
    assert_type(row.count_1h, int)
    assert_type(row.spend_1d, float)
    assert_type(row.fees_1d, float)
    assert_type(row.mean_30d, float | None)
    assert_type(row.least, float | None)
    assert_type(row.most_items, int | None)
    assert_type(row.spread_30d, float | None)
    assert_type(row.deviation_30d, float | None)
    assert_type(row.terminals_1d, int)
    assert_type(row.median_7d, float | None)
    assert_type(row.countries_7d, tuple[tuple[str, int], ...])
    assert_type(row.first_country, str | None)
    assert_type(row.last_items, int | None)
    assert_type(row.last_amounts, tuple[float, ...])
    assert_type(row.since_first, float | None)
    assert_type(row.heat, float)
    assert_type(row.burn, float)
    assert_type(row.share, float | None)
    assert_type(row.today, int)
    assert_type(before.since_last, float | None)
