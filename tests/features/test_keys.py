"""Tags of groups lie evenly over the slots of a cluster, and stay what they were."""

from __future__ import annotations

from collections import Counter

import pytest

from features import keys
from features.redis import RedisStore
from features.store import NO_TOPIC, Position
from tests.parts.cluster import Cluster

TAGS = [keys.tag(keys.spread(number)) for number in range(500)]


def test_tags_are_unique_and_no_older_one() -> None:
    older = {keys.tag(str(number)) for number in range(500)}

    assert len({*TAGS, *older}) == 1_000
    assert (keys.tag("7"), TAGS[:4]) == ("{g7}", ["{0zk}", "{1po}", "{2ac}", "{3ki}"])


@pytest.mark.parametrize("masters", [2, 3, 4, 5, 6, 8, 12, 16, 24])
def test_any_groups_in_a_row_lie_evenly(masters: int) -> None:
    """With four groups each no master has more than one above its share; with two each all have some."""
    owners = [keys.slot(tag.encode()) * masters // keys.SLOTS for tag in TAGS]
    for begin in range(len(TAGS) - 4 * masters):
        assert max(Counter(owners[begin : begin + 4 * masters]).values()) <= 5
        assert len(set(owners[begin : begin + 2 * masters])) == masters


@pytest.mark.parametrize(
    "key", [b"plain", b"{7qy}a.x", b"a{b}c{d}", b"{}x", b"{open", b"x}{y}", b"{{z}}", b""]
)
def test_slots_are_those_of_redis(key: bytes, redis_cluster: Cluster) -> None:
    assert keys.slot(key) == redis_cluster.nodes[0].say("CLUSTER", "KEYSLOT", key)


async def test_groups_of_an_older_deployment_keep_their_tags_and_new_ones_come_behind(redis_url: str) -> None:
    store = RedisStore(redis_url)
    for number in (0, 1, 5):  # others were removed by hand
        await store.tell(keys.GROUPS, f"shop/shop.sales.v1/{number}/p", b"%d" % number)
    await store.tell(keys.TOPICS, "shop/shop.sales.v1", b"6")

    groups = await store.groups("shop", "shop.sales.v1", "p", 6)

    assert [group.tag for group in groups] == ["{g0}", "{g1}", *TAGS[6:9], "{g5}"]
    assert await store.groups("shop", "shop.sales.v1", "p", 6) == groups
    (new,) = await store.groups("shop", "shop.views.v1", "p", 1)
    assert new.tag == TAGS[9]
    assert (await store.claim(groups[0], Position.start(NO_TOPIC))).next == 0
    await store.close()
