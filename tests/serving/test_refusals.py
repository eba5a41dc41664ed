"""Every row of the design's table of bad input that the API answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from features import keys
from features.embedded import EmbeddedRedis
from features.partition import partition_of
from models.records import PredictionRecord, decode_record
from serving.settings import Settings
from tests.serving import shop
from tests.serving.parts import Served, fold, payment, payments, publish_learned, serve

URL = "/v1/models/fraud/predict"


def body(**change: Any) -> bytes:
    """A payment's JSON with some fields changed; None leaves a field out, bytes stand as they are."""
    fields: dict[str, Any] = payment(1) | change
    pairs = []
    for name, value in fields.items():
        if value is not None:
            text = value if isinstance(value, bytes) else msgspec.json.encode(value)
            pairs.append(msgspec.json.encode(name) + b":" + text)
    return b"{" + b",".join(pairs) + b"}"


BAD = {
    "wrong type": (body(amount="ten"), "amount"),
    "missing field": (body(card=None), "card"),
    "NaN": (body(amount=b"NaN"), "amount"),
    "infinite": (body(amount=b"-Infinity"), "amount"),
    "beyond a double": (body(amount=b"1e400"), "amount"),
    "beyond the states": (body(amount=1e40), "amount"),
    "no text": (body(card=b'"\xff"'), ""),
    "no text where nobody looks": (body(note=b'"\xff"'), ""),
    "half a surrogate": (body(card=b'"\\ud800"'), "card"),
    "no time": (body(at="yesterday"), "at"),
    "no time zone": (body(at="2026-01-01T00:00:00"), "at"),
    "the future": (body(at="2026-12-01T00:00:00Z"), "at"),
    "cut short": (body()[:-5], ""),
    "empty": (b"", ""),
    "no object": (b"7", ""),
    "nested too deep": (body(note=b"[" * 100_000 + b"]" * 100_000), ""),
    "function that fails": (body(amount=13.0), "cents"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_request_is_422_and_names_the_field(served: Served, name: str) -> None:
    content, field = BAD[name]
    answer = await served.client.post(URL, content=content)
    problem = answer.json()
    assert answer.status_code == problem["status"] == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "detail", "errors"}
    assert [error["field"] for error in problem["errors"]] == [field]
    assert served.outbox.offered == []


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_item_of_a_batch_is_named(served: Served, name: str) -> None:
    content, field = BAD[name]
    answer = await served.client.post(URL, content=b"[" + body() + b"," + content + b"]")
    problem = answer.json()
    assert answer.status_code == 422
    found = problem["errors"][0]["field"]
    # what is no JSON at all spoils the array as a whole: then there is no item to name
    assert found in ({f"[1].{field}", field} if field else {"", "[1]"})
    assert served.outbox.offered == []


async def test_the_future_is_that_of_the_source(served: Served) -> None:
    assert (await served.client.post(URL, json=payment(1, age_ms=-300_000))).status_code == 200
    assert (await served.client.post(URL, json=payment(1, age_ms=-300_001))).status_code == 422


@pytest.mark.parametrize(
    "query", ["ingest=perhaps", "sequential=2", "explain=all", "ingest=true&ingest=perhaps"]
)
async def test_an_option_that_means_nothing_is_422(served: Served, query: str) -> None:
    answer = await served.client.post(f"{URL}?{query}", json=payment(1))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == query.rpartition("&")[2].partition("=")[0]


async def test_a_model_that_is_not_there_is_404_and_says_which_are(served: Served) -> None:
    answer = await served.client.post("/v1/models/nope/predict", json=payment(1))
    assert answer.status_code == 404
    assert "fraud, verdict, loss" in answer.json()["detail"]


async def test_another_method_is_405(served: Served) -> None:
    answer = await served.client.get(URL)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_score_that_is_no_number_is_500_and_the_next_request_is_answered(served: Served) -> None:
    answer = await served.client.post("/v1/models/loss/predict", json=payment(1, amount=7.0))
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:headrace:problem:model-failed")
    assert (await served.predict(payment(1, amount=8.0), "loss"))["score"] == 8.0


# -- limits --------------------------------------------------------------------------------------------------


@pytest.fixture
async def strict(redis_url: str) -> AsyncIterator[Served]:
    """An API with low limits."""
    made = await serve(redis_url, Settings(max_body_bytes=1_000, max_batch=3, max_concurrency=2))
    async with made.client:
        yield made
    await made.store.close()


@pytest.mark.parametrize("path", [URL, "/v1/events/payments", "/v2/models/fraud/infer"])
async def test_a_body_beyond_the_limit_is_413(strict: Served, path: str) -> None:
    answer = await strict.client.post(path, content=b"x" * 1_001)
    assert answer.status_code == 413


async def test_a_body_in_chunks_is_413_as_soon_as_it_is_beyond_the_limit(strict: Served) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 100
            yield b" " * 100

    answer = await strict.client.post(URL, content=chunks())
    assert answer.status_code == 413
    assert "content-length" not in answer.request.headers
    assert sent <= 1_200


async def test_a_record_that_the_worker_would_refuse_is_413(redis_url: str) -> None:
    served = await serve(redis_url, Settings(max_body_bytes=3_000_000))
    async with served.client:
        size = shop.payments.max_bytes
        assert (await served.client.post(URL, content=body(note="x" * 890_000))).status_code == 200
        unlogged = await served.client.post(URL, content=body(note="x" * (size - 1_000)))
        assert (unlogged.status_code, "of at most 900000" in unlogged.text) == (422, True)
        assert (await served.client.post(URL, content=body(note="x" * size))).status_code == 413
    await served.store.close()


async def test_a_batch_beyond_the_limit_is_422(strict: Served) -> None:
    item = body(channel=None)
    assert (await strict.client.post(URL, content=b"[" + b",".join([item] * 3) + b"]")).status_code == 200
    answer = await strict.client.post(URL, content=b"[" + b",".join([item] * 4) + b"]")
    assert answer.status_code == 422
    assert "3 items" in answer.json()["detail"]


async def test_one_request_too_many_is_503_and_probes_are_answered_all_the_same(strict: Served) -> None:
    gate, admitted = asyncio.Event(), asyncio.Semaphore(0)

    async def slow() -> AsyncIterator[bytes]:
        admitted.release()  # the body is asked for by a request that is in hand
        await gate.wait()
        yield body()

    waiting = [asyncio.create_task(strict.client.post(URL, content=slow())) for _ in range(2)]
    for _ in waiting:
        await admitted.acquire()
    for path in (URL, "/v2/models/fraud/infer"):
        answer = await strict.client.post(path, content=body())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert set(answer.json()) == (
            {"error"} if path[:3] == "/v2" else {"type", "title", "status", "detail"}
        )
    assert (await strict.client.get("/livez")).status_code == 200
    gate.set()
    assert [(await task).status_code for task in waiting] == [200, 200]


# -- what stands behind is away ------------------------------------------------------------------------------


async def test_without_redis_it_is_503_and_goes_on_when_redis_is_back() -> None:
    with EmbeddedRedis.start() as redis:
        served = await serve(redis.url)
        async with served.client:
            await fold(served, shop.payments, payments(20))
            redis.kill()
            for path in (URL, "/v2/models/fraud/infer"):
                event = {"name": "event", "shape": [1], "datatype": "BYTES", "data": [body().decode()]}
                answer = await served.client.post(
                    path, json=payment(1) if path == URL else {"inputs": [event]}
                )
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert "127.0.0.1" not in answer.text  # where it stands is nobody's business
            assert (await served.client.get("/v1/features/Card/c1")).status_code == 503
            assert served.outbox.lost == 0
            redis.restart()
            await served.predict(payment(100))
        await served.store.close()


async def test_if_so_configured_it_answers_from_the_request_alone_flagged_and_logged() -> None:
    with EmbeddedRedis.start() as redis:
        served = await serve(redis.url, Settings(fallback=True))
        async with served.client:
            await fold(served, shop.payments, payments(20))
            await publish_learned(served, "fraud", 30)
            redis.kill()
            answer = await served.predict(payment(1), explain="vector")
            known = dict(zip(answer["names"], answer["vector"], strict=True))
            assert {name: value for name, value in known.items() if value is not None} == {
                "amount": 11.25,
                "cents": 1125,
            }
            assert (answer["flags"], answer["as_of"], answer["age_ms"]) == (["fallback"], {}, None)
            record = decode_record(served.outbox.offered[0].value or b"")
            assert isinstance(record, PredictionRecord)
            assert record.flags == ["fallback"]
            assert bytes(record.event) == msgspec.json.encode(payment(1)).replace(b" ", b"")
            metrics = (await served.client.get("/metrics")).text
            assert 'headrace_api_predictions_total{model="fraud",version="fallback"} 1.0' in metrics
            bad = await served.client.post(URL, content=body(amount=13.0))
            assert bad.status_code == 422
        await served.store.close()


async def test_a_state_beyond_its_position_is_never_served(served: Served) -> None:
    await fold(served, shop.payments, payments(30))
    group = served.deployment.groups[shop.payments.topic][partition_of(b"c1", 4)]
    stored = await served.store.get(keys.position(group.tag))
    assert stored is not None
    rewound = stored[:16] + (1).to_bytes(8, "little") + stored[24:]
    await served.store.note({keys.position(group.tag): rewound})
    for path in ("/v1/features/Card/c1", None):
        answer = await (served.client.get(path) if path else served.client.post(URL, content=body(card="c1")))
        assert (answer.status_code, answer.json()["type"]) == (500, "urn:headrace:problem:state-corrupt")
    assert served.outbox.offered == []
    assert "headrace_state_corrupt_total 1.0" in (await served.client.get("/metrics")).text


async def test_without_kafka_predictions_go_on_and_losses_are_counted_and_shown(served: Served) -> None:
    served.outbox.away = True
    for k in range(3):
        await served.predict(payment(k))
    assert "headrace_prediction_log_lost_total 3.0" in (await served.client.get("/metrics")).text
    assert (await served.client.get("/v1/status")).json()["api"]["prediction_log_lost"] == 3
