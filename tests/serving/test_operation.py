"""Models, probes, metrics, status, page and document."""

from __future__ import annotations

import json
from typing import Any

import pytest

from features import keys
from features.embedded import EmbeddedRedis
from models.snapshot import Key
from tests.serving import shop
from tests.serving.parts import NOW, Served, learned, payment, publish, publish_learned, sealed, serve

STRANGER = Key("stranger", b"x" * 32)


async def get(served: Served, path: str) -> Any:
    answer = await served.client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def tell(served: Served, field: str, at_ms: int = NOW, **facts: Any) -> None:
    await served.store.tell(keys.STATUS, field, json.dumps({"at_ms": at_ms, **facts}).encode())


async def test_the_models_are_listed_with_the_version_that_is_served(served: Served) -> None:
    await publish_learned(served, "fraud", 12)
    models = (await get(served, "/v1/models"))["models"]
    assert [(model["name"], model["task"], model["version"]) for model in models] == [
        ("fraud", "binary", 12),
        ("verdict", "multiclass", 0),
        ("loss", "regression", 0),
    ]


async def test_a_model_shows_its_inputs_its_slots_and_an_example_that_it_takes(served: Served) -> None:
    model = await get(served, "/v1/models/fraud")
    assert model["inputs"][:3] == ["Payment.amount", "cents", "Card.count_1h: Count() over 1h"]
    assert model["slots"][:2] == [
        {"name": "amount", "type": "float", "nullable": False},
        {"name": "cents", "type": "int", "nullable": False},
    ]
    assert model["fingerprint"] == shop.project.model("fraud").fingerprint
    assert model["threshold"] == 0.5
    assert model["label"] == {
        "source": "shop.chargebacks.v1",
        "value": "Chargeback.fraud",
        "within_ms": 14 * 86_400_000,
        "absent": False,
    }
    assert (await served.predict(model["example"]))["prediction_id"] == f"try-{NOW}"


async def test_a_model_shows_the_figures_that_the_worker_tells(served: Served) -> None:
    figures = {"progressive": {"LogLoss": 0.25}, "progressive_baseline": {"LogLoss": 0.5}}
    await tell(served, "shop/worker-1", models={"fraud": {"version": 9, "figures": figures}})
    model = await get(served, "/v1/models/fraud")
    assert (model["version"], model["learned_version"], model["figures"]) == (0, 9, figures)


async def test_the_status_merges_the_workers_of_the_project_that_are_alive(served: Served) -> None:
    await tell(served, "shop/worker-1", models={"fraud": {"version": 9, "coverage": float("nan")}})
    await tell(served, "shop/worker-2", models={"fraud": {"pending": 3}})
    await tell(served, "shop/worker-3", at_ms=NOW - 60_000)
    await tell(served, "other/worker-1")
    status = await get(served, "/v1/status")
    assert sorted(status["workers"]) == ["worker-1", "worker-2"]
    assert status["models"]["fraud"] == {
        "served_version": 0,
        "task": "binary",
        "learned_version": 9,
        "coverage": None,
        "pending": 3,
    }


async def test_the_status_shows_latencies_and_the_newest_predictions_first(served: Served) -> None:
    for k in range(30):
        await served.predict(payment(k))
    status = await get(served, "/v1/status")
    assert [one["id"] for one in status["newest"]] == [f"p{k}" for k in range(29, 4, -1)]
    assert status["api"]["predictions_last_minute"] == 30
    assert 0 < status["api"]["predict_ms"]["p50"] <= status["api"]["predict_ms"]["p99"]


async def test_it_is_ready_when_redis_answers_and_every_version_is_known() -> None:
    with EmbeddedRedis.start() as redis:
        served = await serve(redis.url)
        async with served.client:
            assert await get(served, "/readyz") == {"ready": True, "missing": []}
            redis.kill()
            answer = await served.client.get("/readyz")
            assert answer.status_code == 503
            assert answer.json()["missing"][0].startswith("store: ")
            status = await get(served, "/v1/status")
            assert status["store"] != "up"
            assert (await served.client.get("/livez")).status_code == 200
        await served.store.close()


async def test_it_is_not_ready_while_the_only_snapshot_is_forged(redis_url: str) -> None:
    first = await serve(redis_url)
    async with first.client:
        await publish(first, "fraud", sealed(learned("fraud", 5), key=STRANGER))
    await first.store.close()
    served = await serve(redis_url)
    async with served.client:
        answer = await served.client.get("/readyz")
        assert (answer.status_code, answer.json()["missing"]) == (503, ["model: fraud"])
        metrics = (await served.client.get("/metrics")).text
        assert 'headrace_feed_refused_total{model="fraud",reason="SnapshotForged"} 1.0' in metrics
        await publish_learned(served, "fraud", 6)
        assert (await served.client.get("/readyz")).status_code == 200
    await served.store.close()


async def test_every_metric_is_ours_documented_and_has_bounded_labels(served: Served) -> None:
    await publish_learned(served, "fraud", 6)
    for path in ("/v1/models/nobody-knows", "/nowhere", "/v1/features/Card/secret-card"):
        await served.client.get(path)
    await served.client.post("/v1/models/made-up/predict", json=payment(1))
    await served.predict(payment(1, card="secret-card"))
    text = (await served.client.get("/metrics")).text
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    helps = {
        line.split()[2]: line.split(maxsplit=3)[3:] for line in text.splitlines() if line.startswith("# HELP")
    }
    assert all(name.startswith("headrace_") for name in names)
    assert all(helps[name] for name in names)
    for word in ("secret-card", "nobody-knows", "made-up", "nowhere"):
        assert word not in text
    assert 'model="fraud",route="/v1/models/{model}/predict",status="200"' in text
    assert 'headrace_feed_swaps_total{model="fraud"} 1.0' in text
    assert 'headrace_served_version{model="fraud"} 6.0' in text


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html"), ("/static/console.js", "text/javascript"), ("/static/console.css", "text/css")],
)
async def test_the_page_is_served_and_asks_nobody_else(served: Served, path: str, kind: str) -> None:
    answer = await served.client.get(path)
    assert answer.headers["content-type"].startswith(kind)
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in answer.text


async def test_the_page_names_only_files_that_are_there(served: Served) -> None:
    page = (await served.client.get("/")).text
    for part in page.split('"'):
        if part.startswith("/static/"):
            assert (await served.client.get(part)).status_code == 200


async def test_the_document_describes_the_hot_path_with_the_events_of_the_project(served: Served) -> None:
    document = await get(served, "/openapi.json")
    predict = document["paths"]["/v1/models/{model}/predict"]["post"]
    assert predict["parameters"][0]["schema"]["enum"] == ["fraud", "verdict", "loss"]
    event = document["components"]["schemas"]["Payment"]
    assert set(event["required"]) == {"id", "card", "terminal", "amount", "at"}
    routes = {(path, method) for path, operations in document["paths"].items() for method in operations}
    assert ("/v1/features/{view}/{key}", "get") in routes
    assert ("/v2/models/{model}/infer", "post") in routes


@pytest.mark.parametrize("path", ["/nowhere", "/v1/nowhere", "/v1/models/nobody"])
async def test_what_is_not_there_is_a_problem_document(served: Served, path: str) -> None:
    answer = await served.client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert {"type", "title", "status", "detail"} <= set(answer.json())
