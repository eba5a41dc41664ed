"""Lookups: a compacted source says what a key stands for, and a tombstone that it stands for nothing."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import Count, DefinitionError, Entity, EventRefused, FeatureView, Last, Ratio, Source, Sum
from features.clock import NEVER
from features.fold import CAPACITY
from features.group import FoldGroup, Prepared
from features.layout import under
from features.lookup import tombstone_in
from features.memory import MemoryStore
from features.partition import partition_of
from features.plan import StatePlan, plans_of
from features.redis import RedisStore
from features.small import BLOCK
from features.source import Tombstone
from features.state import State, decode, encode
from features.store import NO_TOPIC, Group, Position, Status, Store

from . import oracle
from .oracle import Said
from .strategies import AMOUNTS, EveryWay

LATENESS, FORGET = 100, 250
START = 1_700_000_000_000


class Holder(msgspec.Struct, frozen=True):
    """What a card stands for."""

    card: str
    country: str | None
    limit: float | None
    level: int
    blocked: bool
    at: int


holders = Source(
    "lookup.holders.v1", Holder, time=Holder.at, key=Holder.card, lateness="100ms", compacted=True
)
card = Entity("card", by=Holder.card)


class Home(FeatureView, of=card, source=holders):
    country = Last(Holder.country).lifetime(unbounded=True)
    limit = Last(Holder.limit).lifetime(unbounded=True)
    level = Last(Holder.level).lifetime(unbounded=True)
    blocked = Last(Holder.blocked).lifetime(unbounded=True)


class Stay(FeatureView, of=card, source=holders):
    """Numbers alone, whose small states stay as their bytes."""

    limit = Last(Holder.limit).lifetime(forget_after="250ms")
    level = Last(Holder.level).lifetime(forget_after="250ms")


class Level(FeatureView, of=card, source=holders):
    """Numbers that hold until they are cleared, which are read from the bytes as well."""

    limit = Last(Holder.limit).lifetime(unbounded=True)
    level = Last(Holder.level).lifetime(unbounded=True)


NAMES = ("country", "limit", "level", "blocked")
(PLAN,) = plans_of([Home])
(SHORT,) = plans_of([Stay])
(PLAIN,) = plans_of([Level])
HOME, STAY, LEVEL = EveryWay(Home, PLAN), EveryWay(Stay, SHORT), EveryWay(Level, PLAIN)

Raw = tuple[bytes | None, bytes | None, int]


def record(key: str, said: Said) -> Raw:
    """A record of the log: key, value and timestamp, which only a tombstone is timed by."""
    if said.values is None:
        return key.encode(), None, said.t
    return key.encode(), msgspec.json.encode({"card": key, "at": said.t, **said.values}), 17


def random_values(r: random.Random) -> dict[str, Any]:
    return {
        "country": r.choice((None, "CH", "ä", "")),
        "limit": r.choice((None, *AMOUNTS)),
        "level": r.randrange(-2, 3),
        "blocked": r.random() < 0.5,
    }


def expected(records: Sequence[Said], t: int, names: Sequence[str] = NAMES, forget: int = 0) -> list[Any]:
    found = oracle.stands_for(records, LATENESS, t, forget)
    return [found.get(name) for name in names]


def check(records: Sequence[Said], state: State | None, short: State | None, t: int) -> None:
    """Compares both views with the oracle, bit by bit."""
    row = HOME.read([state], t, None)
    assert oracle.bits(row.values) == oracle.bits(expected(records, t))
    assert row.bounds == {} or (state is not None and state.n > 0)
    assert (row.newest == NEVER) == (not any(value is not None for value in row.values))
    stay = STAY.read([short], t, None)
    assert oracle.bits(stay.values) == oracle.bits(expected(records, t, NAMES[1:3], FORGET))


# -- one key


def folded(plan: StatePlan, key: str, records: Sequence[Said], r: random.Random) -> State:
    """The state after these records, through the group that decodes them, with a restart now and then."""
    group = FoldGroup(
        Group(holders.topic, 0, "{g0}"), holders, [plan], {plan.fingerprint: "a"}, Position.start(NO_TOPIC), 1
    )
    for said in records:
        prepared = group.prepare(said.offset, *record(key, said))
        assert prepared.refused is None
        group.missing([prepared])
        group.step(prepared, {})
        state = group.state(0, key)
        if r.random() < 0.2 and state is not None:
            group.drop(group.position)
            group.load([group.prefixes[0] + key], [encode(plan, state)])
    state = group.state(0, key)
    assert state is not None
    return state


@st.composite
def sayings(draw: st.DrawFn) -> list[Said]:
    """Up to 25 records of one key: few instants, so that values and tombstones share some; some are late."""
    span = draw(st.sampled_from((3, 30, 700)))
    values = st.fixed_dictionaries(
        {
            "country": st.sampled_from((None, "CH", "ä", "")),
            "limit": st.none() | st.sampled_from(AMOUNTS),
            "level": st.integers(-2, 2),
            "blocked": st.booleans(),
        }
    )
    drawn = draw(
        st.lists(
            st.tuples(st.integers(0, span), st.integers(0, 2 * LATENESS), st.none() | values),
            min_size=1,
            max_size=25,
        )
    )
    drawn.sort(key=lambda one: one[0] + one[1])
    return [Said(START + t, offset, said) for offset, (t, _, said) in enumerate(drawn)]


@given(records=sayings(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_numbers_are_looked_up_in_small_states_as_well(records: list[Said], data: st.DataObject) -> None:
    state = folded(PLAIN, "c", records, random.Random(data.draw(st.integers(0, 1 << 16))))
    for t in data.draw(
        st.lists(st.integers(state.newest - LATENESS + 1, state.newest + 5), min_size=1, max_size=5)
    ):
        row = LEVEL.read([state], t, None)
        assert oracle.bits(row.values) == oracle.bits(expected(records, t, NAMES[1:3]))
        assert (row.newest == NEVER) == (row.values == [None, None])


@given(records=sayings(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_lookup_gives_what_the_newest_record_says_and_nothing_after_a_tombstone(
    records: list[Said], data: st.DataObject
) -> None:
    r = random.Random(data.draw(st.integers(0, 1 << 16)))
    state, short = folded(PLAN, "c", records, r), folded(SHORT, "c", records, r)
    newest = state.newest
    for t in data.draw(
        st.lists(st.integers(newest - LATENESS + 1, newest + 2 * FORGET), min_size=1, max_size=5)
    ):
        check(records, state, short, t)


@given(seed=st.integers(0, 1 << 32), crowded=st.booleans())
@settings(max_examples=12, deadline=None)
def test_so_it_does_where_records_left_for_base_and_tiles(seed: int, crowded: bool) -> None:
    r = random.Random(seed)
    t, records = START, []
    for k in range(CAPACITY + r.randrange(1, 400)):
        t += r.choice((*[0] * 15, 1) if crowded else (0, 1, 20, 200))
        records.append(Said(t, k, random_values(r) if r.random() < 0.6 else None))
    # crowded: more within the lateness than are kept one by one, so the oldest of them are known to the base alone
    state, short = folded(PLAN, "c", records, r), folded(SHORT, "c", records, r)
    assert state.base
    assert bool(state.tiles) == crowded
    past = () if crowded else range(t - LATENESS + 1, t, 7)  # the oldest of these the base decides
    for at in (*past, t, t + 1, t + FORGET, t + FORGET + 1, t + 10_000):
        check(records, state, short, at)


@pytest.mark.parametrize("cleared", [True, False])
def test_a_tombstone_that_left_for_the_base_still_clears(cleared: bool) -> None:
    values = {"country": "CH", "limit": 1.0, "level": 1, "blocked": False}
    records = [Said(START + k, k, values) for k in range(BLOCK - 1)]
    records.append(Said(START + BLOCK, BLOCK - 1, None if cleared else values | {"limit": None}))
    records.append(Said(START + BLOCK + 2 * LATENESS, BLOCK, values))
    state = folded(PLAN, "c", records, random.Random(1))
    short = folded(SHORT, "c", records, random.Random(1))

    assert (len(state.blocks), state.n, bool(state.base)) == (1, 1, True)
    for t in (state.newest - LATENESS + 1, state.newest - 1, state.newest):
        check(records, state, short, t)


@given(records=sayings())
@settings(max_examples=100, deadline=None)
def test_a_compacted_log_gives_the_same_newest_values_where_each_key_comes_in_order(
    records: list[Said],
) -> None:
    r = random.Random(1)
    ordered = [
        Said(said.t, k, said.values) for k, said in enumerate(sorted(records, key=lambda said: said.t))
    ]
    whole = folded(PLAN, "c", ordered, r)
    last = ordered[-1]
    for _ in range(3):  # compaction may have come to any point, but the last record of a key it never takes
        left = [said for said in ordered if said is last or r.random() < 0.5]
        state = folded(PLAN, "c", left, r)
        for t in (last.t, last.t + 1, last.t + 10**9):
            assert oracle.bits(HOME.read([state], t, None)) == oracle.bits(HOME.read([whole], t, None))


def test_of_a_value_and_a_tombstone_in_one_millisecond_the_later_in_the_log_holds() -> None:
    value = {"country": "CH", "limit": 1.0, "level": 1, "blocked": False}
    cleared = folded(PLAN, "c", [Said(START, 0, value), Said(START, 1, None)], random.Random(1))
    written = folded(PLAN, "c", [Said(START, 0, None), Said(START, 1, value)], random.Random(1))

    assert HOME.read([cleared], START, None).values == [None] * 4
    assert HOME.read([written], START, None).values == ["CH", 1.0, 1, False]


def test_after_the_tombstone_an_entity_is_as_unknown_as_one_never_seen() -> None:
    value = {"country": "CH", "limit": 1.0, "level": 1, "blocked": False}
    state = folded(PLAN, "c", [Said(START, 0, value), Said(START + 5, 1, None)], random.Random(1))

    assert HOME.read([state], START + 5, None) == HOME.read([None], START + 5, None)
    assert HOME.read([state], START + 4, None).values == ["CH", 1.0, 1, False]


def test_what_is_deployed_goes_on_being_looked_up_without_the_file() -> None:
    (left,) = under((PLAN.spec,), holders, [])
    records = [
        Said(START + 60 * k, k, None if k % 3 == 0 else random_values(random.Random(k))) for k in range(90)
    ]

    assert encode(left, folded(left, "c", records, random.Random(1))) == encode(
        PLAN, folded(PLAN, "c", records, random.Random(2))
    )


# -- a log of many keys over a store


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    made: Store = (
        MemoryStore() if request.param == "memory" else RedisStore(request.getfixturevalue("redis_url"))
    )
    yield made
    await made.close()


class Log(NamedTuple):
    """Records of several keys, and what they say of each."""

    records: list[Raw]
    said: dict[str, list[Said]]


def log_of(r: random.Random, count: int) -> Log:
    t, made = START, Log([], {f"c{k}": [] for k in range(6)})
    for offset in range(count):
        t += r.choice((0, 1, 5, 40))
        key = r.choice(list(made.said))
        late = r.choice((0, 0, 0, r.randrange(LATENESS)))
        said = Said(t - late, offset, None if r.random() < 0.3 else random_values(r))
        made.said[key].append(said)
        made.records.append(record(key, said))
    return made


async def fold_all(
    store: Store, plan: StatePlan, records: Sequence[Raw], r: random.Random
) -> tuple[FoldGroup, dict[str, bytes]]:
    """Folds records in batches of any size, by owners that know nothing but the store."""
    codes = await store.codes([plan.fingerprint])
    (group,) = await store.groups("p", holders.topic, plan.fingerprint, 1)
    fold, start = None, 0
    while fold is None or start < len(records):
        if fold is None or r.random() < 0.3:
            claimed = await store.claim(group, Position.start(NO_TOPIC)._replace(token=r.randbytes(16)))
            fold = FoldGroup(group, holders, [plan], codes, claimed, 1, r.choice((2, 100)))
        batch = records[start : start + r.choice((1, 3, 50))]
        prepared: list[Prepared] = [fold.prepare(start + k, *one) for k, one in enumerate(batch)]
        missing = fold.missing(prepared)
        fold.load(missing, (await store.read({group: missing}))[group].values)
        start += len(batch)
        for part in fold.fold(prepared, start):
            answer = await store.commit(group, part.start, part.end, part.writes)
            assert answer.status is Status.APPLIED
    names = [fold.prefixes[0] + f"c{k}" for k in range(6)]
    values = (await store.read({group: names}))[group].values
    return fold, {f"c{k}": value for k, value in enumerate(values) if value is not None}


@pytest.mark.parametrize("seed", range(6))
async def test_batches_owners_and_stores_leave_no_trace(store: Store, seed: int) -> None:
    r = random.Random(seed)
    log = log_of(r, 300)
    _, states = await fold_all(store, PLAN, log.records, r)
    other = MemoryStore()
    _, whole = await fold_all(other, PLAN, log.records, random.Random(7))
    _, short = await fold_all(store, SHORT, log.records, r)

    assert states == whole
    assert len(states) == 6
    for key, data in states.items():
        state = decode(PLAN, data)
        brief = decode(SHORT, short[key])
        for t in (state.newest - LATENESS + 1, state.newest, state.newest + FORGET):
            check(log.said[key], state, brief, t)


# -- which records are taken


class Tenant(msgspec.Struct, frozen=True):
    tenant: int
    plan: str
    at: datetime


class Flag(msgspec.Struct, frozen=True):
    on: bool
    text: str
    at: int


tenants = Source("lookup.tenants.v1", Tenant, time=Tenant.at, key=Tenant.tenant, compacted=True)
anywhere = Source(
    "lookup.tenants.v1", Tenant, time=Tenant.at, key=Tenant.tenant, compacted=True, partitioner="any"
)
flags = Source("lookup.flags.v1", Flag, time=Flag.at, key=Flag.on, compacted=True)
T = datetime(2026, 1, 1, tzinfo=UTC)


class Plans(FeatureView, of=Entity("tenant", by=Tenant.tenant), source=tenants):
    plan = Last(Tenant.plan).lifetime(unbounded=True)


def group_of(
    source: Source[Any], view: type[FeatureView] | None = None, number: int = 0, of: int = 1
) -> FoldGroup:
    plans = plans_of([] if view is None else [view])
    codes = {plan.fingerprint: "a" for plan in plans}
    return FoldGroup(Group(source.topic, number, "{g0}"), source, plans, codes, Position.start(NO_TOPIC), of)


def reason(prepared: Prepared) -> str:
    return "" if prepared.refused is None else prepared.refused.reason


def test_the_key_of_a_tombstone_names_the_entity_that_values_name() -> None:
    fold = group_of(tenants, Plans)
    value = fold.prepare(0, b"-7", msgspec.json.encode(Tenant(-7, "gold", T)), 5)
    cleared = fold.prepare(1, b"-7", None, START)

    assert (reason(value), reason(cleared)) == ("", "")
    assert value.parts[0][1] == cleared.parts[0][1] == fold.prefixes[0] + "-7"
    assert cleared.t == START


@pytest.mark.parametrize(
    ("source", "key", "value", "timestamp", "why"),
    [
        (tenants, b"7", None, START, ""),
        (tenants, b"seven", None, START, "undecodable"),
        (tenants, b"007", None, START, "undecodable"),
        (tenants, b" 7", None, START, "undecodable"),
        (tenants, b"\xff", None, START, "undecodable"),
        (flags, b"True", None, START, ""),
        (flags, b"true", None, START, "undecodable"),
        (holders, b"\xff", None, START, "undecodable"),
        (holders, b"", None, START, ""),
        (tenants, None, None, START, "no_key"),
        (anywhere, None, None, START, "no_key"),
        (anywhere, None, msgspec.json.encode(Tenant(7, "x", T)), START, "no_key"),
        (tenants, b"7", None, -1, "time_out_of_range"),
        (tenants, b"7", None, 1 << 60, "time_out_of_range"),
        (tenants, b'"7"', msgspec.json.encode(Tenant(7, "x", T)), START, "other_key"),
        (anywhere, b"8", msgspec.json.encode(Tenant(7, "x", T)), START, "other_key"),
        (tenants, b"7", b"null", START, "undecodable"),
        (tenants, b"7", b"", START, "undecodable"),
    ],
)  # fmt: skip
def test_a_record_that_could_not_be_replaced_or_cleared_by_its_key_is_refused(
    source: Source[Any], key: bytes | None, value: bytes | None, timestamp: int, why: str
) -> None:
    assert reason(group_of(source).prepare(0, key, value, timestamp)) == why


def test_a_tombstone_on_the_partition_of_another_key_is_misplaced() -> None:
    home = partition_of(b"7", 4)
    for number in range(4):
        found = reason(group_of(tenants, number=number, of=4).prepare(0, b"7", None, START))
        assert found == ("" if number == home else "misplaced")
        assert reason(group_of(anywhere, number=number, of=4).prepare(0, b"7", None, START)) == ""


def test_values_and_tombstones_in_several_partitions_are_merged_by_time() -> None:
    class Spread(FeatureView, of=Entity("tenant", by=Tenant.tenant), source=anywhere):
        plan = Last(Tenant.plan).lifetime(unbounded=True)

    (plan,) = plans_of([Spread])
    assert plan.partial
    said = [(b"7", msgspec.json.encode(Tenant(7, "gold", T)), 0), (b"7", None, START + 10**12)]
    states = []
    for number, one in enumerate(said):
        fold = group_of(anywhere, Spread, number, 2)
        prepared = fold.prepare(0, *one)
        fold.missing([prepared])
        fold.step(prepared, {})
        states.append(fold.state(0, "7"))
    reader = EveryWay(Spread, plan)

    at = START + 10**12
    assert reader.read(states, at, None).values == reader.read(states[::-1], at, None).values == [None]
    assert reader.read(states, at - 1, None).values == ["gold"]


# -- what can be declared


def declared(source: Source[Any] = holders, of: Entity = card, **given: Any) -> type[FeatureView]:
    keywords = {name: given.pop(name) for name in ("where",) if name in given}
    return type("Held", (FeatureView,), given, of=of, source=source, **keywords)


def on_country(holder: Holder) -> bool:
    return holder.country == "CH"


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a sum": (lambda: declared(n=Sum(Holder.level).over("1d")), r"Held\.n asks for Sum over .*lookup\.holders"),
    "a count": (lambda: declared(n=Count().lifetime(unbounded=True)), r"Held\.n asks for Count"),
    "a ratio": (
        lambda: declared(n=Ratio(Last(Holder.level), Last(Holder.limit)).lifetime(unbounded=True)),
        r"Held\.n asks for Ratio",
    ),
    "a window": (lambda: declared(n=Last(Holder.level).over("30d")), r"Held\.n is 30d over"),
    "a calendar window": (lambda: declared(n=Last(Holder.level).since("day")), r"Held\.n is since day"),
    "a delay": (
        lambda: declared(n=Last(Holder.level).lifetime(unbounded=True, delay="1d")),
        r"Held\.n is lifetime, unbounded delayed 1d",
    ),
    "a filter": (
        lambda: declared(n=Last(Holder.level).lifetime(unbounded=True), where=on_country),
        "view Held filters",
    ),
    "another entity": (
        lambda: declared(
            of=Entity("country", by=Holder.level), n=Last(Holder.level).lifetime(unbounded=True)
        ),
        "view Held is of country, which is not the key",
    ),
    "no key": (
        lambda: Source("lookup.holders.v1", Holder, time=Holder.at, compacted=True),
        "the compacted source has no key",
    ),
    "an id": (
        lambda: Source(
            "lookup.holders.v1", Holder, time=Holder.at, key=Holder.card, id=Holder.card, compacted=True
        ),
        "the compacted source has an id",
    ),
    "revisions": (
        lambda: Source(
            "lookup.holders.v1", Holder, time=Holder.at, key=Holder.card, revises=True, compacted=True
        ),
        "the compacted source has revises=True",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_newest_record_alone_cannot_answer_is_refused_at_load(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(DefinitionError, match=message) as refused:
        make()
    assert refused.value.fix


def test_a_table_and_a_stream_of_the_same_columns_have_states_of_their_own() -> None:
    stream = Source("lookup.holders.v1", Holder, time=Holder.at, key=Holder.card, lateness="100ms")
    (plain,) = plans_of([declared(stream, country=Last(Holder.country).lifetime(unbounded=True))])
    (table,) = plans_of([declared(holders, country=Last(Holder.country).lifetime(unbounded=True))])

    assert plain.fingerprint != table.fingerprint


# -- rows without records


def test_a_row_that_gives_key_and_time_alone_is_a_tombstone() -> None:
    assert tombstone_in(tenants, {"tenant": 7, "at": "2026-01-01T00:00:00Z"}) == Tombstone(
        b"7", 1_767_225_600_000
    )
    assert tombstone_in(tenants, {"tenant": "7", "at": T, "plan": None, "more": 1}) == Tombstone(
        b"7", 1_767_225_600_000
    )
    assert tombstone_in(tenants, {"tenant": 7, "at": T, "plan": ""}) is None
    assert tombstone_in(tenants, {"tenant": 7}) is None
    with pytest.raises(EventRefused, match="no time zone"):
        tombstone_in(tenants, {"tenant": 7, "at": "2026-01-01T00:00:00"})
    with pytest.raises(EventRefused, match="int"):
        tombstone_in(tenants, {"tenant": "x", "at": T})
