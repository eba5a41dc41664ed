"""What a life is made of, drawn from its seed: definitions, topology, records, which kinds of trouble there are."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from features.partition import partition_of
from models.project import Project
from streams.producer import Outgoing
from tests.simulation.world import Faults
from tests.streams.memory_log import FOREVER, House
from tests.streams.shop import DAY, HOUR, MINUTE, Payment, Verdict, build, business, sent

PARTITIONS = 2
REFUSED = ("keyless", "misplaced", "huge")  # how the ids of events begin that are no use


class Case(NamedTuple):
    """What a life is drawn from; with the seed it decides everything."""

    seed: int
    payments: int | None = None  # how many; None draws it
    faults: Faults | None = None  # None draws which kinds of faults this life knows
    odd: bool = True  # events that are late, from the future, doubled, contradicting, or no events at all


class Life(NamedTuple):
    """What is drawn before anything happens."""

    projects: list[Project]  # the second comes with a change of the definition
    records: list[Outgoing]  # of the sources, in the order in which they are written
    logs: int  # partitions of the model's log
    sides: int  # into how many parts the partitions are divided among processes
    hold: float
    backlog: bool  # all records lie in the log before anybody begins
    orderly: bool  # and stand there in the order of time: every vector can be foretold
    keyed: bool  # whether payments are on the partition of their card


def faults_of(case: Case) -> Faults:
    """Returns the faults of a case. Each life leaves some kinds out: rare ones would hide behind frequent ones."""
    if case.faults is not None:
        return case.faults
    chance = random.Random(f"faults of {case.seed}")
    return Faults(*[share if chance.random() < 0.7 else 0 for share in Faults()])


def life_of(case: Case, chance: random.Random) -> Life:
    """Draws a life."""
    orderly = chance.random() < 0.2
    backlog = orderly or chance.random() < 0.2
    outcomes = not orderly and chance.random() < 0.3
    keyed = chance.random() < 0.8
    given = {
        "absent": chance.choice((UNSET, False)),
        "outcomes": outcomes,
        "learn_corrections": chance.random() < 0.3,
        "partitioner": "murmur2" if keyed else "any",
        "vectors": chance.choice(("redis", "log")),
    }
    projects = [project(**given)]
    if not orderly and chance.random() < 0.4:
        projects.append(project(**given | {chance.choice(("more", "again")): True}))
    spread = 0 if orderly else DAY // 2
    happened = list(_happened(case, chance, spread))
    odd = case.odd and not orderly
    records = list(_records(happened, odd, keyed, projects[0], chance))
    return Life(
        projects,
        records,
        logs=chance.choice((1, 1, 2)),
        sides=chance.choice((1, 1, 2)),
        hold=FOREVER if orderly or chance.random() < 0.8 else 0.5,
        backlog=backlog,
        orderly=orderly,
        keyed=keyed,
    )


@cache
def project(**given: Any) -> Project:
    """A project, compiled once."""
    return build("sim", **given)


def houses_of(life: Life) -> list[House]:
    """The definitions over one log and one store."""
    first = life.projects[0]
    partitions = {source.topic: PARTITIONS for source in first.sources if source.event in (Payment, Verdict)}
    partitions[first.models[0].log_topic] = life.logs
    houses = [House(each, partitions) for each in life.projects]
    for house in houses[1:]:
        house.log, house.store, house.clock, house.recall = (
            houses[0].log,
            houses[0].store,
            houses[0].clock,
            houses[0].recall,
        )
    return houses


def _happened(case: Case, chance: random.Random, spread: int) -> Iterator[Payment | Verdict]:
    """Payments and verdicts, about in the order of time; in some lives nothing happens for weeks in between."""
    step = chance.choice((10 * MINUTE, 6 * HOUR))
    cards = chance.choice((2, 8))
    drawn = chance.choice((10, 20, 40))
    payments = drawn if case.payments is None else case.payments
    happened = business(payments, seed=case.seed, step=step, cards=cards, shops=3, judged=0.8)
    events: list[Payment | Verdict] = [*happened.payments, *happened.verdicts]
    silence = chance.choice((0, 0, 20 * DAY))
    after = happened.payments[chance.randrange(len(happened.payments))].at
    for event in sorted(events, key=lambda e: e.at + (chance.randrange(spread) if spread else 0)):
        yield msgspec.structs.replace(event, at=event.at + silence) if event.at > after else event


def _records(
    events: list[Payment | Verdict], odd: bool, keyed: bool, project: Project, chance: random.Random
) -> Iterator[Outgoing]:
    strays = 0
    for k, event in enumerate(events):
        record = _sent(project, event, keyed, chance)
        yield record
        if not odd or chance.random() > 0.2:
            continue
        what = chance.choice(("again", "other", "future", "rubbish", "empty", "late", "refused", "forget"))
        if what == "forget":
            yield from _forget(record, event, keyed, chance)
        elif what in ("again", "rubbish", "empty"):
            yield {"again": record, "rubbish": record._replace(value=b"no event")}.get(
                what, record._replace(value=None)
            )
        elif isinstance(event, Verdict):
            if what == "other":
                event = msgspec.structs.replace(event, fraud=not event.fraud)
            elif what == "late":  # beyond the horizon
                event = msgspec.structs.replace(event, at=event.at + 3 * DAY)
            yield _sent(project, event, keyed, chance)
        elif what == "refused":
            yield _refused(record, event, k, keyed, chance)
        elif what != "future" or not strays:
            strays += what == "future"
            yield record._replace(value=_odd(what, event, k, chance))


def _forget(
    record: Outgoing, event: Payment | Verdict, keyed: bool, chance: random.Random
) -> Iterator[Outgoing]:
    """Forgets a card or a shop, in all partitions where the source has it, or only in its own."""
    entity = "shop" if isinstance(event, Verdict) or chance.random() < 0.4 else "card"
    value = json.dumps(
        {"headrace.forget": {"entity": entity, "key": getattr(event, entity)}}, separators=(",", ":")
    )
    marker = record._replace(value=value.encode())
    if entity == "card" and keyed:
        yield marker
    else:
        yield from (marker._replace(partition=number) for number in range(PARTITIONS))


def _odd(what: str, event: Payment, k: int, chance: random.Random) -> bytes:
    if what == "other":
        return _value(event, amount=event.amount + 1)
    if what == "future":
        return _value(event, id=f"stray{k}", at=event.at + 30 * DAY)
    return _value(event, id=f"late{k}", at=event.at - int(chance.choice((0.4, 3)) * DAY))


def _refused(record: Outgoing, event: Payment, k: int, keyed: bool, chance: random.Random) -> Outgoing:
    what = chance.choice(REFUSED) if keyed else "huge"
    if what == "huge":
        return record._replace(value=_value(event, id=f"huge{k}", amount=1e30))
    if what == "keyless":
        return record._replace(key=None, value=_value(event, id=f"keyless{k}"))
    assert record.key is not None
    elsewhere = (partition_of(record.key, PARTITIONS) + 1) % PARTITIONS
    return record._replace(partition=elsewhere, value=_value(event, id=f"misplaced{k}"))


def _value(event: Payment, **changed: Any) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(event, **changed))


def _sent(project: Project, event: Payment | Verdict, keyed: bool, chance: random.Random) -> Outgoing:
    (record,) = sent(project, event)
    if keyed or isinstance(event, Verdict):
        return record
    return record._replace(partition=chance.randrange(PARTITIONS))
