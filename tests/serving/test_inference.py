"""The Open Inference Protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.records import PredictionRecord, decode_record
from tests.serving import shop
from tests.serving.parts import Served, fold, payment, payments, publish_learned

URL = "/v2/models/fraud/infer"


def events(*given: Any, **change: Any) -> dict[str, Any]:
    data = [json.dumps(event) for event in given]
    return {"name": "event", "shape": [len(data)], "datatype": "BYTES", "data": data} | change


def columns(names: list[str], rows: list[list[Any]]) -> list[dict[str, Any]]:
    kinds = {slot.name: slot.type for slot in shop.project.model("fraud").vector.slots}
    types = {float: "FP64", int: "INT64", str: "BYTES", bool: "BOOL"}
    return [
        {"name": name, "shape": [len(rows)], "datatype": types[kinds[name]], "data": [row[k] for row in rows]}
        for k, name in enumerate(names)
    ]


async def test_server_and_model_describe_themselves(served: Served) -> None:
    assert (await served.client.get("/v2")).json() == {
        "name": "headrace/shop",
        "version": "0.1",
        "extensions": [],
    }
    assert (await served.client.get("/v2/health/live")).json() == {"live": True}
    assert (await served.client.get("/v2/health/ready")).json() == {"ready": True}
    assert (await served.client.get("/v2/models/fraud/ready")).json() == {"name": "fraud", "ready": True}
    model = (await served.client.get("/v2/models/fraud")).json()
    assert set(model) == {"name", "versions", "platform", "inputs", "outputs"}
    assert model["inputs"][:2] == [
        {"name": "event", "datatype": "BYTES", "shape": [-1]},
        {"name": "amount", "datatype": "FP64", "shape": [-1]},
    ]
    assert model["outputs"] == [
        {"name": "score", "datatype": "FP64", "shape": [-1]},
        {"name": "decision", "datatype": "BOOL", "shape": [-1]},
    ]


async def test_events_are_scored_and_logged_as_by_the_other_path(served: Served) -> None:
    await fold(served, shop.payments, payments(100))
    await publish_learned(served, "fraud", 50)
    given = [payment(1_000 + k) for k in range(3)]
    expected = [await served.predict(event) for event in given]
    served.outbox.offered.clear()
    answer = await served.client.post(URL, json={"id": "a1", "inputs": [events(*given)]})
    assert answer.json() == {
        "id": "a1",
        "model_name": "fraud",
        "model_version": "50",
        "outputs": [
            {"name": "score", "datatype": "FP64", "shape": [3], "data": [one["score"] for one in expected]},
            {
                "name": "decision",
                "datatype": "BOOL",
                "shape": [3],
                "data": [one["decision"] for one in expected],
            },
        ],
    }
    records = [decode_record(sent.value or b"") for sent in served.outbox.offered]
    assert [record.id for record in records if isinstance(record, PredictionRecord)] == [
        "p1000",
        "p1001",
        "p1002",
    ]


async def test_vectors_are_scored_as_they_are_without_a_read_or_a_record(served: Served) -> None:
    await fold(served, shop.payments, payments(100))
    await publish_learned(served, "fraud", 50)
    answers = [await served.predict(payment(1_000 + k), explain="vector") for k in range(4)]
    served.outbox.offered.clear()
    trips = served.store.trips
    given = columns(answers[0]["names"], [answer["vector"] for answer in answers])
    answer = await served.client.post(URL, json={"inputs": given[::-1], "outputs": [{"name": "score"}]})
    assert [output["name"] for output in answer.json()["outputs"]] == ["score"]
    assert answer.json()["outputs"][0]["data"] == [one["score"] for one in answers]
    assert (served.store.trips, served.outbox.offered) == (trips, [])


async def test_several_classes_are_texts(served: Served) -> None:
    await publish_learned(served, "verdict", 50)
    answer = (
        await served.client.post("/v2/models/verdict/infer", json={"inputs": [events(payment(1))]})
    ).json()
    score, decision = answer["outputs"]
    assert score["datatype"] == decision["datatype"] == "BYTES"
    shares = json.loads(score["data"][0])
    assert decision["data"] == [max(shares, key=shares.__getitem__)]


async def test_a_tensor_may_be_nested_and_of_two_dimensions(served: Served) -> None:
    data = [[json.dumps(payment(1))], [json.dumps(payment(2))]]
    answer = await served.client.post(URL, json={"inputs": [events(shape=[2, 1], data=data)]})
    assert answer.json()["outputs"][0]["shape"] == [2]


def _without_one() -> list[dict[str, Any]]:
    names = shop.project.model("fraud").vector.names
    return columns(names[1:], [[1] * (len(names) - 1)])


BAD: dict[str, Any] = {
    "no JSON": b"{",
    "no inputs": {},
    "wrong inputs": {"inputs": 3},
    "unknown input": {"inputs": [events(name="nope")]},
    "a slot is missing": {"inputs": _without_one()},
    "a slot is given twice": {"inputs": [*_without_one(), _without_one()[0]]},
    "shape": {"inputs": [events(payment(1), shape=[2])]},
    "negative shape": {"inputs": [events(payment(1), shape=[-1])]},
    "datatype": {"inputs": [events(payment(1), datatype="FP32")]},
    "unknown datatype": {"inputs": [events(payment(1), datatype="FP7")]},
    "element": {"inputs": [events(data=[5], shape=[1])]},
    "event": {"inputs": [events({"id": "p"})]},
    "NaN": {"inputs": [events(data=[json.dumps(payment(1)).replace("11.25", "NaN")], shape=[1])]},
    "unknown output": {"inputs": [events(payment(1))], "outputs": [{"name": "nope"}]},
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_input_is_400_with_exactly_an_error(served: Served, name: str) -> None:
    given = BAD[name]
    content = given if isinstance(given, bytes) else json.dumps(given).encode()
    answer = await served.client.post(URL, content=content)
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"]
    assert answer.headers["content-type"] == "application/json"
    assert served.outbox.offered == []


@pytest.mark.parametrize("path", ["/v2/nowhere", "/v2/models/nobody", "/v2/models/nobody/ready"])
async def test_what_is_not_there_is_404_with_exactly_an_error(served: Served, path: str) -> None:
    answer = await served.client.get(path)
    assert answer.status_code == 404
    assert list(answer.json()) == ["error"]


async def test_the_binary_extension_is_refused_in_words(served: Served) -> None:
    headers = {"Inference-Header-Content-Length": "10"}
    answer = await served.client.post(URL, content=b"{}", headers=headers)
    assert (answer.status_code, "binary" in answer.json()["error"]) == (400, True)


async def test_a_number_that_no_model_must_see_is_400(served: Served) -> None:
    names = shop.project.model("fraud").vector.names
    given = columns(names, [[1] * len(names)])
    given[0]["data"] = [1e200]
    answer = await served.client.post(URL, json={"inputs": given})
    assert (answer.status_code, "amount" in answer.json()["error"]) == (400, True)
