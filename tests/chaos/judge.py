"""The judgement: what is in Redis, in the model's log and in the samples, against the log of events alone."""

from __future__ import annotations

import hashlib
import random
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import redis as blocking

from features import keys
from features.group import FoldGroup
from features.plan import plan_for
from features.read import Reader
from features.small import newest_of
from features.state import decode, encode
from features.store import Group, Position
from models.records import FALLBACK, PredictionRecord, Sample, decode_sample
from models.snapshot import open_sealed
from streams.log import LogReader
from streams.recompute import Recompute, Walk, predictions_of, rescored, same_value, same_vector
from streams.replay import Replay, Stream, merged
from tests.chaos.events import stream
from tests.features import oracle
from tests.streams.audit import model_digest
from tests.streams.rig import Rig
from tests.streams.shop import Payment, Verdict

if TYPE_CHECKING:
    from tests.chaos.asking import Callers
    from tests.chaos.run import Options

AUDITED = 50_000  # logged predictions that are made again; of more, about this many, drawn by their ids
LOOPED = 60  # entities of each view that the oracle computes with loops
TOLD = 20
NEEDED = (
    "states",
    "features by loops",
    "samples",
    "versions served",
    "the last version",
    "payments scored",
    "vectors of predictions",
    "scores of predictions",
    "vectors of answers",
    "scores of answers",
)
"""What must have been compared for a judgement to be worth anything."""


class Judgement(NamedTuple):
    """What was compared, and what was found: empty lists are good."""

    compared: Counter[str]
    findings: list[str]

    @property
    def good(self) -> bool:
        """Whether nothing was found, and something was looked at."""
        return not self.findings and all(self.compared[what] for what in NEEDED)


class _Judge:
    """Counts what it compares and collects what differs."""

    def __init__(self, shop: Rig, options: Options) -> None:
        self.shop = shop
        self.options = options
        self.compared: Counter[str] = Counter()
        self.findings: list[str] = []

    def check(self, what: str, good: bool, told: str) -> None:
        """Counts one comparison."""
        self.compared[what] += 1
        if not good and len(self.findings) < TOLD:
            self.findings.append(f"{what}: {told}")


async def judge(
    shop: Rig,
    url: str,
    options: Options,
    versions: Mapping[int, str],
    callers: Callers,
) -> Judgement:
    """Compares everything; nobody works any more.

    Args:
        shop: the project and its log.
        url: of Redis.
        options: of the run.
        versions: digests of the versions that were seen served.
        callers: what the API answered.
    """
    found = _Judge(shop, options)
    with blocking.Redis.from_url(url) as client:
        _states(found, client)
        _oracle(found, client)
        _learned(found, client, versions)
    _predictions(found, shop.log, callers)
    return Judgement(found.compared, found.findings)


# the features


def _states(found: _Judge, client: Any) -> None:
    """Every byte of every state is that of a fold of the whole log in this process, and there are no others."""
    shop = found.shop
    for source in shop.project.sources:
        if not shop.deployment.project.plans_over(source):
            continue
        for group in shop.deployment.groups[source.topic]:
            end = shop.log.bounds(source.topic)[group.partition].highwater
            walk = Walk(shop.deployment, group, shop.log, 0, end)
            walk.to(end)
            stored = Position.unpack(client.get(keys.position(group.tag)))
            found.check(
                "positions at the end of their logs", stored.next == end, f"{group.name} at {stored.next}"
            )
            clock = walk.fold.position.clock
            found.check("clocks", stored.clock == clock, f"{group.name}: {stored.clock}, not {clock}")
            _same_states(found, client, walk.fold)


def _same_states(found: _Judge, client: Any, fold: FoldGroup) -> None:
    mine = dict(_encoded(fold))
    prefixes = tuple(prefix.encode() for prefix in fold.prefixes)
    names = [name for name in client.scan_iter(f"{fold.group.tag}*", 10_000) if name.startswith(prefixes)]
    there: dict[str, bytes] = {}
    for some in _batched(names, 5_000):
        there.update(zip((name.decode() for name in some), client.mget(some), strict=True))
    for key in there.keys() - mine.keys():
        found.check("states", False, f"{key} is in the store and in no fold")
    known = []
    for key, (newest, data) in mine.items():
        if key in there:
            found.check(
                "states", there[key] == data, f"{key} differs: {there[key].hex()} is not {data.hex()}"
            )
        else:
            known.append((key, newest))
    gone = set(fold.removable(known))  # removed at leisure: nothing could see them any more
    for key, _ in known:
        found.check("states", key in gone, f"{key} is missing")


def _encoded(fold: FoldGroup) -> Iterator[tuple[str, tuple[int, bytes]]]:
    plans = dict(zip(fold.prefixes, fold.plans, strict=True))
    for key, state in [*fold._young.items(), *fold._old.items()]:
        if state is not None:
            plan = plans[key[: key.index(".") + 1]]
            data = state if isinstance(state, bytes) else encode(plan, state)
            yield key, (newest_of(data), data)


def _batched(names: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for k in range(0, len(names), size):
        yield names[k : k + size]


def _oracle(found: _Judge, client: Any) -> None:
    """What the stored states of some entities answer is what loops over the events give."""
    shop, deployment = found.shop, found.shop.deployment
    events: dict[str, list[list[tuple[int, Any]]]] = {}
    for source in shop.project.sources[:2]:
        events[source.topic] = [
            list(_decoded(shop.log, group, source.event)) for group in deployment.groups[source.topic]
        ]
    for view in shop.project.views:
        source = view.source
        if source.topic not in events:
            continue
        plan = plan_for(view, deployment.project.plans)
        assert plan is not None
        reader = Reader(view, plan)
        for group in deployment.groups[source.topic]:
            entities: dict[str, list[oracle.Event]] = {}
            wanted = _wanted(plan, events[source.topic][group.partition])
            for offset, event in events[source.topic][group.partition]:
                entity = plan.key_of(event)
                if entity in wanted:
                    values = {name: getattr(event, name) for name in event.__struct_fields__}
                    made = oracle.Event(event.at, plan.source.identify(event, offset), values)
                    entities.setdefault(entity, []).append(made)
            prefix = keys.state_prefix(group.tag, deployment.codes[plan.fingerprint])
            for entity, happened in entities.items():
                there, _ = oracle.accepted(kept(plan, happened), source.lateness)
                newest = max(event.t for event in there)
                data = client.get(prefix + entity)
                if data is None:
                    continue  # `_states` tells whether it may be gone
                row = reader.read([decode(plan, data)], newest, None)
                for feature, value in zip(view.features, row.values, strict=True):
                    right = expected(feature, there, newest)
                    told = f"{view.__name__}.{feature.name} of {entity} is {value!r}, not {right!r}"
                    found.check("features by loops", oracle.bits(value) == oracle.bits(right), told)


def kept(plan: Any, events: Sequence[oracle.Event]) -> list[oracle.Event]:
    """The events as a plan keeps them: conflicts are told by that, not by the rest of an event."""
    names = list(plan.paths)
    return [oracle.Event(event.t, event.tie, {n: event.values[n] for n in names}) for event in events]


def expected(feature: Any, events: Sequence[oracle.Event], t: int) -> Any:
    """What a feature is, by loops."""
    window = oracle.Sliding(feature.window.width, feature.window.delay)
    aggregation = feature.aggregation
    name = aggregation.column.name if aggregation.column else ""
    wanted = oracle.Wanted(type(aggregation).__name__, name)
    return oracle.value(wanted, oracle.members(events, window, t), t - window.delay)


def _wanted(plan: Any, events: Sequence[tuple[int, Any]]) -> set[str]:
    known = sorted({plan.key_of(event) for _, event in events})
    return set(random.Random(len(events)).sample(known, min(len(known), LOOPED)))


def _decoded(log: LogReader, group: Group, event: Any) -> Iterator[tuple[int, Any]]:
    end = log.bounds(group.topic)[group.partition].highwater
    for batch in log.read(group.topic, group.partition, 0, end):
        for record in batch:
            yield record.offset, msgspec.json.decode(record.value or b"", type=event)


# samples and versions


def _learned(found: _Judge, client: Any, versions: Mapping[int, str]) -> None:
    """The samples are the judged payments, each once; each version seen is their fold; the last one is served."""
    shop = found.shop
    labels = {
        event.payment: event.fraud
        for event in stream(found.options.events, found.options.seed)
        if isinstance(event, Verdict)
    }
    clean = None if found.options.wide else clean_run(found)
    learner = shop.model.new_learner()
    seen: Counter[str] = Counter()
    newest: dict[str, tuple[int, int]] = {}
    for offset, sample in _samples(shop):
        before = learner.version
        learner.on_sample(sample, offset)
        origin = (sample.offset, sample.index)
        repeated = origin <= newest.get(sample.source, (-1, 0))
        found.check("samples told from repeats", (learner.version == before) == repeated, f"at {offset}")
        if repeated:
            found.compared["repeated samples dropped"] += 1
            continue
        newest[sample.source] = origin
        seen[sample.id] += 1
        right = labels.get(sample.id)
        found.check("labels of samples", sample.label is right, f"{sample.id} is {sample.label}, not {right}")
        if clean is not None:
            same = clean.vectors[sample.id] == _short(sample.vector)
            found.check("samples as of a clean run", same, f"{sample.id} of {sample.t}: {sample.vector}")
            number = len(seen) - 1
            same = clean.order[number : number + 1] == [sample.id]
            found.check("order of samples", same, f"{sample.id} is number {number}")
        if learner.version in versions:
            same = model_digest(learner) == versions[learner.version]
            found.check("versions served", same, f"version {learner.version} is not the fold of its samples")
    for version in versions:
        found.check("versions known", version <= learner.version, f"there are no {version} samples")
    for ident in labels:
        found.check("samples", seen[ident] == 1, f"{ident} was learned {seen[ident]} times")
    for ident in seen.keys() - labels.keys():
        found.check("samples", False, f"{ident} has no label")
    tag = shop.deployment.groups[shop.model.samples_topic][0].tag
    served = open_sealed(client.get(keys.model(tag)), [shop.key])
    digest = model_digest(learner)
    same = (served.version, served.digest) == (learner.version, digest)
    found.check("the last version", same, f"{served.version} is served of {learner.version}, or differs")
    if clean is not None:
        same = clean.digest == digest
        found.check("the clean run", same, f"it ends with {clean.digest}, this one with {digest}")


def _samples(shop: Rig) -> Iterator[tuple[int, Sample]]:
    bounds = shop.log.bounds(shop.model.samples_topic)[0]
    for batch in shop.log.read(shop.model.samples_topic, 0, bounds.earliest, bounds.highwater):
        for record in batch:
            yield record.offset, decode_sample(record.value or b"")


class CleanRun(NamedTuple):
    """A run in this process, in which nothing happens."""

    vectors: dict[str, int]  # in short, by request
    order: list[str]  # of the samples
    digest: str  # of the last version


def clean_run(found: _Judge) -> CleanRun:
    """Replays the events."""
    project = found.shop.project
    replay = Replay(project)
    vectors: dict[str, int] = {}
    order: dict[str, None] = {}

    def values(kind: type[Payment] | type[Verdict]) -> Iterator[bytes]:
        for event in stream(found.options.events, found.options.seed):
            if isinstance(event, kind):
                if isinstance(event, Verdict):
                    order[event.payment] = None
                yield msgspec.json.encode(event)

    streams = [
        Stream(project.sources[0], values(Payment)),
        Stream(project.sources[1], values(Verdict)),
    ]
    for source, prepared, value in merged(replay, streams):
        for scoring in replay.prepared(source, prepared, value):
            vectors.setdefault(scoring.prediction.id, _short(scoring.prediction.vector))
    return CleanRun(vectors, list(order), model_digest(replay.learner(found.shop.model.name)))


def _short(vector: Sequence[Any]) -> int:
    return int.from_bytes(hashlib.blake2b(msgspec.msgpack.encode(vector), digest_size=8).digest(), "big")


# the predictions


def _predictions(found: _Judge, log: LogReader, callers: Callers) -> None:
    """Vectors and scores, logged or answered, are those that the log and the samples give."""
    shop = found.shop
    ids: set[str] = set()
    audited: list[PredictionRecord] = []
    share = AUDITED / max(AUDITED, found.options.events)
    for prediction in predictions_of(log, shop.model):
        ids.add(prediction.id)
        if FALLBACK not in prediction.flags and zlib.crc32(prediction.id.encode()) < share * 2**32:
            audited.append(prediction)
    for k in range(found.options.events):
        found.check("payments scored", f"p{k}" in ids, f"p{k} was not")
    answers = callers.records(shop.model.fingerprint)
    flagged = [answer for answer in answers if FALLBACK in answer.flags]
    whole = [answer for answer in answers if FALLBACK not in answer.flags]
    _made_again(found, log, "predictions", audited)
    _made_again(found, log, "answers", whole)
    _scored_again(found, log, {"predictions": audited, "answers": whole, "flagged answers": flagged})
    for oddity in callers.oddities:
        found.check("answers", False, oddity)


def _made_again(found: _Judge, log: LogReader, what: str, predictions: list[PredictionRecord]) -> None:
    shop = found.shop
    for made in Recompute(shop.deployment, shop.model, log).vectors(iter(predictions)):
        good = made.assembled is not None and same_vector(made.assembled.vector, made.prediction.vector)
        found.check(f"vectors of {what}", good, f"{made.prediction.id} {made.reason}")


def _scored_again(
    found: _Judge, log: LogReader, predictions: Mapping[str, Sequence[PredictionRecord]]
) -> None:
    """All at once: the samples are learned once for it."""
    kinds = {id(one): what for what, some in predictions.items() for one in some}
    every = [one for some in predictions.values() for one in some]
    for prediction, score, why in rescored(log, found.shop.model, every):
        good = not why and same_value(score, prediction.score)
        what = kinds[id(prediction)]
        found.check(f"scores of {what}", good, f"{prediction.id} at version {prediction.version} {why}")
