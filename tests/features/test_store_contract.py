"""What Headrace asks of a store: the one in memory gives it, and the one in Redis, on one server and on a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest

from features import keys
from features.errors import StoreError
from features.memory import MemoryStore
from features.redis import RedisStore
from features.store import NO_TOPIC, Adoption, Group, Patch, Position, Read, Status, Store, Writes

OURS, THEIRS = b"a" * 16, b"b" * 16
TOPIC, OTHER_TOPIC = b"t" * 16, b"u" * 16


@pytest.fixture(params=["memory", "redis", "cluster"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    made: Store
    if request.param == "memory":
        made = MemoryStore()
    elif request.param == "redis":
        made = RedisStore(request.getfixturevalue("redis_url"))
    else:
        made = RedisStore(request.getfixturevalue("redis_cluster").url)
    yield made
    await made.close()


def at(offset: int, token: bytes = OURS, topic: bytes = TOPIC) -> Position:
    return Position(topic, offset, offset * 10, offset * 10, 0, token)


async def begun(store: Store, offset: int = 10) -> Group:
    """A group of ours that stands at an offset, with one value."""
    group = (await store.groups("shop", "shop.sales.v1", "plans", 1))[0]
    await store.claim(group, at(0))
    answer = await store.commit(group, at(0), at(offset), Writes({state(group): b"first"}))
    assert answer.status is Status.APPLIED
    return group


def state(group: Group, entity: str = "e") -> str:
    return keys.state_prefix(group.tag, "a") + entity


async def values(store: Store, group: Group, *entities: str) -> list[bytes | None]:
    found = await store.read({group: [state(group, entity) for entity in entities]})
    return list(found[group].values)


# -- groups and codes


async def test_groups_keep_their_numbers(store: Store) -> None:
    sales = await store.groups("shop", "shop.sales.v1", "p1", 3)
    views = await store.groups("shop", "shop.views.v1", "p1", 2)

    assert await store.groups("shop", "shop.sales.v1", "p1", 3) == sales
    assert [group.name for group in sales] == ["shop.sales.v1/0", "shop.sales.v1/1", "shop.sales.v1/2"]
    assert [group.tag for group in (*sales, *views)] == ["{0zk}", "{1po}", "{2ac}", "{3ki}", "{4og}"]


async def test_other_plans_and_other_projects_have_groups_of_their_own(store: Store) -> None:
    mine = await store.groups("shop", "shop.sales.v1", "p1", 2)
    changed = await store.groups("shop", "shop.sales.v1", "p2", 2)
    theirs = await store.groups("bank", "shop.sales.v1", "p1", 2)

    assert len({group.tag for group in (*mine, *changed, *theirs)}) == 6


async def test_the_number_of_partitions_is_pinned(store: Store) -> None:
    await store.groups("shop", "shop.sales.v1", "p1", 2)

    with pytest.raises(StoreError, match="has 4 partitions, but its features were made with 2"):
        await store.groups("shop", "shop.sales.v1", "p2", 4)


async def test_codes_are_given_out_once(store: Store) -> None:
    first = await store.codes(["f1", "f2"])

    assert first == {"f1": "a", "f2": "b"}
    assert await store.codes(["f3", "f2", "f1"]) == {"f3": "c", "f2": "b", "f1": "a"}


# -- layouts


async def test_decisions_on_layouts_come_back_in_their_order(store: Store) -> None:
    made = [Adoption(f"n{k}", f"n{k // 3}", b'[{"reach": 3}]' if k % 3 == 0 else b"") for k in range(12)]
    assert await store.layouts("shop", "shop.sales.v1") == []
    for adoption in made:
        await store.adopt("shop", "shop.sales.v1", adoption)

    assert await store.layouts("shop", "shop.sales.v1") == made
    assert await store.layouts("bank", "shop.sales.v1") == []
    assert await store.layouts("shop", "shop.views.v1") == []


async def test_the_first_decision_stays(store: Store) -> None:
    await store.adopt("shop", "shop.sales.v1", Adoption("need", "one", b"1"))
    await store.adopt("shop", "shop.sales.v1", Adoption("need", "two", b"2"))

    assert await store.layouts("shop", "shop.sales.v1") == [Adoption("need", "one", b"1")]


async def test_of_processes_that_decide_at_once_all_learn_the_same(redis_url: str) -> None:
    clients = [RedisStore(redis_url) for _ in range(8)]

    async def decide(k: int, store: Store) -> list[Adoption]:
        for _ in range(k):  # so that some have read before others decide
            await store.layouts("shop", "shop.sales.v1")
        await store.adopt("shop", "shop.sales.v1", Adoption("need", f"layout{k}", b"[]"))
        return await store.layouts("shop", "shop.sales.v1")

    found = await asyncio.gather(*(decide(k, store) for k, store in enumerate(clients)))

    assert len(found[0]) == 1
    assert all(each == found[0] for each in found)
    for client in clients:
        await client.close()


# -- claiming


async def test_a_claim_of_a_new_group_stands_where_it_says(store: Store) -> None:
    group = (await store.groups("shop", "shop.sales.v1", "p", 1))[0]
    initial = Position.start(TOPIC, 7)._replace(token=OURS)

    assert await store.claim(group, initial) == initial


async def test_a_claim_keeps_the_position_and_changes_the_owner(store: Store) -> None:
    group = await begun(store)

    assert await store.claim(group, at(0, THEIRS)) == at(10, THEIRS)
    assert (await store.read({group: []}))[group] == Read(at(10, THEIRS), [])


async def test_a_topic_made_again_under_its_name_is_refused_and_nothing_is_taken(store: Store) -> None:
    group = await begun(store)

    with pytest.raises(StoreError, match="not the one that the features"):
        await store.claim(group, at(0, THEIRS, OTHER_TOPIC))
    assert (await store.commit(group, at(10), at(20), Writes())).status is Status.APPLIED


async def test_readers_of_one_partition_have_positions_of_their_own(store: Store) -> None:
    group = await begun(store)

    assert await store.claim(group, at(0), "score") == at(0)
    assert (await store.commit(group, at(0), at(4), Writes(), "score")).position == at(4)
    assert await store.claim(group, at(0)) == at(10)


# -- committing


async def test_a_commit_moves_the_position_with_its_writes(store: Store) -> None:
    group = await begun(store)
    await store.commit(group, at(10), at(12), Writes({state(group, "gone"): b"x"}))

    writes = Writes({state(group): b"new", state(group, "f"): b""}, [state(group, "gone")])
    answer = await store.commit(group, at(12), at(20), writes)

    assert answer == (Status.APPLIED, at(20))
    found = await store.read({group: [state(group, e) for e in ("e", "f", "gone", "never")]})
    assert found == {group: Read(at(20), [b"new", b"", None, None])}


Judged = tuple[Position, Position, Status]


@pytest.mark.parametrize(
    ("start", "end", "status"),
    [
        pytest.param(at(10), at(20), Status.APPLIED, id="the next batch"),
        pytest.param(at(10), at(10), Status.DUPLICATE, id="an empty batch"),
        pytest.param(at(0), at(10), Status.DUPLICATE, id="the repeat of a lost reply"),
        pytest.param(at(4), at(10), Status.DUPLICATE, id="the same end from another start"),
        pytest.param(at(0, THEIRS), at(10, THEIRS), Status.DUPLICATE, id="the repeat by another owner"),
        pytest.param(at(10, THEIRS), at(20, THEIRS), Status.FENCED, id="a zombie at the right place"),
        pytest.param(at(4, THEIRS), at(20, THEIRS), Status.FENCED, id="a zombie elsewhere"),
        pytest.param(at(4), at(20), Status.MISMATCH, id="a store that is ahead"),
        pytest.param(at(20), at(30), Status.MISMATCH, id="a store that was rewound"),
        pytest.param(at(0), at(4), Status.MISMATCH, id="an older batch"),
        pytest.param(
            at(10, OURS, OTHER_TOPIC), at(20, OURS, OTHER_TOPIC), Status.MISMATCH, id="another topic"
        ),
        pytest.param(
            at(0, OURS, OTHER_TOPIC), at(10, OURS, OTHER_TOPIC), Status.MISMATCH, id="another topic, same end"
        ),
        pytest.param(
            at(10, THEIRS, OTHER_TOPIC),
            at(20, THEIRS, OTHER_TOPIC),
            Status.MISMATCH,
            id="another topic, zombie",
        ),
    ],
)
async def test_a_commit_is_applied_only_where_it_joins_on(
    store: Store, start: Position, end: Position, status: Status
) -> None:
    group = await begun(store)
    writes = Writes({state(group): b"second"}, [], keys.join(group.tag), {b"f": b"1"})

    answer = await store.commit(group, start, end, writes)

    applied = status is Status.APPLIED
    assert answer == (status, end if applied else at(10))
    assert (await store.read({group: [state(group)]}))[group] == Read(
        end if applied else at(10), [b"second" if applied else b"first"]
    )
    assert await store.fields(keys.join(group.tag)) == ([(b"f", b"1")] if applied else [])


async def test_offsets_are_compared_whole(store: Store) -> None:
    group = (await store.groups("shop", "shop.sales.v1", "p", 1))[0]
    large = 3_000_000_000_000
    await store.claim(group, at(large))

    assert (await store.commit(group, at(large + 2**32), at(5), Writes())).status is Status.MISMATCH
    assert (await store.commit(group, at(large), at(large + 1), Writes())).status is Status.APPLIED


async def test_a_group_that_nobody_claimed_takes_nothing(store: Store) -> None:
    group = (await store.groups("shop", "shop.sales.v1", "p", 1))[0]

    answer = await store.commit(group, at(0), at(10), Writes({state(group): b"x"}))

    assert answer == (Status.MISMATCH, Position.start(TOPIC))
    assert (await store.read({group: [state(group)]}))[group] == Read(None, [None])


async def test_a_hash_is_written_with_the_position(store: Store) -> None:
    group = await begun(store)
    name = keys.join(group.tag)
    await store.commit(group, at(10), at(11), Writes({}, [], name, {b"a": b"1", b"b": b"2", b"c": b"3"}))
    await store.commit(group, at(11), at(12), Writes({}, [], name, {b"a": None, b"b": b"4", b"never": None}))

    assert sorted(await store.fields(name)) == [(b"b", b"4"), (b"c", b"3")]


async def test_a_large_commit_is_one(store: Store) -> None:
    group = await begun(store)
    name = keys.join(group.tag)
    many = {b"%d" % k: b"v" for k in range(2_600)}
    states = {state(group, str(k)): b"s" for k in range(1_300)}
    await store.commit(group, at(10), at(11), Writes(states, [], name, dict(many)))

    kept = {field: (b"w" if k % 2 else None) for k, field in enumerate(many)}
    answer = await store.commit(group, at(11), at(12), Writes({}, list(states)[:900], name, dict(kept)))

    assert answer.status is Status.APPLIED
    assert dict(await store.fields(name)) == {field: b"w" for field, value in kept.items() if value}
    found = (await store.read({group: list(states)}))[group].values
    assert found == [None] * 900 + [b"s"] * 400


async def test_a_value_of_another_kind_is_found_before_the_first_write(store: Store) -> None:
    group = await begun(store)
    taken = state(group)  # a string, where the hash should be

    with pytest.raises(StoreError):
        await store.commit(group, at(10), at(20), Writes({state(group, "f"): b"x"}, [], taken, {b"f": b"1"}))

    assert await values(store, group, "e", "f") == [b"first", None]
    assert (await store.commit(group, at(10), at(20), Writes())).status is Status.APPLIED


async def test_a_patch_replaces_both_ends_of_a_value_and_lets_it_grow(store: Store) -> None:
    group = await begun(store)  # "first"
    patches = {state(group): Patch(5, b"FI", 3, b"STLY")}

    answer = await store.commit(
        group, at(10), at(20), Writes({state(group, "f"): b"new"}, [state(group, "gone")], patches=patches)
    )

    assert answer == (Status.APPLIED, at(20))
    assert await values(store, group, "e", "f") == [b"FIrSTLY", b"new"]


async def test_a_patch_comes_with_all_the_rest(store: Store) -> None:
    group = await begun(store)
    names = [state(group, f"p{k}") for k in range(700)]
    gone = [state(group, f"d{k}") for k in range(3)]
    await store.commit(group, at(10), at(11), Writes(dict.fromkeys([*names, *gone], b"0123456789")))

    patches = {name: Patch(10, b"%03d" % k, 9, b"x" * (k % 5 + 1)) for k, name in enumerate(names)}
    sets = {state(group, f"s{k}"): b"s" for k in range(600)}
    writes = Writes(sets, gone, keys.join(group.tag), {b"f": b"1", b"never": None}, patches)
    assert (await store.commit(group, at(11), at(12), writes)).status is Status.APPLIED

    found = (await store.read({group: [*names, *sets, *gone]}))[group].values
    patched = [b"%03d345678" % k + b"x" * (k % 5 + 1) for k in range(700)]
    assert found == [*patched, *[b"s"] * 600, None, None, None]
    assert await store.fields(keys.join(group.tag)) == [(b"f", b"1")]


@pytest.mark.parametrize("size", [0, 4, 6])
async def test_a_patch_of_a_value_of_another_size_is_a_mismatch_and_nothing_is_written(
    store: Store, size: int
) -> None:
    group = await begun(store)
    await store.commit(group, at(10), at(11), Writes({state(group, "g"): b"fitting"}))
    patches = {state(group, "g"): Patch(7, b"F", 6, b"G"), state(group): Patch(size, b"F", 4, b"TT")}
    writes = Writes(
        {state(group, "f"): b"x"}, [state(group, "g")], keys.join(group.tag), {b"f": b"1"}, patches
    )

    answer = await store.commit(group, at(11), at(20), writes)

    assert answer == (Status.MISMATCH, at(11))
    assert await values(store, group, "e", "f", "g") == [b"first", None, b"fitting"]
    assert await store.fields(keys.join(group.tag)) == []


async def test_a_patch_of_a_value_that_is_gone_is_a_mismatch(store: Store) -> None:
    group = await begun(store)
    writes = Writes(patches={state(group, "never"): Patch(5, b"F", 3, b"ST")})

    assert await store.commit(group, at(10), at(20), writes) == (Status.MISMATCH, at(10))
    assert await values(store, group, "never") == [None]


async def test_a_patch_of_a_value_of_another_kind_is_refused_before_the_first_write(store: Store) -> None:
    group = await begun(store)
    await store.tell(state(group, "h"), "field", b"value")
    writes = Writes({state(group): b"x"}, patches={state(group, "h"): Patch(5, b"F", 3, b"ST")})

    with pytest.raises(StoreError):
        await store.commit(group, at(10), at(20), writes)

    assert await values(store, group, "e") == [b"first"]
    assert (await store.commit(group, at(10), at(20), Writes())).status is Status.APPLIED


async def test_the_repeat_of_a_patch_is_a_duplicate(store: Store) -> None:
    group = await begun(store)
    writes = Writes(patches={state(group): Patch(5, b"F", 4, b"TS")})

    assert (await store.commit(group, at(10), at(20), writes)).status is Status.APPLIED
    assert await store.commit(group, at(10), at(20), writes) == (Status.DUPLICATE, at(20))
    assert await values(store, group, "e") == [b"FirsTS"]


# -- reading


async def test_a_read_gives_every_group_its_own_position(store: Store) -> None:
    one, two = await store.groups("shop", "shop.sales.v1", "p", 2)
    await store.claim(one, at(3))
    await store.commit(one, at(3), at(5), Writes({state(one): b"x"}))

    found = await store.read({two: [state(two)], one: [state(one, "f"), state(one)]})

    assert found == {two: Read(None, [None]), one: Read(at(5), [None, b"x"])}


async def test_a_scan_finds_every_key_of_a_group_and_no_other(store: Store) -> None:
    one, two = await store.groups("shop", "shop.sales.v1", "p", 2)
    await store.claim(one, at(0))
    await store.claim(two, at(0))
    names = {state(one, f"e*{k}") for k in range(1_200)}
    await store.commit(one, at(0), at(1), Writes(dict.fromkeys(names, b"x")))

    found: set[str] = set()
    cursor = -1
    while cursor != 0:
        cursor, some = await store.scan(one.tag, max(cursor, 0))
        found |= set(some)

    assert found == {*names, keys.position(one.tag)}


async def test_heads_are_the_first_bytes(store: Store) -> None:
    group = await begun(store)

    assert await store.heads([state(group), state(group, "none")], 3) == [b"fir", None]
    assert await store.get(state(group)) == b"first"
    assert await store.get(state(group, "none")) is None


async def test_a_status_is_told_and_told_again(store: Store) -> None:
    for value in (b"starting", b"working"):
        await store.tell(keys.STATUS, "worker-1", value)

    assert await store.fields(keys.STATUS) == [(b"worker-1", b"working")]


async def test_what_is_noted_is_read_beside_the_position(store: Store) -> None:
    group = await begun(store)
    for value in (b"old", b"new"):
        await store.note({keys.mark(group.tag): value, "elsewhere": b"x"})

    assert await store.read({group: [keys.mark(group.tag)]}) == {group: Read(at(10), [b"new"])}
    assert await store.get("elsewhere") == b"x"


async def test_positions_keep_every_field_of_theirs(store: Store) -> None:
    group = (await store.groups("shop", "shop.sales.v1", "p", 1))[0]
    numbers = count(1)
    position = Position(
        NO_TOPIC, next(numbers), -next(numbers), next(numbers), -next(numbers), bytes(range(16))
    )

    assert await store.claim(group, position) == position
