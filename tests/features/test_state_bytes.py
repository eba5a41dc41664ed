"""The bytes of a state: what they depend on, what shares them, and what is no state."""

from __future__ import annotations

import math
import random
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import Count, Distinct, FeatureView, Last, Max, Source, Sum
from features.column import Column
from features.errors import StateCorrupt
from features.fold import fold
from features.plan import StatePlan, plans_of
from features.read import Reader
from features.small import newest_of, stamp_of
from features.state import State, decode, encode
from features.store import Position

from . import oracle
from .strategies import History, Payment, bench, card, long_histories, random_payment, source_of, windows_for


@given(history=long_histories(130), data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_state_comes_back_from_its_bytes_with_its_header(history: History, data: st.DataObject) -> None:
    b = bench(data.draw(windows_for(history.span)), lateness=history.lateness)
    state = b.folded(history.arrivals)
    data_bytes = encode(b.plan, state)

    assert encode(b.plan, decode(b.plan, data_bytes)) == data_bytes
    assert stamp_of(data_bytes) == state.stamp
    assert newest_of(data_bytes) == state.newest


@given(history=long_histories(130), data=st.data())
@settings(max_examples=60, deadline=None)
def test_other_bytes_are_corrupt_and_nothing_worse(history: History, data: st.DataObject) -> None:
    b = bench([oracle.Sliding(history.span), oracle.Lifetime(0)], lateness=history.lateness)
    whole = encode(b.plan, b.folded(history.arrivals))
    cut = data.draw(st.integers(0, len(whole) - 1))
    for wrong in (whole[:cut], whole + b"\x00", whole[:cut] + whole[cut + 1 :]):
        with pytest.raises(StateCorrupt):
            decode(b.plan, wrong)


@given(history=long_histories(130), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_raises_nothing_but_corruption(history: History, data: st.DataObject) -> None:
    b = bench([oracle.Sliding(history.span), oracle.Lifetime(0)], lateness=history.lateness)
    whole = bytearray(encode(b.plan, b.folded(history.arrivals)))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        state = decode(b.plan, bytes(whole))
    except StateCorrupt:
        return
    assert isinstance(state, State)


def test_the_bytes_do_not_know_how_records_were_batched() -> None:
    b = bench([oracle.Sliding(500), oracle.Lifetime(0)], lateness=50)
    r = random.Random(9)
    arrivals = [random_payment(r, 3 * k - r.choice((0, 0, 30)), f"p{k}") for k in range(400)]
    found = set()
    for size in (1, 7, 64, 400):
        state = State()
        for begun in range(0, len(arrivals), size):
            for offset in range(begun, min(begun + size, len(arrivals))):
                b.fold(state, arrivals[offset], offset)
            state = b.restarted(state)
        found.add(encode(b.plan, state))

    assert len(found) == 1


def plan_of(*views: type[FeatureView]) -> StatePlan:
    (plan,) = plans_of(views)
    return plan


payments = source_of(1000)


class Counted(FeatureView, of=card, source=payments):
    n_1h = Count().over("1h")
    sum_1d = Sum(Payment.amount).over("1d")


class Renamed(FeatureView, of=card, source=payments):
    how_many = Count().over("1h")
    total = Sum(Payment.amount).over("1d")


class Longer(FeatureView, of=card, source=payments):
    n_1h = Count().over("2d")
    sum_1d = Sum(Payment.amount).over("1d")


def test_views_of_one_entity_and_source_share_a_state() -> None:
    assert len(plans_of([Counted, Renamed, Longer])) == 1
    assert plan_of(Counted, Renamed).fingerprint == plan_of(Counted).fingerprint


def test_the_fingerprint_of_a_state_knows_its_reach_and_not_its_names() -> None:
    assert plan_of(Renamed).fingerprint == plan_of(Counted).fingerprint
    assert plan_of(Longer).fingerprint != plan_of(Counted).fingerprint


class Delivery(msgspec.Struct, frozen=True):
    """Has a column of the name of another class's."""

    id: str
    amount: float
    note: str
    at: int


class Paired(msgspec.Struct, frozen=True):
    id: str
    payment: Payment
    delivery: Delivery
    at: int


class Pairs(Source[Paired]):
    """A source whose events hold those of two others."""

    def event_classes(self) -> tuple[type, ...]:
        return (Paired, Payment)

    def locate(self, column: Column) -> str | None:
        inner = {Payment: "payment.", Delivery: "delivery.", Paired: ""}.get(column.owner)
        return None if inner is None else inner + column.name


pairs = Pairs("shop.pairs.v1", Paired, id=Paired.id, time=Paired.at)


class Both(FeatureView, of=card, source=pairs):
    paid = Sum(Payment.amount).over("1d")
    delivered = Sum(Delivery.amount).over("1d")
    most_paid = Max(Payment.amount).lifetime(unbounded=True)
    most_delivered = Max(Delivery.amount).lifetime(unbounded=True)
    last_paid = Last(Payment.note).over("1d")
    last_delivered = Last(Delivery.note).over("1d")
    kinds_paid = Distinct(Payment.note).over("1d")
    kinds_delivered = Distinct(Delivery.note).over("1d")


@pytest.mark.parametrize("n", [3, 100, 1000])
def test_columns_of_two_classes_with_one_name_are_kept_apart(n: int) -> None:
    plan = plan_of(Both)
    state = State()
    for k in range(n):
        payment = msgspec.structs.replace(random_payment(random.Random(k), k, "p"), amount=1.0, note="p")
        event = Paired(f"{k}", payment, Delivery("d", 2.0, f"d{k % 2}", k), 90_000_000 * (k // 500) + k)
        fold(plan, state, event.at, pairs.identify(event, k), plan.extract(event), k)
        if k % 90 == 5:
            state = decode(plan, encode(plan, state))
    row: dict[str, Any] = dict(
        zip(
            [f.name for f in Both.features],
            Reader(Both, plan).read([state], state.newest, None).values,
            strict=True,
        )
    )
    inside = (n - 1) % 500 + 1

    assert row["paid"] == inside
    assert row["delivered"] == 2 * inside
    assert (row["most_paid"], row["most_delivered"]) == (1.0, 2.0)
    assert (row["last_paid"], row["last_delivered"]) == ("p", f"d{(n - 1) % 2}")
    assert (row["kinds_paid"], row["kinds_delivered"]) == (1, 2)


@pytest.mark.parametrize("wanted", [oracle.Wanted("DecayedSum", "amount", 50), oracle.Wanted("Sum", "units")])
@pytest.mark.parametrize("number", [math.inf, math.nan, 1e300])
def test_a_number_that_no_fold_keeps_is_corrupt_where_it_has_no_value(
    wanted: oracle.Wanted, number: float
) -> None:
    b = bench([oracle.Sliding(500)], lateness=10, wanted=(wanted, oracle.Wanted("Variance", wanted.column)))
    intact = encode(b.plan, b.folded([random_payment(random.Random(1), t, f"p{t}") for t in (0, 1)]))
    at = len(intact) - 4 * 2 - 8  # the last number, before two ids
    damaged = intact[:at] + struct.pack("<d", number) + intact[at + 8 :]
    reader = Reader(b.reader.view, b.plan)

    assert reader.read([intact], 5, None).values
    with pytest.raises(StateCorrupt, match=wanted.column):
        reader.read([damaged], 5, None)


def test_an_error_of_our_code_is_not_blamed_on_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench([oracle.Sliding(500)], lateness=10, wanted=(oracle.Wanted("Count"),))
    state = b.folded([random_payment(random.Random(1), 0, "p")])

    def broken(*given: object) -> None:
        raise TypeError("ours")

    reader = Reader(b.reader.view, b.plan)
    monkeypatch.setattr(reader._flat, "read", broken)
    with pytest.raises(TypeError, match="ours"):
        reader.read([state], 5, None)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_position_of_another_size_is_corrupt(size: int) -> None:
    with pytest.raises(StateCorrupt, match=str(size)):
        Position.unpack(bytes(size))


def test_a_stamp_is_the_same_whether_or_not_the_state_is_decoded() -> None:
    b = bench([oracle.Sliding(500)], lateness=10, wanted=(oracle.Wanted("Count"),))
    damaged = bytearray(encode(b.plan, b.folded([random_payment(random.Random(1), 0, "p")])))
    damaged[15] |= 0x80

    assert stamp_of(bytes(damaged)) == decode(b.plan, bytes(damaged)).stamp > 1 << 62
