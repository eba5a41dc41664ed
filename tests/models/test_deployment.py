"""A project in a store: which states serve it, and that another file is served by what is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from river.anomaly import HalfSpaceTrees

from features import Count, Distinct, Entity, FeatureView, Max, Mean, Source, Sum
from features.group import FoldGroup
from features.memory import MemoryStore
from features.partition import partition_of
from features.redis import RedisStore
from features.store import NO_TOPIC, Position, Status, Store
from models import ModelSpec, Project
from models.deployment import Deployment, deploy, topics_of
from models.scorer import Request, decode_reads

HOUR = 3_600_000


class Sale(msgspec.Struct, frozen=True):
    id: str
    card: str
    shop: str
    amount: float
    items: int
    at: int


sales = Source("shop.sales.v1", Sale, id=Sale.id, time=Sale.at, key=Sale.card)
card = Entity("card", by=Sale.card)
shop = Entity("shop", by=Sale.shop)
PARTITIONS = 2


class Spent(FeatureView, of=card, source=sales):
    count_1h, count_7d = Count().over("1h", "7d")
    spent_7d = Sum(Sale.amount).over("7d")


class Sold(FeatureView, of=shop, source=sales):
    cards_7d = Distinct(Sale.card).over("7d")


class Later(FeatureView, of=card, source=sales):
    count_6h = Count().over("6h")
    largest_2d = Max(Sale.amount).over("2d")
    mean_6h = Mean(Sale.amount).over("6h", delay="2h")


class Items(FeatureView, of=card, source=sales):
    items_7d = Sum(Sale.items).over("7d")


def model(name: str, *inputs: Any) -> ModelSpec:
    return ModelSpec(name, request=sales, inputs=[Sale.amount, *inputs], learner=HalfSpaceTrees(seed=1))


def project(*models: ModelSpec, views: tuple[type[FeatureView], ...] = ()) -> Project:
    return Project("shop", *models, views=views)


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    made: Store = (
        MemoryStore() if request.param == "memory" else RedisStore(request.getfixturevalue("redis_url"))
    )
    yield made
    await made.close()


async def deployed(made: Project, store: Store) -> Deployment:
    return await deploy(made, store, topics_of(made, {sales.topic: PARTITIONS}))


async def fold(deployment: Deployment, store: Store, *events: Sale) -> None:
    """Folds events behind those of before, as a worker does."""
    plans = deployment.project.plans_over(sales)
    for group in deployment.groups[sales.topic]:
        claimed = await store.claim(group, Position.start(NO_TOPIC)._replace(token=b"t" * 16))
        at = FoldGroup(group, sales, plans, deployment.codes, claimed, PARTITIONS)
        mine = [e for e in events if partition_of(e.card.encode(), PARTITIONS) == group.partition]
        records = [
            at.prepare(claimed.next + k, e.card.encode(), msgspec.json.encode(e)) for k, e in enumerate(mine)
        ]
        names = at.missing(records)
        at.load(names, (await store.read({group: names}))[group].values)
        for batch in at.fold(records, claimed.next + len(mine)):
            answer = await store.commit(group, batch.start, batch.end, batch.writes)
            assert answer.status is Status.APPLIED


async def vector(deployment: Deployment, store: Store, name: str, event: Sale) -> dict[str, Any]:
    scorer = deployment.scorers[name]
    request = Request(event, event.at, deployment.home(sales, event))
    places = scorer.places(request)
    wanted = scorer.reads([places])
    states, _ = decode_reads([places], wanted, await store.read(wanted))
    assembled = scorer.assemble(request, places, states)
    return dict(zip(scorer.model.vector.names, assembled.vector, strict=True))


def sale(k: int, hours: int) -> Sale:
    return Sale(f"s{k}", f"c{k % 5}", f"p{k % 3}", 10.0 + k, k, 1_767_225_600_000 + hours * HOUR)


SALES = [sale(k, k) for k in range(60)]


async def test_a_new_window_within_the_reach_is_read_at_once_from_the_states_that_are_there(
    store: Store,
) -> None:
    old = await deployed(project(model("fraud", Spent, Sold)), store)
    await fold(old, store, *SALES)
    declared = project(model("fraud", Spent, Sold), model("later", Later))
    new = await deployed(declared, store)

    assert new.project is not declared or new.project.plans == declared.plans
    assert new.groups[sales.topic] == old.groups[sales.topic]
    asked = sale(60, 60)
    found = await vector(new, store, "later", asked)
    own = [s for s in SALES if s.card == asked.card]
    recent = [s for s in [*own, asked] if s.at > asked.at - 6 * HOUR]
    delayed = [s for s in own if asked.at - 8 * HOUR < s.at <= asked.at - 2 * HOUR]
    assert found == {
        "amount": asked.amount,
        "Later.count_6h": len(recent),
        "Later.largest_2d": max(s.amount for s in [*own, asked] if s.at > asked.at - 48 * HOUR),
        "Later.mean_6h": sum(s.amount for s in delayed) / len(delayed),
    }
    assert await vector(old, store, "fraud", asked) == await vector(new, store, "fraud", asked)


async def test_a_model_whose_inputs_did_not_change_keeps_its_fingerprints_and_groups(store: Store) -> None:
    old = await deployed(project(model("fraud", Spent)), store)
    new = await deployed(project(model("fraud", Spent), views=(Later,)), store)
    before, after = old.project.model("fraud"), new.project.model("fraud")

    assert (after.fingerprint, after.learner_fingerprint) == (before.fingerprint, before.learner_fingerprint)
    assert new.groups == old.groups
    assert new.codes == old.codes


async def test_both_files_fold_the_same_states(store: Store) -> None:
    old = await deployed(project(model("fraud", Spent, Sold)), store)
    new = await deployed(project(model("small", Spent)), store)
    assert len(new.project.plans_over(sales)) == 2, "nothing needs the shops, yet they are folded"
    await fold(old, store, *SALES[:20])
    await fold(new, store, *SALES[20:40])
    await fold(old, store, *SALES[40:])
    again = MemoryStore()
    whole = await deployed(project(model("fraud", Spent, Sold)), again)
    await fold(whole, again, *SALES)

    asked = sale(60, 60)
    expected = await vector(whole, again, "fraud", asked)
    assert expected["Sold.cards_7d"] == 5
    assert await vector(old, store, "fraud", asked) == expected
    for group, other in zip(old.groups[sales.topic], whole.groups[sales.topic], strict=True):
        names = [
            f"{group.tag}{code}.{key}" for code in ("a", "b") for key in ("c0", "c1", "c2", "p0", "p1", "p2")
        ]
        same = [other.tag + name.removeprefix(group.tag) for name in names]
        assert (await store.read({group: names}))[group].values == (await again.read({other: same}))[
            other
        ].values


def renamed(view: type[FeatureView], name: str, **features: str) -> type[FeatureView]:
    """The view under another name, with its features under others."""
    body = {features[f.name]: type(f)(f.aggregation, f.window) for f in view.features if f.name in features}
    return type(name, (FeatureView,), body, of=view.of, source=view.source)


def ratio(sale: Sale, spent: Spent) -> float:
    return sale.amount / spent.spent_7d


def share(sale: Sale, spent: Spent) -> float:
    return sale.amount / spent.spent_7d


async def test_a_rename_of_a_view_a_feature_or_an_input_rebuilds_no_state(store: Store) -> None:
    old = await deployed(project(model("fraud", Spent, ratio)), store)
    other = renamed(Spent, "Paid", count_1h="hourly", count_7d="weekly", spent_7d="total")
    for inputs in ((other,), (Spent, share)):
        new = await deployed(project(model("fraud", *inputs)), store)
        assert new.groups[sales.topic] == old.groups[sales.topic]
        assert new.codes == old.codes


async def test_a_removal_rebuilds_nothing(store: Store) -> None:
    old = await deployed(project(model("fraud", Spent, Sold), views=(Items,)), store)
    for views in ((Items,), ()):
        new = await deployed(project(model("fraud", Spent, Sold), views=views), store)
        assert new.groups == old.groups
        assert new.project.model("fraud").fingerprint == old.project.model("fraud").fingerprint


async def test_another_name_of_an_entity_means_other_states(store: Store) -> None:
    old = await deployed(project(views=(Spent,)), store)
    other = type(
        "Spent", (FeatureView,), {"n": Count().over("1h")}, of=Entity("owner", by=Sale.card), source=sales
    )
    new = await deployed(project(views=(other,)), store)

    assert new.groups[sales.topic] != old.groups[sales.topic]


async def test_a_column_more_folds_beside_the_old_states_and_a_rollback_finds_them(store: Store) -> None:
    old = await deployed(project(model("fraud", Spent)), store)
    new = await deployed(project(model("fraud", Spent, Items)), store)
    assert new.groups[sales.topic] != old.groups[sales.topic]
    back = await deployed(project(model("fraud", Spent)), store)
    assert back.groups == old.groups
    assert back.project.model("fraud").learner_fingerprint == old.project.model("fraud").learner_fingerprint


def big(sale: Sale) -> bool:
    return sale.amount > 20


class Big(FeatureView, of=card, source=sales, where=big):
    n_7d = Count().over("7d")


async def test_a_removed_view_with_a_filter_makes_a_new_layout(store: Store) -> None:
    old = await deployed(project(model("fraud", Spent), views=(Big,)), store)
    kept = await deployed(project(model("other", Big), views=(Later,)), store)
    new = await deployed(project(model("fraud", Spent)), store)

    assert kept.groups[sales.topic] == old.groups[sales.topic], "the filter is still in the file"
    assert new.groups[sales.topic] != old.groups[sales.topic]


async def test_processes_that_deploy_at_once_agree(redis_url: str) -> None:
    stores = [RedisStore(redis_url) for _ in range(6)]
    first, second = project(model("fraud", Spent, Sold)), project(model("fraud", Spent), views=(Later,))
    made = [await asyncio.gather(*(deployed(each, store) for store in stores)) for each in (first, second)]
    for found in made:
        assert all(d.groups == found[0].groups and d.codes == found[0].codes for d in found)
    assert made[1][0].groups[sales.topic] == made[0][0].groups[sales.topic]
    for store in stores:
        await store.close()
