from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgspec
import pytest

from features.partition import partition_of
from models.records import PredictionRecord, decode_record
from models.scorer import Request, decode_reads
from tests.serving import shop
from tests.serving.parts import NOW, Served, fold, payment, payments, publish_learned, serve
from tests.serving.trips import counted


def bits(value: Any) -> Any:
    """A value as it is told from all others, 1 from 1.0 and 0.0 from -0.0 included."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, dict):
        return {key: bits(part) for key, part in value.items()}
    return [bits(part) for part in value] if isinstance(value, list) else (type(value).__name__, value)


async def directly(served: Served, model: str, event: dict[str, Any]) -> tuple[list[Any], Any, Any]:
    """The vector, score and decision of an event, without the API."""
    compiled, scorer = shop.project.model(model), served.deployment.scorers[model]
    decoded = shop.payments.decode(msgspec.json.encode(event))
    t = shop.payments.time_of(decoded)
    request = Request(decoded, t, partition_of(event["card"].encode(), 4))
    places = scorer.places(request)
    wanted = scorer.reads([places])
    states, _ = decode_reads([places], wanted, await served.store.read(wanted))
    assembled = compiled.vector.assemble(
        decoded,
        t,
        [[states[key] for _, key in place.reads] for place in places],
        [place.home for place in places],
    )
    prediction = served.feed.predictor(model).predict(assembled.vector)
    return assembled.vector, prediction.score, prediction.decision


@pytest.mark.parametrize("model", ["fraud", "verdict", "loss"])
async def test_a_prediction_is_the_direct_one_by_bits(served: Served, model: str) -> None:
    await fold(served, shop.payments, payments(300))
    await publish_learned(served, model, 200)
    for k in range(40):
        event = payment(10_000 + k, age_ms=k * 3_600_000)
        answer = await served.predict(event, model, explain="vector")
        vector, score, decision = await directly(served, model, event)
        assert bits(answer["vector"]) == bits(vector)
        assert bits(answer["score"]) == bits(score)
        assert answer.get("decision") == decision
        assert answer["version"] == 200


async def test_the_request_counts_once_whether_folded_before_or_after(served: Served) -> None:
    await fold(served, shop.payments, payments(200))
    request = payment(10_000, age_ms=3_600_000)
    before = await served.predict(request, explain="vector")
    await fold(served, shop.payments, [request])
    after = await served.predict(request, explain="vector")
    await fold(served, shop.payments, [request])
    again = await served.predict(request, explain="vector")
    assert bits(before["vector"]) == bits(after["vector"]) == bits(again["vector"])
    home = f"shop.payments.v1/{partition_of(request['card'].encode(), 4)}"
    assert after["as_of"][home] == before["as_of"][home] + 1


async def test_it_is_one_round_trip(redis_url: str) -> None:
    async with counted(redis_url) as wire:
        served = await serve(wire.url)
        async with served.client:
            await fold(served, shop.payments, payments(100))
            await served.predict(payment(1))  # the connection greets once
            before = wire.trips
            for k in range(20):
                await served.predict(
                    payment(10_000 + k)
                )  # 5 groups: 4 partitions of payments, one of samples
            assert wire.trips == before + 20
            answer = await served.client.post(
                "/v1/models/fraud/predict", json=[payment(20_000 + k) for k in range(50)]
            )
            assert len(answer.json()) == 50
            assert wire.trips == before + 21
        await served.store.close()


async def test_predictions_at_the_same_time_share_trips_and_keep_their_answers(redis_url: str) -> None:
    async with counted(redis_url) as wire:
        served = await serve(wire.url)
        async with served.client:
            await fold(served, shop.payments, payments(200))
            events = [payment(10_000 + k) for k in range(40)]
            alone = [await served.predict(event, explain="vector") for event in events]
            await asyncio.gather(*(served.predict(event) for event in events))
            before = wire.trips
            together = await asyncio.gather(*(served.predict(event, explain="vector") for event in events))
            assert together == alone
            assert wire.trips - before < 10
        await served.store.close()


async def test_in_a_batch_each_counts_itself_and_not_the_others(served: Served) -> None:
    await fold(served, shop.payments, payments(100))
    batch = [payment(10_000 + k, card="c1", terminal="t1") for k in range(5)]
    alone = [await served.predict(event, explain="vector") for event in batch]
    together = await served.client.post("/v1/models/fraud/predict?explain=vector", json=batch)
    assert together.json() == alone


async def test_a_sequential_batch_counts_those_before_and_says_so(served: Served) -> None:
    await fold(served, shop.payments, payments(100))
    batch = [payment(10_000 + k, card="c1", terminal="t1", age_ms=5_000 - k) for k in range(4)]
    answers = (
        await served.client.post("/v1/models/fraud/predict?sequential=true&explain=vector", json=batch)
    ).json()
    for k, event in enumerate(batch):
        one = await served.predict(event, explain="vector")
        assert bits(answers[k]["vector"]) == bits(one["vector"])
        assert ("sequential" in answers[k]["flags"]) is (k > 0)
        await fold(served, shop.payments, [event])


async def test_an_empty_batch_is_answered_with_nothing(served: Served) -> None:
    answer = await served.client.post("/v1/models/fraud/predict", content=b" [ ] ")
    assert (answer.status_code, answer.json()) == (200, [])


async def test_the_prediction_is_logged_with_its_event_as_it_came(served: Served) -> None:
    await fold(served, shop.payments, payments(50))
    raw = msgspec.json.encode(payment(7, age_ms=1_000) | {"note": "not of the schema"})
    answer = (await served.client.post("/v1/models/fraud/predict?explain=vector", content=raw)).json()
    (sent,) = served.outbox.offered
    assert (sent.topic, sent.key, sent.time_ms) == ("headrace.shop.fraud.log.v1", b"p7", NOW - 1_000)
    assert sent.partition == partition_of(b"p7", 1)
    record = decode_record(sent.value or b"")
    assert isinstance(record, PredictionRecord)
    assert (record.id, record.t, record.origin) == ("p7", NOW - 1_000, "api")
    assert bits(record.vector) == bits(answer["vector"])
    assert bits(record.score) == bits(answer["score"])
    assert (record.version, record.as_of, record.flags) == (0, answer["as_of"], answer["flags"])
    assert record.fingerprint == shop.project.model("fraud").fingerprint
    assert bytes(record.event) == raw


async def test_ingest_writes_the_event_before_it_answers(served: Served) -> None:
    event = payment(7, age_ms=1_000)
    await served.predict(event, ingest="true")
    (sent,) = served.outbox.sent
    assert (sent.topic, sent.key, sent.time_ms) == ("shop.payments.v1", b"c0", NOW - 1_000)
    assert msgspec.json.decode(sent.value or b"") == event
    assert dict(sent.headers)["headrace-sent"] == str(NOW).encode()
    assert len(served.outbox.offered) == 1


async def test_ingest_without_a_broker_is_neither_answered_nor_logged(served: Served) -> None:
    served.outbox.away = True
    answer = await served.client.post("/v1/models/fraud/predict?ingest=true", json=payment(7))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["type"].endswith(":broker-unavailable")
    assert served.outbox.lost == 0


async def test_an_unknown_entity_is_scored_from_empty_windows_and_flagged(served: Served) -> None:
    answer = await served.predict(payment(1, card="nobody", terminal="nowhere"), explain="vector")
    assert answer["flags"] == ["unknown:Card", "unknown:Terminal", "unknown:Before", "unknown:Risk"]
    assert answer["age_ms"] is None
    assert dict(zip(answer["names"], answer["vector"], strict=True))["Card.count_1d"] == 1  # its own event


async def test_the_age_is_that_of_the_newest_event_behind_the_features(served: Served) -> None:
    await fold(served, shop.payments, [payment(1, card="c1", terminal="t9", age_ms=90_000)])
    answer = await served.predict(payment(2, card="c1", terminal="t8", age_ms=30_000))
    assert answer["age_ms"] == 60_000


async def test_a_request_older_than_the_lateness_is_answered_and_flagged(served: Served) -> None:
    await fold(served, shop.payments, [payment(1, card="c1", age_ms=0)])
    answer = await served.predict(payment(2, card="c1", age_ms=3 * 86_400_000))
    assert "late:Card" in answer["flags"]


async def test_a_newer_version_answers_as_soon_as_it_is_taken_over(served: Served) -> None:
    assert (await served.predict(payment(1)))["version"] == 0
    await publish_learned(served, "fraud", 10)
    assert (await served.predict(payment(1)))["version"] == 10
    await publish_learned(served, "fraud", 20)
    assert (await served.predict(payment(1)))["version"] == 20


async def test_several_classes_are_answered_with_a_share_for_each(served: Served) -> None:
    await publish_learned(served, "verdict", 50)
    answer = await served.predict(payment(1), "verdict")
    assert set(answer["score"]) == {"good", "bad", "odd"}
    assert answer["decision"] == max(answer["score"], key=answer["score"].__getitem__)
