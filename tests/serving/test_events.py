from __future__ import annotations

import msgspec
import pytest

from tests.serving.parts import NOW, Served, payment

CHARGEBACK = {"payment": "p1", "fraud": True, "at": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize("name", ["payments", "shop.payments.v1"])
async def test_an_event_is_written_and_then_acknowledged(served: Served, name: str) -> None:
    event = payment(7, age_ms=1_000)
    answer = await served.client.post(f"/v1/events/{name}", json=event)
    assert (answer.status_code, answer.json()) == (202, {"topic": "shop.payments.v1", "accepted": 1})
    (sent,) = served.outbox.sent
    assert (sent.topic, sent.key, sent.time_ms, sent.partition) == (
        "shop.payments.v1",
        b"c0",
        NOW - 1_000,
        None,
    )
    assert msgspec.json.decode(sent.value or b"") == event
    assert dict(sent.headers) == {"content-type": b"application/json", "headrace-sent": str(NOW).encode()}


async def test_events_of_an_array_are_written_in_its_order(served: Served) -> None:
    answer = await served.client.post("/v1/events/payments", json=[payment(k) for k in range(30)])
    assert answer.json()["accepted"] == 30
    assert [msgspec.json.decode(sent.value or b"")["id"] for sent in served.outbox.sent] == [
        f"p{k}" for k in range(30)
    ]


@pytest.mark.parametrize(
    ("change", "field"), [({"amount": "x"}, "amount"), ({"amount": 1e40}, "amount"), ({"id": None}, "id")]
)
async def test_one_bad_event_keeps_the_whole_array_out_of_the_log(
    served: Served, change: dict[str, object], field: str
) -> None:
    answer = await served.client.post("/v1/events/payments", json=[payment(1), payment(2) | change])
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == f"[1].{field}"
    assert served.outbox.sent == []


async def test_the_future_is_kept_out_of_the_log(served: Served) -> None:
    answer = await served.client.post("/v1/events/payments", json=payment(1, age_ms=-400_000))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "at"


@pytest.mark.parametrize("array", [False, True])
async def test_who_may_send_events_cannot_take_others_back(served: Served, array: bool) -> None:
    forgets = b'{"headrace.forget":{"entity":"card","key":"c1"},' + msgspec.json.encode(payment(1))[1:]
    body = b"[" + msgspec.json.encode(payment(2)) + b"," + forgets + b"]" if array else forgets
    answer = await served.client.post(
        "/v1/events/payments", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422
    assert "headrace forget" in answer.text
    assert served.outbox.sent == []


async def test_without_a_broker_it_is_503(served: Served) -> None:
    served.outbox.away = True
    answer = await served.client.post("/v1/events/payments", json=payment(1))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_labels_are_taken_for_label_sources_only(served: Served) -> None:
    assert (await served.client.post("/v1/labels/chargebacks", json=CHARGEBACK)).status_code == 202
    (sent,) = served.outbox.sent
    assert (sent.topic, sent.key) == ("shop.chargebacks.v1", None)
    answer = await served.client.post("/v1/labels/payments", json=payment(1))
    assert answer.status_code == 404
    assert "shop.chargebacks.v1" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["nope", "v1", "shop", "headrace.shop.fraud.samples.v1", "samples"])
async def test_a_source_that_is_not_there_or_not_meant_is_404(served: Served, name: str) -> None:
    answer = await served.client.post(f"/v1/events/{name}", json=payment(1))
    assert answer.status_code == 404
    assert served.outbox.sent == []


async def test_key_and_time_alone_clear_a_key_of_a_compacted_source(served: Served) -> None:
    place = {"terminal": "t1", "country": "CH", "at": "2026-01-01T00:00:00Z"}
    cleared = {"terminal": "t1", "at": "2026-01-02T00:00:00Z"}
    answer = await served.client.post("/v1/events/places", json=[place, cleared])
    assert (answer.status_code, answer.json()["accepted"]) == (202, 2)
    assert [(sent.key, sent.value is None, sent.time_ms) for sent in served.outbox.sent] == [
        (b"t1", False, 1_767_225_600_000),
        (b"t1", True, 1_767_312_000_000),
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"terminal": "t1", "at": "2026-01-02T00:00:00"}, "at"),
        ({"terminal": "t1", "at": "2036-01-02T00:00:00Z"}, "at"),
        ({"terminal": 7, "country": "CH", "at": "2026-01-02T00:00:00Z"}, "terminal"),
        ({"terminal": "t1", "country": 5, "at": "2026-01-02T00:00:00Z"}, "country"),
        ({"terminal": "t1"}, "country"),
        ([[]], "[0]"),
    ],
)
async def test_what_is_neither_event_nor_tombstone_is_422(served: Served, body: object, field: str) -> None:
    answer = await served.client.post("/v1/events/places", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
    assert served.outbox.sent == []
