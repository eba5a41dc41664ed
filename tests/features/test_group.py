"""A fold group over a store: its states are a function of the prefix, and bad records are refused with their reason."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import pytest
from msgspec import Struct

from features import Count, Distinct, Entity, EventRefused, FeatureView, Last, Mean, Source, Sum
from features.clock import NEVER
from features.errors import StateCorrupt
from features.group import FoldGroup, Prepared
from features.memory import MemoryStore
from features.partition import partition_of
from features.plan import StatePlan, plans_of
from features.store import NO_TOPIC, Group, Position, Status

START = 1_767_225_600_000
HOUR, DAY = 3_600_000, 86_400_000


class Sale(Struct, frozen=True):
    id: str
    card: str
    shop: str
    amount: float
    at: int


class Visit(Struct, frozen=True):
    id: str
    card: str
    pages: int
    at: datetime


sales = Source("group.sales.v1", Sale, id=Sale.id, time=Sale.at, key=Sale.card, lateness="2h", max_bytes=300)
visits = Source("group.visits.v1", Visit, id=Visit.id, time=Visit.at, key=Visit.card)
card = Entity("card", by=(Sale.card, Visit.card))
shop = Entity("shop", by=Sale.shop)


class Spent(FeatureView, of=card, source=sales):
    count_1d = Count().over("1d")
    sum_3h = Sum(Sale.amount).over("3h")
    last_1d = Last(Sale.amount).over("1d")


class Sold(FeatureView, of=shop, source=sales):
    mean_1d = Mean(Sale.amount).over("1d")
    cards_1d = Distinct(Sale.card).over("1d")


class Large(FeatureView, of=card, source=sales, where=lambda sale: sale.amount > 50):
    count_1d = Count().over("1d")


class Visits(FeatureView, of=card, source=visits):
    pages_1d = Sum(Visit.pages).over("1d")


Raw = tuple[bytes | None, bytes | None]
CODES = {"sales": plans_of([Spent, Sold, Large]), "visits": plans_of([Visits])}


def raw(event: Sale) -> Raw:
    return event.card.encode(), msgspec.json.encode(event)


def sale(ident: str, t: int, key: str = "c1", amount: float = 5.0, place: str = "s1") -> Sale:
    return Sale(ident, key, place, amount, START + t)


class Log:
    """A log and the store that it is folded into."""

    def __init__(
        self, source: Source[Sale] | Source[Visit] = sales, plans: Sequence[StatePlan] = CODES["sales"]
    ) -> None:
        self.source, self.plans = source, plans
        self.store = MemoryStore()
        self.records: list[Raw] = []
        self.fold: FoldGroup

    async def open(self, cache: int = 100_000, partitions: int = 1, partition: int = 0) -> FoldGroup:
        """A new owner, which knows nothing but the store."""
        codes = await self.store.codes([plan.fingerprint for plan in self.plans])
        group = (await self.store.groups("p", self.source.topic, "d", partitions))[partition]
        token = random.Random(len(self.records)).randbytes(16)
        position = await self.store.claim(group, Position.start(NO_TOPIC)._replace(token=token))
        self.fold = FoldGroup(group, self.source, self.plans, codes, position, partitions, cache)
        return self.fold

    async def advance(self, count: int, stop: int | None = None) -> None:
        """Folds the next records and commits; `stop` ends the owner after so many commits."""
        fold, start = self.fold, self.fold.position.next
        records = [
            fold.prepare(start + k, *self.records[start + k])
            for k in range(min(count, len(self.records) - start))
        ]
        await self.load(records)
        for k, batch in enumerate(fold.fold(records, start + len(records))):
            if k == stop:
                return
            answer = await self.store.commit(fold.group, batch.start, batch.end, batch.writes)
            assert answer == (Status.APPLIED, batch.end)

    async def load(self, records: Sequence[Prepared]) -> None:
        missing = self.fold.missing(records)
        found = await self.store.read({self.fold.group: missing})
        self.fold.load(missing, found[self.fold.group].values)

    async def all(self, *records: Raw) -> FoldGroup:
        """Folds these records in one go."""
        self.records.extend(records)
        fold = await self.open()
        await self.advance(len(self.records))
        return fold

    def states(self) -> dict[str, bytes]:
        return {key: value for key, value in self.store.values.items() if "." in key}

    def position(self, group: Group) -> Position:
        return Position.unpack(self.store.values[f"{group.tag}@"])._replace(token=b"")


def history(chance: random.Random, count: int) -> list[Raw]:
    """Sales with late ones, repeats, conflicts, strays and records that are no sales."""
    records: list[Raw] = []
    t = 0
    for k in range(count):
        t += chance.randrange(0, 10 * 60_000)
        late = chance.choice([0, 0, 0, 0, chance.randrange(4 * HOUR)])
        made = sale(f"i{k}", t - late, f"c{chance.randrange(9)}", float(chance.randrange(100)), f"s{k % 4}")
        records.append(raw(made))
        if chance.random() < 0.1:
            records.append(chance.choice(records))
        if chance.random() < 0.05:
            records.append((made.card.encode(), b"{"))
        if chance.random() < 0.02:
            records.append(raw(sale(f"stray{k}", 90 * DAY, made.card)))
    return records


@pytest.mark.parametrize("seed", range(12))
async def test_batches_caches_and_restarts_leave_no_trace_in_any_byte(seed: int) -> None:
    chance = random.Random(seed)
    records = history(chance, 250)
    whole = Log()
    once = await whole.all(*records)
    wanted = whole.states(), whole.position(once.group)

    pieces = Log()
    pieces.records = records
    fold = await pieces.open(chance.choice([2, 100_000]))
    while fold.position.next < len(records):
        if chance.random() < 0.2:
            fold = await pieces.open(chance.choice([2, 100_000]))
        elif chance.random() < 0.1:  # it ends between two commits, or before the first
            await pieces.advance(chance.randrange(1, 40), stop=chance.randrange(2))
            fold = await pieces.open(chance.choice([2, 100_000]))
        else:
            await pieces.advance(chance.choice([1, 2, 7, 60]))

    assert (pieces.states(), pieces.position(fold.group)) == wanted


async def test_a_commit_carries_a_bounded_number_of_entities() -> None:
    log = Log()
    log.records = [raw(sale(f"i{k}", k, f"c{k}")) for k in range(900)]
    fold = await log.open()
    prepared = [fold.prepare(k, *record) for k, record in enumerate(log.records)]
    await log.load(prepared)
    batches = list(fold.fold(prepared, 900))

    assert max(len(batch.writes.sets) for batch in batches) <= 256 + len(log.plans)
    assert [batch.start.next for batch in batches] == [0, *(batch.end.next for batch in batches[:-1])]
    assert sum(len(batch.records) for batch in batches) == 900


async def test_the_clock_of_a_group_is_moved_by_two_that_agree_and_not_by_a_stray() -> None:
    log = Log()
    fold = await log.all(raw(sale("a", 0)))
    assert fold.position.clock == NEVER

    await log.all(raw(sale("b", HOUR)), raw(sale("stray", 900 * DAY, "c2")))
    assert log.fold.position.clock == START + HOUR

    await log.all(raw(sale("c", 2 * HOUR)))
    assert log.fold.position.clock == START + 2 * HOUR


async def test_a_stray_from_the_future_moves_the_newest_time_of_its_own_entity_alone() -> None:
    log = Log()
    await log.all(
        raw(sale("a", 0)), raw(sale("stray", 900 * DAY, "c2")), raw(sale("b", HOUR)), raw(sale("c", HOUR))
    )

    spent = log.plans[0]
    own, other = (log.fold.state(log.plans.index(spent), name) for name in ("c1", "c2"))
    assert own is not None
    assert other is not None
    assert (own.n, own.newest) == (3, START + HOUR)
    assert other.newest == START + 900 * DAY


async def test_an_event_that_no_window_of_any_entity_can_see_is_dropped_and_counted() -> None:
    log = Log()
    new = [raw(sale("a", 30 * DAY)), raw(sale("b", 30 * DAY + 1))]
    fold = await log.all(*new, raw(sale("old", 0, "c2")))

    assert fold.counts["expired"] > 0
    assert fold.state(0, "c2") is None
    assert [key for key in log.states() if key.endswith(".c2")] == []
    assert fold.position.next == 3


async def test_a_late_event_lands_in_its_place_or_is_counted() -> None:
    log = Log()
    new = raw(sale("a", DAY))
    fold = await log.all(new, raw(sale("late", DAY - HOUR)), raw(sale("later", DAY - 2 * HOUR)))

    state = fold.state(0, "c1")
    assert state is not None
    assert state.n == 2
    assert fold.counts["late"] == 2  # of the card and of the shop


async def test_the_same_event_again_changes_no_byte_and_other_content_is_a_conflict() -> None:
    log = Log()
    one = sale("a", 0)
    await log.all(raw(one))
    before = log.states()
    fold = await log.all(raw(one))

    assert log.states() == before
    assert fold.counts["duplicate"] == 2

    fold = await log.all(raw(msgspec.structs.replace(one, amount=7.0)))
    assert log.states() == before
    assert fold.counts["conflict"] == 2


BAD: list[tuple[str, Raw]] = [
    ("undecodable", (b"c1", b"{")),
    ("undecodable", (b"c1", b"\xff\xfe")),
    ("undecodable", (b"c1", b"")),
    ("undecodable", (b"c1", msgspec.json.encode({"id": "a", "card": "c1", "shop": "s1", "at": START}))),
    ("undecodable", (b"c1", b'{"id":"a","card":"c1","shop":"s1","amount":NaN,"at":1767225600000}')),
    ("undecodable", (b"c1", b'{"id":"a","card":"c1","shop":"s1","amount":1e999,"at":1767225600000}')),
    ("number_out_of_range", raw(sale("a", 0, amount=1e30))),
    ("time_out_of_range", raw(Sale("a", "c1", "s1", 1.0, 1 << 60))),
    ("too_large", raw(sale("a" * 400, 0))),
    ("no_key", (None, raw(sale("a", 0))[1])),
    ("no_value", (b"c1", None)),
]


@pytest.mark.parametrize(("reason", "bad"), BAD)
async def test_a_bad_record_is_refused_with_its_reason_and_the_others_go_on(reason: str, bad: Raw) -> None:
    good = [raw(sale("a", 0)), raw(sale("b", HOUR))]
    alone, mixed = Log(), Log()
    await alone.all(*good)
    fold = await mixed.all(good[0], bad, good[1])

    prepared = fold.prepare(1, *bad)
    assert prepared.refused is not None
    assert prepared.refused.reason == reason
    assert fold.counts[reason] == 1
    assert fold.position.next == 3
    assert fold.position.clock == alone.fold.position.clock
    assert mixed.states().keys() == alone.states().keys()
    state = fold.state(0, "c1")
    assert state is not None
    assert state.n == 2


async def test_an_event_on_the_partition_of_another_key_is_misplaced() -> None:
    log = Log()
    home = partition_of(b"c1", 4)
    for number in range(4):
        fold = await log.open(partitions=4, partition=number)
        refused = fold.prepare(0, *raw(sale("a", 0))).refused
        assert (refused is None) == (number == home)
        if refused is not None:
            assert refused.reason == "misplaced"
            assert f"belongs to partition {home}, not {number}" in refused.what
            assert 'partitioner="any"' in refused.fix


async def test_a_time_without_a_zone_is_refused() -> None:
    log = Log(visits, CODES["visits"])
    naive = msgspec.json.encode({"id": "v", "card": "c1", "pages": 3, "at": "2026-01-01T00:00:00"})
    good = msgspec.json.encode(Visit("w", "c1", 3, datetime(2026, 1, 1, tzinfo=UTC)))
    huge = msgspec.json.encode(Visit("x", "c1", 2**60, datetime(2026, 1, 1, tzinfo=UTC)))
    fold = await log.all((b"c1", naive), (b"c1", good), (b"c1", huge))

    assert dict(fold.counts) == {"naive_time": 1, "number_out_of_range": 1}
    assert len(log.states()) == 1
    with pytest.raises(EventRefused, match="no time zone"):
        visits.decode(naive)


async def test_a_state_that_was_changed_beyond_the_position_is_never_used() -> None:
    log = Log()
    fold = await log.all(raw(sale("a", 0)), raw(sale("b", HOUR)))
    key = f"{fold.group.tag}@"
    stored = Position.unpack(log.store.values[key])
    log.store.values[key] = stored._replace(next=1).pack()  # as from two backups of different times
    fold = await log.open()

    with pytest.raises(StateCorrupt, match="changed at 2, beyond position 1"):
        await log.load([fold.prepare(1, *raw(sale("b", HOUR)))])


async def test_offsets_without_records_move_the_position_alone() -> None:
    log = Log()
    await log.all(raw(sale("a", 0)))
    before = log.states()
    (batch,) = log.fold.fold([], 17)

    assert (batch.start.next, batch.end.next, batch.writes.sets) == (1, 17, {})
    assert await log.store.commit(log.fold.group, batch.start, batch.end, batch.writes) == (0, batch.end)
    assert log.states() == before
