"""A wrong declaration is refused when the project is loaded; the message names the object and the way out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
import pytest

from features import (
    Count,
    DecayedCount,
    DefinitionError,
    Distinct,
    Entity,
    EventRefused,
    FeatureView,
    Last,
    LastK,
    Max,
    Mean,
    Quantile,
    Ratio,
    Source,
    Sum,
    TopK,
    Variance,
    Vector,
    hour,
)
from features.plan import plans_of


class Order(msgspec.Struct, frozen=True):
    id: str
    customer: str
    coupon: str | None
    total: float
    at: datetime
    seen_by: list[str] = []


class Refund(msgspec.Struct, frozen=True):
    id: str
    order: str
    shop: str
    total: float
    at: int


orders = Source("shop.orders.v1", Order, id=Order.id, time=Order.at, key=Order.customer)
refunds = Source("shop.refunds.v1", Refund, id=Refund.id, time=Refund.at)
anonymous = Source("shop.visits.v1", Order, time=Order.at)
customer = Entity("customer", by=Order.customer)
store = Entity("store", by=Refund.shop)
wrong = cast("Any", "not what it should be")


def source(**changes: Any) -> Source[Order]:
    given: dict[str, Any] = {"id": Order.id, "time": Order.at, "key": Order.customer, **changes}
    return Source("shop.orders.v1", Order, **given)


def view(**body: Any) -> type[FeatureView]:
    class Orders(FeatureView, of=customer, source=orders):
        vars().update(body)

    return Orders


def vector(*inputs: object) -> Vector:
    views = [i for i in inputs if isinstance(i, type) and issubclass(i, FeatureView)]
    return Vector(orders, inputs, plans_of(views))


class Spending(FeatureView, of=customer, source=orders):
    total_1d = Sum(Order.total).over("1d")


class Refunding(FeatureView, of=store, source=refunds):
    n_1d = Count().over("1d")


LIMITS = {"high": 10.0}


def above(order: Order) -> bool:
    return order.total > LIMITS["high"]


def lost(order: Order) -> float:
    return float(undefined_rate)  # type: ignore[name-defined]  # noqa: F821  # the mistake under test


def strange(order: Order, rate: float) -> float:
    return order.total * rate


def result_list(order: Order) -> list[float]:
    return [order.total]


def of_view_without_features() -> object:
    class Nothing(FeatureView, of=customer, source=orders):
        pass

    return Nothing


def of_view_without_entity() -> object:
    class Nobody(FeatureView, source=orders):
        n = Count().over("1d")

    return Nobody


def of_view_with_features_in_a_tuple() -> object:
    class Many(FeatureView, of=customer, source=orders):
        n = Count().over("1h", "1d")

    return Many


def of_view_with_a_feature_again() -> object:
    class Again(FeatureView, of=customer, source=orders):
        total = Spending.__dict__["total_1d"]

    return Again


def of_view_with_a_reserved_name() -> object:
    class Reserved(FeatureView, of=customer, source=orders):
        features = Count().over("1d")  # type: ignore[assignment]  # the mistake under test

    return Reserved


def of_view_with_a_filter_that_is_no_function() -> object:
    class Filtered(FeatureView, of=customer, source=orders, where=wrong):
        n = Count().over("1d")

    return Filtered


def of_view_with_a_mutable_filter() -> object:
    class Filtered(FeatureView, of=customer, source=orders, where=above):
        n = Count().over("1d")

    return plans_of([Filtered])


def of_view_of_an_entity_that_is_elsewhere() -> object:
    class Elsewhere(FeatureView, of=store, source=orders):
        n = Count().over("1d")

    return plans_of([Elsewhere])


# what is written, and the words that the message must hold
WRONG: dict[str, tuple[Callable[[], object], list[str]]] = {
    "a text for a column": (lambda: Sum(wrong), ["Sum", "Transaction.amount"]),
    "a sum of texts": (lambda: Sum(cast("Any", Order.customer)), ["Sum", "Order.customer", "float"]),
    "a sum of times": (lambda: Max(cast("Any", Order.at)), ["Max", "Order.at", "float"]),
    "a variance of nothing": (lambda: Variance(None), ["Variance", "column"]),
    "the k of numbers": (lambda: TopK(cast("Any", Order.total), 3), ["TopK", "Order.total", "str"]),
    "a list for a column": (lambda: Distinct(Order.seen_by), ["Distinct", "Order.seen_by"]),
    "a column of another class": (lambda: plans_of([view(n=Sum(Refund.total).over("1d"))]), ["Refund.total"]),
    "a view without features": (of_view_without_features, ["Nothing", "Count()"]),
    "a view without entity": (of_view_without_entity, ["Nobody", "of="]),
    "features in a tuple": (of_view_with_features_in_a_tuple, ["Many.n", "a, b ="]),
    "a feature a second time": (of_view_with_a_feature_again, ["Again.total", "Spending.total_1d", "over()"]),
    "a feature with a reserved name": (of_view_with_a_reserved_name, ["Reserved.features", "another name"]),
    "a filter that is no function": (of_view_with_a_filter_that_is_no_function, ["Filtered", "where", "def"]),
    "a filter of something mutable": (of_view_with_a_mutable_filter, ["above", "LIMITS", "constant"]),
    "a window without length": (lambda: Count().over("0s"), ["'0s'", "1ms"]),
    "a window that is no duration": (lambda: Count().over("soon"), ["'soon'", "10m"]),
    "a window that is a number": (lambda: Count().over(wrong and cast("Any", 600)), ["600", "10m"]),
    "a window with half a unit": (lambda: Count().over("1.5h"), ["1.5h", "10m"]),
    "no window": (lambda: cast("Any", Count()).over(), ["Count", 'over("1d")']),
    "a window below a millisecond": (lambda: Count().over(timedelta(microseconds=9)), ["0.000009", "1ms"]),
    "a negative delay": (lambda: Count().over("1d", delay=timedelta(seconds=-1)), ["delay", "negative"]),
    "a lifetime without end": (lambda: Count().lifetime(), ["forget_after", "unbounded=True"]),
    "a lifetime of two ends": (lambda: Count().lifetime(forget_after="1d", unbounded=True), ["forget_after"]),
    "a lifetime without length": (lambda: Count().lifetime(forget_after="0d"), ["forget_after", "1ms"]),
    "an unknown period": (lambda: Count().since(cast("Any", "decade")), ["decade", "month"]),
    "an unknown time zone": (lambda: Count().since("day", tz="Mars"), ["Mars", "Europe/Zurich"]),
    "an unknown time zone of an input": (lambda: hour(Order.at, tz="Mars"), ["Mars", "Europe/Zurich"]),
    "a quantile above one": (lambda: Quantile(Order.total, 95), ["Quantile", "95", "0.95"]),
    "too many last values": (lambda: LastK(Order.total, 65), ["LastK", "65", "64"]),
    "no half-life": (lambda: DecayedCount("0s"), ["half_life", "1ms"]),
    "a ratio of tuples": (lambda: Ratio(Count(), TopK(Order.customer, 3)), ["Ratio", "TopK", "Count()"]),
    "a ratio of texts": (lambda: Ratio(Last(Order.customer), Count()), ["Ratio", "Last", "Count()"]),
    "a topic with a space": (lambda: Source("The Shop", Order, time=Order.at), ["The Shop", "lower-case"]),
    "a key that may be missing": (lambda: source(key=Order.coupon), ["Order.coupon", "without None"]),
    "an id that may be missing": (lambda: source(id=Order.coupon), ["Order.coupon", "without None"]),
    "an id that is a float": (lambda: source(id=Order.total), ["Order.total", "str"]),
    "a time that is a text": (lambda: source(time=Order.id), ["Order.id", "datetime"]),
    "a time of another class": (lambda: source(time=Refund.at), ["Refund.at", "Order"]),
    "no lateness": (lambda: source(lateness="0s"), ["lateness", "1ms"]),
    "an entity that may be missing": (lambda: Entity("x", by=Order.coupon), ["Order.coupon", "without None"]),
    "an entity of unequal keys": (
        lambda: Entity("pair", by=(Order.customer, Order.id, Refund.order)), ["pair", "as many columns"],
    ),
    "an entity that is not in the source": (
        of_view_of_an_entity_that_is_elsewhere, ["store", "shop.orders.v1", "Elsewhere", "Entity("],
    ),
    "a model without inputs": (lambda: vector(), ["no inputs", "inputs=[...]"]),
    "an input that no view provides": (lambda: vector(Refund.total), ["Refund.total", "Order", "view"]),
    "a view of an entity not in the request": (lambda: vector(Refunding), ["store", "Refunding", "Order"]),
    "a feature of no view": (lambda: vector(Count().over("1d")), ["Count()", "FeatureView"]),
    "an input that is nothing": (lambda: vector(3), ["3", "input"]),
    "an input that is a list": (lambda: vector(Order.seen_by), ["Order.seen_by", "function"]),
    "an input that is a time": (lambda: vector(Order.at), ["Order.at", "function"]),
    "two inputs with one name": (lambda: vector(Order.total, Order.total), ["'total'", "rename"]),
    "a view and one of its features": (lambda: vector(Spending, Spending.total_1d), ["total_1d", "drop"]),
    "a function of something mutable": (lambda: vector(above), ["above", "LIMITS", "constant"]),
    "a function of something unknown": (lambda: vector(lost), ["lost", "undefined_rate", "not defined"]),
    "a function of a number": (lambda: vector(strange), ["strange", "rate", "Order"]),
    "a function that returns a list": (lambda: vector(result_list), ["result_list", "float, int, bool"]),
    "a request without ids": (
        lambda: Vector(anonymous, [Order.total], []), ["shop.visits.v1", "id="],
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_refused_with_its_name_and_the_way_out(mistake: str) -> None:
    make, words = WRONG[mistake]
    with pytest.raises(DefinitionError) as refused:
        make()
    text = str(refused.value)
    assert [word for word in words if word not in text] == [], text
    assert "fix: " in text, text


def order(**changes: Any) -> bytes:
    given = {
        "id": "1",
        "customer": "c",
        "coupon": None,
        "total": 1.5,
        "at": "2026-01-01T00:00:00Z",
        **changes,
    }
    return msgspec.json.encode(given)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"at": "2026-01-01T00:00:00"}, "naive_time"),
        ({"at": "yesterday"}, "undecodable"),
        ({"total": None}, "undecodable"),
        ({"total": "1.5"}, "undecodable"),
        ({"customer": None}, "undecodable"),
    ],
)
def test_an_event_that_is_not_what_its_source_says_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(EventRefused) as refused:
        orders.decode(order(**changes))
    assert refused.value.reason == reason
    assert orders.decode(order()).at == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("value", [b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"id":"1"}', b'{"at":NaN}'])
def test_bytes_that_are_no_event_are_refused(value: bytes) -> None:
    with pytest.raises(EventRefused):
        orders.decode(value)


@pytest.mark.parametrize("at", [10**30, 2**63, -(10**30), 300_000_000_000_000])
def test_a_time_that_no_calendar_knows_is_refused(at: int) -> None:
    value = msgspec.json.encode({"id": "1", "order": "o", "shop": "s", "total": 1.0}).replace(
        b"}", b',"at":%d}' % at
    )
    with pytest.raises(EventRefused) as refused:
        refunds.decode(value)
    assert refused.value.reason == "time_out_of_range"


class Huge(msgspec.Struct, frozen=True):
    id: str
    key: str
    n: int
    x: float
    at: int


huge = Source("shop.huge.v1", Huge, id=Huge.id, time=Huge.at, key=Huge.key)


class Sizes(FeatureView, of=Entity("key", by=Huge.key), source=huge):
    n_1d = Sum(Huge.n).over("1d")
    x_1d = Mean(Huge.x).over("1d")


@pytest.mark.parametrize(
    ("n", "x"),
    [
        (2**53 + 1, 1.0),
        (-(2**53) - 1, 1.0),
        (10**400, 1.0),
        (1, 2.0**96),
        (1, float("nan")),
        (1, float("-inf")),
    ],
)
def test_a_number_that_cannot_be_kept_exactly_is_refused(n: int, x: float) -> None:
    (plan,) = plans_of([Sizes])
    with pytest.raises(EventRefused) as refused:
        plan.extract(Huge("1", "k", n, x, 0))
    assert refused.value.reason == "number_out_of_range"
    assert "Huge." in str(refused.value)


def test_the_largest_numbers_are_kept() -> None:
    (plan,) = plans_of([Sizes])
    assert sorted(plan.extract(Huge("1", "k", 2**53, 2.0**96 * (1 - 2**-53), 0))) == [
        2.0**53,
        2.0**96 - 2.0**43,
    ]
