"""A changed label rule is a new version of the model, which learns nothing of the samples of the old one."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec.structs import replace

from features.group import FoldGroup
from features.store import NO_TOPIC, Group, Position
from models.join import Join
from models.project import Project
from models.records import Sample, decode_record, decode_sample, encode_sample
from models.scorer import Request, decode_reads
from streams.join_stage import rules_of
from tests.streams.audit import fold_of_samples, model_digest
from tests.streams.memory_log import House
from tests.streams.shop import DAY, HOUR, Business, Payment, Verdict, build, business, sent

CHANGES: dict[str, dict[str, Any]] = {
    "a shorter horizon": {"within": "1d"},
    "another absent": {"absent": True},
    "no absents": {"absent": None},
    "the last label": {"counts": "last"},
    "corrections": {"learn_corrections": True},
    "another learner with another silence": {"silence": "30h", "rate": 0.5},
}


def project_of(**options: Any) -> Project:
    made = {"absent": False, **options}
    return build("rules", outcomes=True, **{name: one for name, one in made.items() if one is not None})


def happened() -> Business:
    """Payments with a verdict after two days, some with another one, some with one too late, some with none."""
    made = business(300, judged=0.7, delay=2 * DAY, step=HOUR)
    number = {payment.id: k for k, payment in enumerate(made.payments)}
    again = [
        Verdict(v.payment, v.shop, not v.fraud, v.at + 12 * HOUR)
        for v in made.verdicts
        if number[v.payment] % 5 == 0
    ]
    late = [Verdict(p.id, p.shop, True, p.at + 5 * DAY) for p in made.payments if number[p.id] % 7 == 0]
    verdicts = sorted([*made.verdicts, *again, *late], key=lambda verdict: verdict.at)
    return made._replace(verdicts=verdicts)


def joined(house: House) -> list[Sample]:
    """The samples of the project's rules, by a join of the whole log."""
    model = house.project.models[0]
    feeds = tuple(f"{model.spec.label.source.topic}/{k}" for k in range(1)) if model.spec.label else ()
    join = Join(rules_of(house.project, model, feeds), f"{model.log_topic}/0")
    return [
        sample
        for record in house.log.values(model.log_topic)
        for sample in join.fold(decode_record(record.value or b""), record.offset)
    ]


async def shares(house: House, t: int) -> dict[str, Any]:
    """The share of frauds among the outcomes of each shop, as a request would read it."""
    deployment = await house.deployment()
    source, scorer = house.project.sources[0], deployment.scorers["fraud"]
    place = house.project.models[0].vector.names.index("Outcomes.share_7d")
    found = {}
    for shop in (f"s{k}" for k in range(12)):
        payment = Payment("probe", "c1", shop, 1.0, t)
        request = Request(payment, t, deployment.home(source, payment))
        places = [scorer.places(request)]
        wanted = scorer.reads(places)
        states, _ = decode_reads(places, wanted, await house.store.read(wanted))
        found[shop] = scorer.assemble(request, places[0], states).vector[place]
    return found


def counted(samples: list[Sample], shops: dict[str, str], t: int) -> dict[str, Any]:
    """The same, from the samples."""
    found: dict[str, Any] = {}
    for shop in (f"s{k}" for k in range(12)):
        week = [
            s.label
            for s in samples
            if s.kind != "correction" and shops[s.id] == shop and t - 7 * DAY < s.known <= t
        ]
        found[shop] = sum(map(bool, week)) / len(week) if week else None
    return found


@pytest.mark.parametrize("name", CHANGES)
async def test_a_changed_rule_learns_and_counts_the_samples_of_its_own_join_alone(name: str) -> None:
    events = happened()
    house = House(project_of(), 1)
    await house.log.send(sent(house.project, *events.payments, *events.verdicts))
    await (await house.worker(random.Random(1))).end()
    old = house.project.models[0]
    before = len(house.log.values(old.samples_topic))

    house.project = project_of(**CHANGES[name])
    worker = await house.worker(random.Random(2))
    await worker.end()

    model, samples = house.project.models[0], joined(house)
    expected = model.new_learner()
    for offset, sample in enumerate(samples):
        expected.on_sample(sample, offset)
    learner = fold_of_samples(house.log, model)
    assert before > 200
    assert len(house.log.values(old.samples_topic)) > before
    assert (learner.version, model_digest(learner)) == (expected.version, model_digest(expected))
    await worker.feed.poll()
    assert worker.feed.predictor("fraud").version == expected.version
    t = max(sample.known for sample in samples)
    shops = {payment.id: payment.shop for payment in events.payments}
    assert await shares(house, t) == counted(samples, shops, t)


async def test_the_old_rules_go_on_as_if_nothing_had_been_beside_them() -> None:
    events = happened()
    house = House(project_of(), 1)
    first = project_of(within="1d")
    for project in (first, house.project):  # the other's samples stand there first
        house.project = project
        if project is first:
            await house.log.send(sent(project, *events.payments, *events.verdicts))
        await (await house.worker(random.Random(3))).end()

    model, expected = house.project.models[0], house.project.models[0].new_learner()
    for offset, sample in enumerate(joined(house)):
        expected.on_sample(sample, offset)
    assert model_digest(fold_of_samples(house.log, model)) == model_digest(expected)


async def test_samples_of_other_rules_do_not_move_the_clock_of_the_outcomes() -> None:
    events = happened()
    house = House(project_of(), 1)
    await house.log.send(sent(house.project, *events.payments, *events.verdicts))
    await (await house.worker(random.Random(4))).end()
    source = house.project.models[0].spec.outcomes
    plans = house.project.plans_over(source)
    codes = {plan.fingerprint: str(k) for k, plan in enumerate(plans)}

    def folded(*samples: Sample) -> FoldGroup:
        group = FoldGroup(Group(source.topic, 0, "{g0}"), source, plans, codes, Position.start(NO_TOPIC), 1)
        for offset, sample in enumerate(samples):
            prepared = group.prepare(offset, None, encode_sample(sample))
            group.missing([prepared])
            group.step(prepared, {})
        return group

    ours = [decode_sample(record.value or b"") for record in house.log.values(source.topic)]
    theirs = [replace(sample, rules="other", known=sample.known + 9 * DAY) for sample in ours]
    alone, mixed = folded(*ours), folded(*(s for pair in zip(theirs, ours, strict=True) for s in pair))

    assert mixed.counts["foreign"] == len(ours) > 200
    assert mixed.position.clock == alone.position.clock
    assert mixed.position.previous == alone.position.previous
    assert len(list(mixed.dump())) == len(list(alone.dump()))
