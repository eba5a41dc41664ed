"""The write path alone: CPU time of an event from its bytes to its committed state, without Kafka.

Run as `python -m tests.bench.commits [--keys N] [--events N] [--step MS] [--poll N] [--cache N]`. Events of keys in
turn are folded into an empty Redis; the second half is measured, by the CPU clock of this process and of Redis. With
few keys and large steps (`--keys 40 --events 20000 --step 3000 --poll 40`) states are large, and commits patch them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from collections import defaultdict
from statistics import mean

import msgspec
import redis
from rich.console import Console

from features.clock import from_ms
from features.embedded import EmbeddedRedis
from features.group import FoldGroup
from features.redis import RedisStore
from features.store import NO_TOPIC, Position, Status
from tests.bench.activity import Payment, payments, project
from tests.bench.processes import cpu_seconds

_FIRST_MS = 1_790_000_000_000


def records(keys: int, n: int, step: int) -> list[tuple[bytes, bytes]]:
    """Returns key and value of n payments, `step` milliseconds apart."""
    made = []
    for k in range(n):
        card = f"card-{k * 7919 % keys}"
        payment = Payment(f"payment-{k}", card, k * 31 % 10_000 / 100, from_ms(_FIRST_MS + k * step))
        made.append((card.encode(), msgspec.json.encode(payment)))
    return made


async def measure(
    embedded: EmbeddedRedis, log: list[tuple[bytes, bytes]], poll: int, cache: int
) -> dict[str, float]:
    """Returns microseconds an event by step, and what Redis received and holds."""
    store = RedisStore(embedded.url)
    plans = project.plans_over(payments)
    codes = await store.codes([plan.fingerprint for plan in plans])
    group = (await store.groups(project.name, payments.topic, "bench", 1))[0]
    start = await store.claim(group, Position.start(NO_TOPIC)._replace(token=b"bench-of-commits"))
    fold = FoldGroup(group, payments, plans, codes, start, 1, cache)
    spent: dict[str, float] = defaultdict(float)
    clock = time.process_time
    half = len(log) // 2 // poll * poll
    assert embedded.pid is not None
    redis_before = received = 0.0
    with redis.Redis.from_url(embedded.url) as client:
        gc.collect()
        gc.disable()  # it costs what else the process holds
        for begun in range(0, len(log), poll):
            if begun == half:
                spent.clear()
                redis_before = cpu_seconds(embedded.pid)
                received = client.info("stats")["total_net_input_bytes"]
            marks = [clock()]
            taken = [fold.prepare(begun + k, *each) for k, each in enumerate(log[begun : begun + poll])]
            marks.append(clock())
            missing = fold.missing(taken)
            if missing:
                fold.load(missing, (await store.read({group: missing}))[group].values)
            marks.append(clock())
            spent["prepare"] += marks[1] - marks[0]
            spent["read"] += marks[2] - marks[1]
            mark = clock()
            for batch in fold.fold(taken, begun + len(taken)):
                spent["fold and encode"] += clock() - mark
                mark = clock()
                answer = await store.commit(group, batch.start, batch.end, batch.writes)
                assert answer.status is Status.APPLIED
                spent["commit"] += clock() - mark
                mark = clock()
        n = len(log) - half
        told = {name: 1e6 * seconds / n for name, seconds in spent.items()}
        told["own total"] = sum(told.values())
        told["Redis"] = 1e6 * (cpu_seconds(embedded.pid) - redis_before) / n
        told["bytes to Redis"] = (client.info("stats")["total_net_input_bytes"] - received) / n
        told["bytes a state"] = mean(client.strlen(key) for key in client.keys(f"{fold.prefixes[0]}*")[:1000])
    await store.close()
    return told


def main() -> None:
    """Measures once and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.commits", description=__doc__)
    parser.add_argument("--keys", type=int, default=50_000)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--step", type=int, default=100, help="milliseconds of event time between two events")
    parser.add_argument("--poll", type=int, default=500, help="records folded at a time")
    parser.add_argument("--cache", type=int, default=100_000, help="states kept decoded")
    given = parser.parse_args()
    log = records(given.keys, given.events, given.step)
    with EmbeddedRedis.start() as embedded:
        told = asyncio.run(measure(embedded, log, given.poll, given.cache))
    Console().print("\n".join(f"{name:16} {value:8.1f}" for name, value in told.items()))


if __name__ == "__main__":
    main()
