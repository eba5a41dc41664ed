from __future__ import annotations

from typing import Any

import pytest

from features.clock import from_ms
from tests.serving import shop
from tests.serving.parts import NOW, Served, fold, payment, payments


async def look(served: Served, path: str, **query: Any) -> Any:
    answer = await served.client.get(f"/v1/features/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_features_are_those_that_a_model_reads(served: Served) -> None:
    await fold(served, shop.payments, payments(300))
    request = payment(10_000, card="c1", terminal="t1", age_ms=60_000)
    await fold(served, shop.payments, [request])
    predicted = await served.predict(request, explain="vector")
    vector = dict(zip(predicted["names"], predicted["vector"], strict=True))
    for view, key in (("Card", "c1"), ("Terminal", "t1")):
        found = await look(served, f"{view}/{key}", at=NOW - 60_000)
        shared = {f"{view}.{name}": value for name, value in found["values"].items()} & vector.keys()
        assert shared
        assert {name: vector[name] for name in shared} == {
            name: found["values"][name.partition(".")[2]] for name in shared
        }


async def test_a_key_of_several_parts_is_joined_by_bars(served: Served) -> None:
    await fold(served, shop.payments, [payment(1, card="a|b", terminal="t/1", age_ms=5)])
    found = await look(served, "Before/a\\|b|t%2F1")
    assert found["values"]["count_7d"] == 1
    assert set(found["as_of"]) == {f"shop.payments.v1/{p}" for p in range(4)}  # it is kept in every partition


async def test_now_is_the_default_and_any_time_can_be_asked_for(served: Served) -> None:
    await fold(served, shop.payments, [payment(1, card="c1", age_ms=90 * 60_000)])
    assert (await look(served, "Card/c1"))["values"]["count_1h"] == 0
    then = NOW - 40 * 60_000
    for at in (then, from_ms(then).isoformat(), from_ms(then).isoformat().replace("+00:00", "Z")):
        found = await look(served, "Card/c1", at=at)
        assert found["values"]["count_1h"] == 1
        assert (found["at"], found["age_ms"]) == (then, 50 * 60_000)
        assert found["newest"] == from_ms(NOW - 90 * 60_000).isoformat()
    unescaped = from_ms(then).isoformat().replace("+", " ")
    assert (await look(served, "Card/c1", at=unescaped))["at"] == then


async def test_what_is_unknown_and_what_is_late_is_flagged(served: Served) -> None:
    assert (await look(served, "Card/nobody"))["flags"] == ["unknown:Card"]
    assert (await look(served, "Card/nobody"))["newest"] is None
    await fold(served, shop.payments, [payment(1, card="c1")])
    assert (await look(served, "Card/c1", at=NOW - 2 * 86_400_000))["flags"] == ["late:Card"]


@pytest.mark.parametrize("at", ["", "now", "2026-01-01", "2026-01-01T00:00:00", "9" * 30, "nan"])
async def test_a_time_that_is_none_is_422(served: Served, at: str) -> None:
    answer = await served.client.get("/v1/features/Card/c1", params={"at": at})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "at"


async def test_a_view_that_is_not_there_is_404_and_says_which_are(served: Served) -> None:
    answer = await served.client.get("/v1/features/Nope/c1")
    assert answer.status_code == 404
    assert "Card, Terminal, Before, Risk" in answer.json()["detail"]
