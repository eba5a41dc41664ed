"""Workers that are killed, or sleep while another takes over, leave no trace in any vector, sample or version."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from tests.parts.broker import Broker
from tests.streams.audit import audit, clean, fold_of_samples, kinds, model_digest, samples
from tests.streams.rig import Rig, rig
from tests.streams.shop import HOUR, MINUTE, build, business, sent
from tests.streams.test_end_to_end import builder, seen_versions

KILLS = 6


async def final_digest(shop: Rig) -> str:
    """The digest of the version that is served at the end; it is the fold of the samples."""
    seen: dict[int, str] = {}
    await seen_versions(shop, seen)
    ((version, served),) = seen.items()
    learner = fold_of_samples(shop.log, shop.model)
    assert (learner.version, model_digest(learner)) == (version, served)
    return served


async def test_a_worker_killed_again_and_again_makes_what_an_undisturbed_one_makes(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    count = 20_000
    # few enough a shop that all its states are exact: tiles depend on how far the fold is ahead
    events = business(count, seed=6, step=MINUTE, delay=26 * HOUR, judged=0.6, cards=200, shops=60)
    digests, vectors, released = [], [], []
    for k, kills in enumerate((0, KILLS)):
        prefix = f"{topic_prefix}{'ck'[k]}"
        project = build(prefix, absent=False)
        partitions = {f"{prefix}.payments.v1": 4, f"{prefix}.verdicts.v1": 1}
        text = builder(prefix, absent=False)
        async with rig(project, text, tmp_path, kafka, redis_url, partitions) as shop:
            await shop.produce(sent(project, *events.payments, *events.verdicts))
            total = count + len(events.verdicts)
            for kill in range(kills):
                worker = shop.start()

                async def advanced(least: int = total * (kill + 1) // (kills + 2)) -> bool:
                    return await shop.folded() >= least

                await shop.until(advanced, worker)
                worker.kill()
                assert not await shop.done()
            worker = shop.start()
            await shop.finish(worker)

            taken = samples(shop.log, shop.model)
            assert len({s.id for s in taken}) == len(taken)
            assert {s.id for s in taken if s.kind == "label"} == {v.payment for v in events.verdicts}
            digests.append(await final_digest(shop))
            released.append([(s.id, s.kind, s.label, s.label_t) for s in taken])
            if kills:
                assert clean(audit(shop.deployment, shop.model, shop.log), count)
            vectors.append({s.id: s.vector for s in taken})
            assert kinds(taken)["absent"] > count / 4
    assert released[0] == released[1]
    assert vectors[0] == vectors[1]
    assert digests[0] == digests[1]


async def test_a_worker_that_slept_while_another_took_over_writes_nothing(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    count = 6_000
    events = business(count, seed=7, step=MINUTE)
    project = build(topic_prefix)
    trace = tmp_path / "sleeper.trace"
    async with rig(project, builder(topic_prefix), tmp_path, kafka, redis_url) as shop:
        await shop.produce(sent(project, *events.payments, *events.verdicts))
        sleeper = shop.start(trace=trace)

        async def begun() -> bool:
            return await shop.folded() > count / 8

        await shop.until(begun, sleeper)
        sleeper.send(signal.SIGSTOP)
        owned = {key: position.token for key, position in (await shop.positions()).items()}
        heir = shop.start()

        async def taken_over() -> bool:
            now = await shop.positions()
            return all(now[key].token != token for key, token in owned.items())

        await shop.until(taken_over, heir)
        woken = time.monotonic()
        sleeper.send(signal.SIGCONT)
        await shop.finish(sleeper, heir)

        answers = [json.loads(line) for line in trace.read_text().splitlines()]
        until = next((asked for asked, *_, what in answers if asked > woken and what == "CLAIMED"), 1e18)
        asleep = [answer for answer in answers if woken < answer[0] < until]
        assert [answer for answer in asleep if answer[3] == "APPLIED"] == []
        assert clean(audit(shop.deployment, shop.model, shop.log), count)
        taken = samples(shop.log, shop.model)
        assert len(taken) == count
        assert {s.id for s in taken} == {p.id for p in events.payments}
        await final_digest(shop)
