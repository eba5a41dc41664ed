"""A commit is applied exactly once wherever its connection is cut: at every byte of the request and of the reply."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from features import keys
from features.errors import StoreUnavailable
from features.redis import RedisStore
from features.store import Group, Patch, Position, Status, Writes
from tests.chaos.proxy import Cut, CuttingProxy, Way
from tests.chaos.redis_files import address

TOPIC, TOKEN = b"t" * 16, b"w" * 16
SIZE = 96  # bytes of the state that is patched


@pytest.fixture
def proxy(redis_url: str) -> Iterator[CuttingProxy]:
    with CuttingProxy(*address(redis_url)) as made:
        yield made


class Books:
    """What the group must hold at an offset: every kind of write has a part that only the offset decides."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.state = keys.state_prefix(group.tag, "a")
        self.hash = keys.join(group.tag)

    def whole(self, at: int) -> bytes:
        return b"%d" % at * 200

    def long(self, at: int) -> bytes:
        return b"%08d" % at + b"." * (SIZE - 16) + b"%08d" % at

    def writes(self, at: int, end: int) -> Writes:
        """One value whole, one patched at both ends, one deleted, a field set and one removed."""
        sets = {f"{self.state}whole": self.whole(end)}
        patches = {}
        if at == 0:
            sets[f"{self.state}long"] = self.long(end)
        else:
            value = self.long(end)
            patches[f"{self.state}long"] = Patch(SIZE, value[:8], SIZE - 8, value[-8:])
        return Writes(
            {**sets, f"{self.state}{end}": b"here"},
            [f"{self.state}{at}"],
            self.hash,
            {b"f%d" % end: b"here", b"f%d" % at: None},
            patches,
        )

    async def agree(self, store: RedisStore) -> Position:
        """The position; everything is as it must be there."""
        stored = await store.get(keys.position(self.group.tag))
        assert stored is not None
        position = Position.unpack(stored)
        at = position.next
        names = [f"{self.state}{name}" for name in ("whole", "long", str(at), str(at - 1))]
        found = (await store.read({self.group: names}))[self.group].values
        assert found == [self.whole(at), self.long(at), b"here", None]
        assert await store.fields(self.hash) == [(b"f%d" % at, b"here")]
        return position


@pytest.mark.parametrize("way", ["request", "reply"])
async def test_a_commit_cut_at_any_byte_counts_once(redis_url: str, proxy: CuttingProxy, way: Way) -> None:
    store, direct = RedisStore(f"redis://127.0.0.1:{proxy.port}/0"), RedisStore(redis_url)
    (group,) = await store.groups("shop", "shop.sales.v1", "p", 1)
    books = Books(group)
    position = await store.claim(group, Position.start(TOPIC)._replace(token=TOKEN))
    # so many offsets that all of them have as many digits, and every commit as many bytes
    for at in (0, 99_999):
        end = position._replace(next=at + 1)
        jump = books.writes(at if at == 0 else 1, at + 1)
        assert (await store.commit(group, position, end, jump)).status is Status.APPLIED
        position = end
    position = await books.agree(direct)

    applied_before_the_cut, whole = 0, False
    for after in range(20_000):
        end = position._replace(next=position.next + 1)
        writes = books.writes(position.next, end.next)
        proxy.arm(Cut(way, after, b"EVALSHA"))
        try:
            first = (await store.commit(group, position, end, writes)).status
        except StoreUnavailable:
            first = None
        stands = await books.agree(direct)
        again = await store.commit(group, position, end, writes)

        assert proxy.cuts == after + 1
        assert stands in (position, end)
        assert again == (Status.DUPLICATE if stands == end else Status.APPLIED, end)
        assert await books.agree(direct) == end
        if way == "request":
            assert first is None  # its reply never came
            whole = stands == end
        else:
            assert stands == end
            whole = first is Status.APPLIED
        applied_before_the_cut += stands == end
        position = end
        if whole:
            break

    assert whole
    cuts = after + 1
    assert cuts > (1_500 if way == "request" else 60)
    assert applied_before_the_cut == (1 if way == "request" else cuts)
    await store.close()
    await direct.close()
