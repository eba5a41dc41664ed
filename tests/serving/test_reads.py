from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from features.errors import StoreUnavailable
from features.memory import MemoryStore
from features.store import Group, Read
from serving.reads import Reads

A, B = Group("a", 0, "{g0}"), Group("b", 0, "{g1}")


class Gated(MemoryStore):
    """A store whose reads wait until they are let through."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Semaphore(0)
        self.wanted: list[Mapping[Group, Sequence[str]]] = []
        self.away = False

    async def read(self, wanted: Mapping[Group, Sequence[str]]) -> dict[Group, Read]:
        self.wanted.append(wanted)
        await self.gate.acquire()
        if self.away:
            raise StoreUnavailable("away")
        return await super().read(wanted)


async def waiting(
    reads: Reads, *wanted: Mapping[Group, Sequence[str]]
) -> list[asyncio.Task[dict[Group, Read]]]:
    tasks = [asyncio.create_task(reads.read(one)) for one in wanted]
    await asyncio.sleep(0)
    return tasks


async def test_those_that_come_meanwhile_share_the_next_trip_and_get_their_own() -> None:
    store, seconds = Gated(), list[float]()
    store.values = {"x": b"1", "y": b"2", "z": b"3"}
    reads = Reads(store, 1, seconds.append)
    first = await waiting(reads, {A: ["x"]})
    rest = await waiting(reads, {A: ["x", "y"]}, {B: ["z"]}, {A: ["y"], B: ["none"]})
    store.gate.release()
    await first[0]
    await asyncio.sleep(0)
    assert store.wanted == [{A: ["x"]}, {A: ["x", "y"], B: ["z", "none"]}]
    store.gate.release()
    found = await asyncio.gather(*rest)
    assert [{group.topic: read.values for group, read in one.items()} for one in found] == [
        {"a": [b"1", b"2"]},
        {"b": [b"3"]},
        {"a": [b"2"], "b": [None]},
    ]
    assert len(seconds) == 2


async def test_a_failed_trip_fails_for_all_who_shared_it_and_the_next_is_made() -> None:
    store = Gated()
    reads = Reads(store, 1, lambda _: None)
    first = await waiting(reads, {A: ["x"]})
    rest = await waiting(reads, {A: ["x"]}, {B: ["x"]})
    store.away = True
    store.gate.release()
    store.gate.release()
    for task in first + rest:
        with pytest.raises(StoreUnavailable):
            await task
    store.away = False
    store.gate.release()
    assert (await reads.read({A: ["x"]}))[A].values == [None]


async def test_one_who_leaves_takes_nobody_along() -> None:
    store = Gated()
    reads = Reads(store, 1, lambda _: None)
    first = await waiting(reads, {A: ["x"]})
    second, third = await waiting(reads, {A: ["x"]}, {A: ["y"]})
    first[0].cancel()
    second.cancel()
    store.gate.release()
    assert (await third)[A].values == [None]
    assert second.cancelled()
