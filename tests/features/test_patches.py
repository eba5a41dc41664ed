"""Large states are written by their changed ends; what stands in the store is the whole state all the same."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import pytest
import redis
from msgspec import Struct

from features import Count, Distinct, Entity, FeatureView, Last, Max, Mean, Source, Sum, TopK
from features.errors import StateCorrupt
from features.fold import fold
from features.group import BYTES, ENTITIES, FoldGroup
from features.memory import MemoryStore
from features.plan import StatePlan, plans_of
from features.redis import RedisStore
from features.state import TILED, State, changes, decode, encode, weight
from features.store import NO_TOPIC, Patch, Position, Status, Store

START = 1_767_225_600_000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


class Sale(Struct, frozen=True):
    id: str
    card: str
    shop: str
    note: str | None
    amount: float
    at: int


sales = Source("patched.sales.v1", Sale, id=Sale.id, time=Sale.at, key=Sale.card, lateness="2h", revises=True)
card = Entity("card", by=Sale.card)
shop = Entity("shop", by=Sale.shop)


class Spent(FeatureView, of=card, source=sales):
    count_1d = Count().over("1d")
    sum_1d = Sum(Sale.amount).over("1d")
    late_sum = Sum(Sale.amount).over("2h", delay="6h")
    shops_1d = Distinct(Sale.shop).over("1d")


class Sold(FeatureView, of=shop, source=sales):
    mean_1d = Mean(Sale.amount).over("1d")
    ever = Sum(Sale.amount).lifetime(unbounded=True)
    note = Last(Sale.note).over("1d")
    notes = TopK(Sale.note, 3).over("1d")


class Counted(FeatureView, of=card, source=sales):
    count_1d = Count().over("1d")
    sum_1d = Sum(Sale.amount).over("1d")
    max_1d = Max(Sale.amount).over("1d")


PLANS = plans_of([Spent, Sold])
CARD, SHOP = PLANS
(PLAIN,) = plans_of([Counted])  # without a base


def history(chance: random.Random, count: int, step: int) -> list[Sale]:
    """Sales of few cards and shops: late ones, repeats, revisions, bursts, and silences that empty the windows."""
    made: list[Sale] = []
    t = START
    for k in range(count):
        t += chance.randrange(2 * step)
        if chance.random() < 0.004:
            t += chance.choice([HOUR, 5 * HOUR, 30 * HOUR, 60 * HOUR])
        late = chance.choice([0] * 12 + [chance.randrange(10 * step), chance.randrange(3 * HOUR)])
        sale = Sale(
            f"i{k}",
            f"c{int(chance.random() ** 2 * 3)}",
            f"s{chance.randrange(2)}",
            chance.choice([None, "", "ä" * 3, f"note {k % 20}"]),
            float(chance.randrange(1000)) / 8,
            t - late,
        )
        made.append(sale)
        if chance.random() < 0.05:
            again = chance.choice(made[-200:])
            made.append(msgspec.structs.replace(again, amount=3.0) if chance.random() < 0.5 else again)
    return made


@dataclass
class Kept:
    """Either store, with a way to copy it and to put a copy back."""

    store: Store
    copy: Callable[[], dict[str, bytes]]
    put_back: Callable[[dict[str, bytes]], None]


@pytest.fixture(params=["memory", "redis"])
def kept(request: pytest.FixtureRequest) -> Iterator[Kept]:
    if request.param == "memory":
        memory = MemoryStore()

        def put_back(values: dict[str, bytes]) -> None:
            memory.values = dict(values)

        yield Kept(memory, lambda: dict(memory.values), put_back)
        return
    url = request.getfixturevalue("redis_url")
    with redis.Redis.from_url(url) as client:

        def copy() -> dict[str, bytes]:
            return {name.decode(): client.get(name) or b"" for name in client.keys("{*")}

        def replace(values: dict[str, bytes]) -> None:
            for name in client.keys("{*"):
                client.delete(name)
            client.mset(values)

        yield Kept(RedisStore(url), copy, replace)


@dataclass
class Owner:
    """Folds a log and commits at random places; loses its cache, its process and the store's newest state at times."""

    kept: Kept
    records: Sequence[tuple[bytes, bytes]]
    chance: random.Random
    written: Counter[str] = field(default_factory=Counter)

    async def open(self) -> FoldGroup:
        codes = await self.kept.store.codes([plan.fingerprint for plan in PLANS])
        group = (await self.kept.store.groups("p", sales.topic, "d", 1))[0]
        initial = Position.start(NO_TOPIC)._replace(token=self.chance.randbytes(16))
        position = await self.kept.store.claim(group, initial)
        return FoldGroup(group, sales, PLANS, codes, position, 1, self.chance.choice([2, 100_000]))

    async def run(self) -> FoldGroup:
        fold_group, copy = await self.open(), self.kept.copy()
        while fold_group.position.next < len(self.records):
            move = self.chance.random()
            if move < 0.02:
                fold_group = await self.open()
            elif move < 0.04:
                copy = self.kept.copy()
            elif move < 0.05:
                self.kept.put_back(copy)
            elif move < 0.07:
                fold_group.drop(fold_group.position)
            else:
                await self.advance(fold_group, self.chance.choice([1, 2, 5, 30]))
        return fold_group

    async def advance(self, fold_group: FoldGroup, count: int) -> None:
        store, start = self.kept.store, fold_group.position.next
        end = min(start + count, len(self.records))
        records = [fold_group.prepare(k, *self.records[k]) for k in range(start, end)]
        missing = fold_group.missing(records)
        found = (await store.read({fold_group.group: missing}))[fold_group.group]
        assert found.position is not None
        if found.position != fold_group.position:  # put back meanwhile
            fold_group.drop(found.position._replace(token=fold_group.position.token))
            await store.claim(fold_group.group, fold_group.position)
            return
        fold_group.load(missing, found.values)
        for batch in fold_group.fold(records, end):
            answer = await store.commit(fold_group.group, batch.start, batch.end, batch.writes)
            if answer.status is not Status.APPLIED:
                fold_group.drop(answer.position._replace(token=fold_group.position.token))
                await store.claim(fold_group.group, fold_group.position)
                return
            if self.chance.random() < 0.1:  # the reply was lost, and it was sent again
                again = await store.commit(fold_group.group, batch.start, batch.end, batch.writes)
                assert again == (Status.DUPLICATE, batch.end)
            self.written["whole"] += len(batch.writes.sets)
            self.written["patched"] += len(batch.writes.patches)


def folded(records: Sequence[tuple[bytes, bytes]], like: FoldGroup) -> dict[str, bytes]:
    """The states of a fold without store, commits or encodings but the last."""
    prefixes = {plan.fingerprint: prefix for plan, prefix in zip(PLANS, like.prefixes, strict=True)}
    codes = {name: prefix[len(like.group.tag) : -1] for name, prefix in prefixes.items()}
    whole = FoldGroup(like.group, sales, PLANS, codes, Position.start(NO_TOPIC), 1, 1 << 62)
    for k, record in enumerate(records):
        whole.step(whole.prepare(k, *record), {})
    return {prefixes[fingerprint] + entity: data for fingerprint, entity, data in whole.dump()}


@pytest.mark.parametrize("seed", range(6))
async def test_patched_states_have_the_bytes_of_whole_ones(kept: Kept, seed: int) -> None:
    chance = random.Random(seed)
    events = history(chance, 2500, chance.choice([MINUTE // 6, MINUTE, 3 * MINUTE]))
    owner = Owner(kept, [(e.card.encode(), msgspec.json.encode(e)) for e in events], chance)
    fold_group = await owner.run()

    stored = {name: value for name, value in kept.copy().items() if "." in name}
    assert stored == folded(owner.records, fold_group)
    assert owner.written["patched"] > 50
    assert owner.written["whole"] > 50
    await kept.store.close()


class Stored:
    """One state and the value of it in a store."""

    def __init__(self, plan: StatePlan) -> None:
        self.plan, self.state, self.value, self.offset = plan, State(), b"", 0

    def fold(self, t: int, ident: str = "", amount: float = 1.0, note: str = "note") -> bytes | Patch:
        sale = Sale(ident or str(self.offset), "c", "s", note, amount, t)
        fold(self.plan, self.state, t, sales.identify(sale, 0), self.plan.extract(sale), self.offset)
        self.offset += 1
        wanted = weight(self.plan, self.state)
        change = changes(self.plan, self.state)
        if isinstance(change, Patch):
            assert change.size == len(self.value)
            assert wanted >= len(change.head) + len(change.tail)
            self.value = change.onto(self.value)
        else:
            assert wanted >= len(change)
            self.value = change
        assert self.value == encode(self.plan, self.state)
        return change

    def filled(self, count: int) -> Stored:
        for k in range(count):
            self.fold(START + k * MINUTE)
        return self


@pytest.mark.parametrize("plan", PLANS, ids=["numbers", "texts"])
def test_an_append_to_a_large_state_is_a_small_write(plan: StatePlan) -> None:
    stored = Stored(plan).filled(400)
    sizes = []
    for k in range(400, 464):
        change = stored.fold(START + k * MINUTE)
        sizes.append(len(change.head) + len(change.tail) if isinstance(change, Patch) else len(change))

    assert len(stored.value) > 8000
    # a block that is closed is written once more, and once again where its ids go
    assert sum(sizes) / len(sizes) < len(stored.value) / 5


def test_a_small_state_is_written_whole() -> None:
    stored = Stored(CARD).filled(60)

    assert not isinstance(stored.fold(START + HOUR), Patch)


def test_an_event_in_an_old_block_rewrites_from_there() -> None:
    stored = Stored(CARD).filled(300)
    t = START + 299 * MINUTE
    near, far = stored.fold(t - 20 * MINUTE - 1), stored.fold(t - 100 * MINUTE - 1)

    assert isinstance(near, Patch)
    assert isinstance(far, Patch)
    assert far.at < near.at
    assert isinstance(stored.fold(t - 100 * MINUTE - 1, str(301), amount=7.0), Patch), "a revision too"


def test_what_leaves_the_front_is_a_whole_write() -> None:
    stored = Stored(CARD).filled(300)
    before = stored.state.blocks[0].t0
    t = START + 300 * MINUTE
    change = stored.fold(t)
    while stored.state.blocks[0].t0 == before:
        t += HOUR
        change = stored.fold(t)

    assert not isinstance(change, Patch)
    assert isinstance(stored.fold(t + MINUTE), Patch)


@pytest.mark.parametrize("plan", [CARD, PLAIN, SHOP], ids=["base", "plain", "texts"])
def test_a_state_of_which_one_block_is_left_grows_on(plan: StatePlan) -> None:
    stored = Stored(plan).filled(320)  # five full blocks
    t = START + 320 * MINUTE + DAY + 2 * HOUR
    stored.fold(t)
    assert len(stored.state.blocks) == 1

    kinds = Counter(type(stored.fold(t + k * MINUTE)) for k in range(1, 300))

    assert kinds[Patch] > 100


def test_a_state_that_grows_shorter_is_written_whole() -> None:
    """After a silence the ids go; the value would keep its old end."""
    stored = Stored(SHOP).filled(250)
    before = len(stored.value)
    change = stored.fold(START + 9 * HOUR)

    assert len(stored.value) < before
    assert not isinstance(change, Patch)


def test_a_hot_key_keeps_its_tiles_where_they_are() -> None:
    stored = Stored(CARD)
    kinds = Counter(type(stored.fold(START + k * MINUTE // 2)) for k in range(2000))

    assert stored.state.flags & TILED
    assert kinds[Patch] > kinds[bytes]


def late_ones(seed: int) -> list[int]:
    """Times of arrivals, many of them late, some almost too late."""
    chance = random.Random(seed)
    times, t = [], 0
    for _ in range(260):
        t += chance.choice([1, MINUTE, 2 * MINUTE, 2 * MINUTE, 20 * MINUTE])
        late = chance.choice([0, 0, chance.randrange(2 * HOUR), 2 * HOUR - 1 - chance.randrange(4 * MINUTE)])
        times.append(t - late)
    return times


# a block that is split where it has a silence; the floor comes to stand in that silence, and then so do late events
GAP = [MINUTE * k for k in (*range(32), *range(100, 132), 105, 160, 50, 51, 161)]


@pytest.mark.parametrize("times", [*map(late_ones, range(4)), GAP], ids=[*map(str, range(4)), "gap"])
def test_which_ids_are_kept_does_not_tell_when_a_state_was_encoded(times: list[int]) -> None:
    def fold_into(state: State, k: int) -> None:
        sale = Sale(str(k), "c", "s", None, 1.0, START + times[k])
        fold(CARD, state, sale.at, sales.identify(sale, k), CARD.extract(sale), k)

    restarted = State()
    for n in range(len(times)):
        restarted = decode(CARD, encode(CARD, restarted))
        fold_into(restarted, n)
        uninterrupted = State()
        for k in range(n + 1):
            fold_into(uninterrupted, k)
        assert encode(CARD, uninterrupted) == encode(CARD, restarted), n


async def test_a_value_of_another_size_is_read_again(kept: Kept) -> None:
    """Something else has written into the store: what is cached goes, and the store is believed."""
    chance = random.Random(1)
    events = [Sale(str(k), "c1", "s1", "n", 1.0, START + k * MINUTE) for k in range(401)]
    owner = Owner(kept, [(b"c1", msgspec.json.encode(e)) for e in events], chance)
    fold_group = await owner.open()
    await owner.advance(fold_group, 400)
    stored = kept.copy()
    name = fold_group.prefixes[0] + "c1"
    kept.put_back({**stored, name: stored[name] + b"\x00"})
    records = [fold_group.prepare(400, *owner.records[400])]
    assert fold_group.missing(records) == []
    (batch,) = fold_group.fold(records, 401)
    assert name in batch.writes.patches

    answer = await kept.store.commit(fold_group.group, batch.start, batch.end, batch.writes)

    assert answer == (Status.MISMATCH, batch.start)
    assert kept.copy() == {**stored, name: stored[name] + b"\x00"}, "nothing was written"
    fold_group.drop(answer.position)
    with pytest.raises(StateCorrupt):
        await owner.advance(fold_group, 1)
    await kept.store.close()


@pytest.mark.parametrize("texts", [False, True])
async def test_no_commit_is_larger_than_its_bound_and_one_record(texts: bool) -> None:
    chance = random.Random(3)
    store = MemoryStore()
    codes = await store.codes([plan.fingerprint for plan in PLANS])
    group = (await store.groups("p", sales.topic, "d", 1))[0]
    position = await store.claim(group, Position.start(NO_TOPIC)._replace(token=b"a" * 16))
    fold_group = FoldGroup(group, sales, PLANS, codes, position, 1)
    note = "ä" * 500 if texts else "n"
    commits, largest = [], 0
    t = START
    for begun in range(0, 12_000, 2000):
        events = []
        for k in range(begun, begun + 2000):
            t += 500
            key, place = f"c{chance.randrange(60)}", f"s{chance.randrange(20)}"
            events.append(Sale(str(k), key, place, note + str(k), 1.0, t - chance.choice([0, 0, 5 * MINUTE])))
        records = [
            fold_group.prepare(begun + k, e.card.encode(), msgspec.json.encode(e))
            for k, e in enumerate(events)
        ]
        missing = fold_group.missing(records)
        fold_group.load(missing, [None] * len(missing))
        for batch in fold_group.fold(records, begun + 2000):
            writes = batch.writes
            sizes = [len(key) + len(value) for key, value in writes.sets.items()]
            sizes += [len(key) + len(p.head) + len(p.tail) for key, p in writes.patches.items()]
            commits.append(sum(sizes))
            largest = max(largest, *sizes)
            assert len(sizes) <= ENTITIES + len(PLANS)
            assert (await store.commit(group, batch.start, batch.end, writes)).status is Status.APPLIED
    # one record adds its states as they are, and can turn patches of them into whole values
    assert max(commits) <= BYTES + len(PLANS) * largest
    assert max(commits) > BYTES / 2
