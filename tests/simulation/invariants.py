"""What must hold at every commit, and at the end."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from features import keys
from features.clock import NEVER
from features.fold import Folded, fold
from features.group import FoldGroup
from features.plan import StatePlan, plan_for
from features.read import Reader
from features.small import newest_of
from features.state import State, decode, encode, opened
from features.store import NO_TOPIC, Answer, Group, Position, Status, Writes
from features.view import FeatureView
from features.window import Sliding
from models.canonical import digest
from models.deployment import Deployment
from models.join import Join, settle
from models.join_forgotten import naming
from models.project import Project
from models.records import ForgetRecord, LoggedPrediction, PredictionRecord, Sample, read_record
from models.snapshot import peek
from models.spec import Model
from streams.join_stage import rules_of
from streams.log import Partition
from tests.features import oracle
from tests.models.join_oracle import Oracle
from tests.simulation.ledger import Arrivals, Entities, Sent
from tests.simulation.world import World
from tests.streams.audit import audit
from tests.streams.memory_log import FOREVER
from tests.streams.shop import DAY, Payment, Verdict

HORIZON = 4 * DAY


class Violation(AssertionError):
    """Something that must hold does not."""


class Invariants:
    """Watches a world: whatever is committed is compared with what the log says.

    Args:
        world: which.
        keyed: whether payments belong on the partition of their card.
    """

    def __init__(self, world: World, keyed: bool) -> None:
        self._world = world
        self.checked: Counter[str] = Counter()
        log = world.log.records
        first = world.houses[0].project
        model = first.models[0]
        self.sent = Sent(world.log, model.log_topic, model.samples_topic)
        self.arrivals = {
            Partition(source.topic, number): Arrivals(
                log[Partition(source.topic, number)], source.event, keyed and source.event is Payment
            )
            for source in first.sources
            if source.event in (Payment, Verdict)
            for number in range(world.houses[0].topics[source.topic])
        }
        self._folds: dict[Group, _Fold] = {}
        self._joins: dict[Group, _Join] = {}
        self._learners: dict[Group, _Learner] = {}
        self._models: dict[Group, list[Model]] = {}  # that are asked by the requests of a group
        for deployment in world.deployments:
            self._watch(deployment)

    def _watch(self, deployment: Deployment) -> None:
        project, log = deployment.project, self._world.log.records
        alone = len(self._world.deployments) == 1
        for source in project.sources:
            for group in deployment.groups[source.topic]:
                place = Partition(group.topic, group.partition)
                self._folds[group] = _Fold(deployment, group, log[place], self.arrivals.get(place))
                self._models.setdefault(group, []).extend(project.requested_by(source))
        for model in project.models:
            for group in deployment.groups[model.log_topic]:
                self._joins.setdefault(group, _Join(deployment, model, group, self.sent, alone=alone))
            (group,) = deployment.groups[model.samples_topic]
            self._learners.setdefault(group, _Learner(model, self.sent))

    # at every commit

    def __call__(
        self, group: Group, start: Position, end: Position, writes: Writes, reader: str, answer: Answer
    ) -> None:
        if answer.status is not Status.APPLIED:
            return
        self.checked["commits"] += 1
        stored = Position.unpack(self._world.store.values[keys.position(group.tag, reader)])
        if stored != end:
            raise Violation(f"{group.name} {reader} stands at {stored}, not at {end}")
        if reader == "":
            self._folded(group, start, end, writes)
        elif reader == "score":
            self._scored(group, start, end)
        elif reader == "join":
            self._joins[group].check(end.next)
        elif reader == "learn":
            sealed = self._world.store.values[keys.model(group.tag)]
            self._learners[group].check(end.next, peek(sealed, [self._world.houses[0].key]))

    def _folded(self, group: Group, start: Position, end: Position, writes: Writes) -> None:
        self.checked["states"] += self._folds[group].check(self._world.store.values, start, end, writes)
        arrivals, sent = self.arrivals.get(Partition(group.topic, group.partition)), self.sent.read()
        if arrivals is None:
            return  # outcomes are told from samples
        arrivals.read()
        if arrivals.clocks[end.next] != end.clock:
            right = arrivals.clocks[end.next]
            raise Violation(f"the clock of {group.name} at {end.next} is {end.clock}, not {right}")
        for offset in arrivals.refused:
            letter = (group.topic, group.partition, offset)
            if start.next <= offset < end.next and letter not in sent.letters:
                raise Violation(
                    f"{group.name}: {end.next} is committed, the dead letter of {offset} not sent"
                )
        if self._models[group]:
            return
        for offset, _, _ in _between(arrivals, start, end):
            if (group.name, offset) not in sent.labels:
                raise Violation(f"{group.name}: {end.next} is committed, the label at {offset} not sent")

    def _scored(self, group: Group, start: Position, end: Position) -> None:
        arrivals, predicted = (
            self.arrivals[Partition(group.topic, group.partition)],
            self.sent.read().predicted,
        )
        for offset, *_ in arrivals.read().forgets:
            told = {(group.name, offset, number) for number in self.sent.entries}
            if start.next <= offset < end.next and not told <= self.sent.forgets:
                raise Violation(f"{group.name}: {end.next} is scored, what {offset} forgets not sent")
        for offset, _, event in _between(arrivals, start, end):
            if not any((event.id, model.fingerprint) in predicted for model in self._models[group]):
                raise Violation(f"{group.name}: {end.next} is scored, the prediction of {offset} not sent")

    # at the end

    def finish(self, *, orderly: bool, thorough: bool) -> None:
        """Checks what must hold when everything has been done.

        Args:
            orderly: all vectors are those of a run without lag.
            thorough: the slow oracles are asked as well.
        """
        sent = self.sent.read()
        bad = {(*place, offset) for place, a in self.arrivals.items() for offset in a.read().refused}
        if sent.letters != bad:
            raise Violation(f"dead letters {sorted(sent.letters)}, refused {sorted(bad)}")
        for group, each in self._folds.items():
            self.checked["states"] += each.finish(self._world.store.values)
            if self._models[group]:
                self._asked(group)
        for group, learner in self._learners.items():
            sealed = self._world.store.values.get(keys.model(group.tag))
            learner.finish(None if sealed is None else peek(sealed, [self._world.houses[0].key]))
        for group, join in self._joins.items():
            join.finish(len(self._world.log.records[Partition(group.topic, group.partition)]), thorough)
        for deployment in self._world.deployments:
            (model,) = deployment.project.models
            self._labelled(model)
            if thorough:
                self._audited(deployment, model)
            if orderly:
                self._foretold(deployment, model)

    def _asked(self, group: Group) -> None:
        known = {model.fingerprint for model in self._models[group]}
        predicted = {ident for ident, fingerprint in self.sent.predicted if fingerprint in known}
        asked = {a.event.id for a in self.arrivals[Partition(group.topic, group.partition)].events}
        if lost := asked - predicted:
            raise Violation(f"{group.name}: not scored: {sorted(lost)}")

    def _labelled(self, model: Model) -> None:
        """Compares samples with labels: none lost, none twice, none of what nobody said."""
        mine = [s for (fingerprint, *_), s in self.sent.origins.items() if fingerprint == model.fingerprint]
        taken = [s for s in mine if s.kind != "correction"]
        if twice := [ident for ident, n in Counter(s.id for s in taken).items() if n > 1]:
            raise Violation(f"samples taken twice: {sorted(twice)}")
        first: dict[str, PredictionRecord] = {}
        for entries in self.sent.entries.values():
            for _, entry in entries:
                if isinstance(entry, PredictionRecord):
                    first.setdefault(entry.id, entry)
        labels: dict[str, Verdict] = {}
        for arrivals in self.arrivals.values():
            for _, _, event in arrivals.events:
                if isinstance(event, Verdict):
                    labels.setdefault(event.payment, event)
        expected = {
            ident: label.fraud
            for ident, label in labels.items()
            if ident in first
            and first[ident].fingerprint == model.fingerprint
            and label.at <= first[ident].t + HORIZON
        }
        got = {s.id: s.label for s in taken if s.kind == "label"}
        for ident in self._forgotten(first):  # the join's oracle knows which of them were in time
            expected.pop(ident, None)
            got.pop(ident, None)
        self.checked["samples"] += len(taken)
        if (
            self._world.hold != FOREVER
        ):  # who does not wait for others may come after a label has been given up
            expected = {ident: fraud for ident, fraud in expected.items() if ident in got}
        if got != expected:
            lost, other = expected.items() - got.items(), got.items() - expected.items()
            raise Violation(f"samples lost: {sorted(lost)}; not as labelled: {sorted(other)}")

    def _forgotten(self, predictions: Mapping[str, PredictionRecord]) -> Iterator[str]:
        """The ids of requests that have been forgotten, before or after they became samples."""
        whom = {(entity, key) for arrivals in self.arrivals.values() for _, entity, key in arrivals.forgets}
        self.checked["forgotten"] += len(whom)
        for ident, prediction in predictions.items():
            event = msgspec.json.decode(bytes(prediction.event))
            if any((entity, event[entity]) in whom for entity in ("card", "shop")):
                yield ident

    def _audited(self, deployment: Deployment, model: Model) -> None:
        """Recomputes every vector at its `as_of`, and every score by the version that it names."""
        found = audit(deployment, model, _Only(self._world.log, model))
        self.checked["vectors"] += len(found.predictions)
        if found[1:] != ([], [], []):
            raise Violation(f"predictions that the log does not give: {found[1:]}")

    def _foretold(self, deployment: Deployment, model: Model) -> None:
        """Compares every vector with loops over the events up to the request's time: those of a run without lag.

        The first prediction of a request is the one that counts. One that is made again after the store went back may
        be of states that have gone on.
        """
        events: dict[StatePlan, dict[str, list[oracle.Event]]] = {}
        for (topic, number), arrivals in self.arrivals.items():
            for plan in deployment.project.plans:
                if plan.source.topic == topic:
                    entities = Entities(arrivals, plan)
                    for entity, there in entities.read().items():
                        of = events.setdefault(plan, {}).setdefault(entity, [])
                        of.extend(oracle.Event(e.t, e.tie, e.values, number) for _, _, e in there)
        known: set[str] = set()
        for entries in self.sent.entries.values():
            for _, entry in entries:
                if isinstance(entry, PredictionRecord) and entry.fingerprint == model.fingerprint:
                    again = entry.id in known
                    known.add(entry.id)
                    if again and self._world.happened["rewind"]:
                        continue
                    self.checked["foretold"] += 1
                    right = list(_vector(deployment.project, model, entry, events))
                    if [oracle.bits(x) for x in entry.vector] != [oracle.bits(x) for x in right]:
                        raise Violation(f"{entry.id} was scored with {entry.vector}, not {right}")


def _between(arrivals: Arrivals, start: Position, end: Position) -> Iterator[Any]:
    for arrival in reversed(arrivals.events):
        if arrival.offset < start.next:
            return
        if arrival.offset < end.next:
            yield arrival


def _vector(
    project: Project,
    model: Model,
    entry: PredictionRecord,
    events: Mapping[StatePlan, Mapping[str, Sequence[oracle.Event]]],
) -> Iterator[Any]:
    payment = msgspec.json.decode(bytes(entry.event), type=Payment)
    for item in model.spec.inputs:
        if not (isinstance(item, type) and issubclass(item, FeatureView)):
            yield payment.amount
            continue
        plan = plan_for(item, project.plans)
        assert plan is not None
        there = events.get(plan, {}).get(getattr(payment, plan.by[0]), ())
        for feature in item.features:
            yield _value(feature, there, entry.t)


class _Fold:
    """One partition of a source under the states of one deployment, folded record by record."""

    def __init__(
        self, deployment: Deployment, group: Group, log: Sequence[Any], arrivals: Arrivals | None
    ) -> None:
        project = deployment.project
        self._source = next(s for s in project.sources if s.topic == group.topic)
        self._group, self._log = group, log
        plans = project.plans_over(self._source)
        partitions = len(deployment.groups[group.topic])
        self._decoder = FoldGroup(
            group, self._source, plans, deployment.codes, Position.start(NO_TOPIC), partitions
        )
        prefixes = self._decoder.prefixes
        self._retain = {prefix: plan.retain for prefix, plan in zip(prefixes, plans, strict=True)}
        self._next, self._clock, self._previous = 0, NEVER, NEVER
        self._states: dict[str, State] = {}
        # the bytes of a state from an offset on; None where it is forgotten
        self._versions: dict[str, list[tuple[int, bytes | None]]] = {}
        self._entities = {}
        if arrivals is not None:
            for plan, prefix in zip(plans, prefixes, strict=True):
                readers = _readers(project, plan)
                self._entities[prefix] = (Entities(arrivals, plan), readers)

    def _read(self, end: int) -> None:
        """Folds on, the long way: every event into a state that is taken apart, and never cached."""
        for offset in range(self._next, end):
            record = self._log[offset]
            prepared = None if record is None else self._decoder.prepare(offset, record.key, record.value)
            if prepared is None or prepared.refused is not None:
                continue
            if prepared.forgetting is not None:
                for _, key, _, _ in prepared.parts:
                    if self._states.pop(key, None) is not None:
                        self._versions[key].append((offset + 1, None))
                continue
            for plan, key, id32, values in prepared.parts:
                gone = self._clock - plan.retain
                if prepared.t <= gone:
                    continue
                state = self._states.get(key)
                if state is None or state.newest <= gone:
                    state = self._states[key] = State()
                if fold(plan, state, prepared.t, id32, values, offset) in (Folded.FOLDED, Folded.REVISED):
                    self._versions.setdefault(key, []).append((offset + 1, encode(plan, state)))
            self._clock = max(self._clock, min(prepared.t, self._previous))
            self._previous = prepared.t
        self._next = max(self._next, end)

    def check(self, store: Mapping[str, bytes], start: Position, end: Position, writes: Writes) -> int:
        """Compares all states after a commit; returns how many it has written."""
        self._read(end.next)
        written = {*writes.sets, *writes.patches}
        n = 0
        for key, versions in self._versions.items():
            at, right = _version(versions, end.next)
            if store.get(key) != right and not (key not in store and self._gone(key, right, end.clock)):
                raise Violation(f"{self._group.name}: {key} at {end.next} is not the fold of the log")
            if right is not None and at > start.next:
                n += 1
                written.discard(key)
                self._oracle(key, right, end.next)
        if written:
            raise Violation(f"{self._group.name}: {written} are written at {end.next}, nothing changed them")
        return n

    def finish(self, store: Mapping[str, bytes]) -> int:
        """Compares every state as it stands."""
        self._read(len(self._log))
        for key, versions in self._versions.items():
            at, right = versions[-1]
            if key not in store and self._gone(key, right, self._clock):
                continue
            if store.get(key) != right:
                raise Violation(f"{self._group.name}: {key} is not the fold of the log")
            if right is not None:
                self._oracle(key, right, at)
        return len(self._versions)

    def _gone(self, key: str, data: bytes | None, clock: int) -> bool:
        """Whether a state may have been removed, or is not there yet."""
        return data is None or newest_of(data) <= clock - self._retain[key[: key.index(".") + 1]]

    def _oracle(self, key: str, data: bytes, end: int) -> None:
        """Reads a state now and as of another time, and compares with loops over the events of its entity."""
        prefix, _, entity = key.partition(".")
        watched = self._entities.get(f"{prefix}.")
        if watched is None:
            return
        entities, readers = watched
        plan = entities.plan
        there = entities.accepted(entity, end)
        if not there:
            raise Violation(f"{self._group.name}: {key} at {end} is a state of no events")
        newest = max(e.t for e in there)
        lateness = self._source.lateness
        other = newest - lateness + 1 + (end * 7_919_000_003) % (lateness + 8 * DAY)
        t = newest if end % 2 else other
        state = decode(plan, data) if end % 4 < 2 else opened(plan, data)
        for view, reader in readers:
            row = reader.read([state], t, None)
            for feature, value in zip(view.features, row.values, strict=True):
                right = _value(feature, there, t)
                if oracle.bits(value) != oracle.bits(right):
                    name = f"{view.__name__}.{feature.name} of {entity} at {end}, read as of {t - newest:+}"
                    raise Violation(f"{name} ms, is {value!r}, not {right!r}")


def _version(versions: list[tuple[int, bytes | None]], end: int) -> tuple[int, bytes | None]:
    return next((version for version in reversed(versions) if version[0] <= end), (0, None))


@cache
def _readers(project: Project, plan: StatePlan) -> list[tuple[type[FeatureView], Reader]]:
    views = [view for view in project.views if plan_for(view, project.plans) is plan]
    return [(view, Reader(view, plan)) for view in views]


def _value(feature: Any, events: Sequence[oracle.Event], t: int) -> Any:
    assert isinstance(feature.window, Sliding)
    window = oracle.Sliding(feature.window.width, feature.window.delay)
    a = feature.aggregation
    wanted = oracle.Wanted(type(a).__name__, a.column.name if a.column else "")
    return oracle.value(wanted, oracle.members(events, window, t), t - window.delay)


class _Join:
    """One partition of a model's log, joined record by record."""

    def __init__(
        self, deployment: Deployment, model: Model, group: Group, sent: Sent, *, alone: bool
    ) -> None:
        self._alone = alone  # no other definition writes to its samples
        label = model.spec.label
        assert label is not None
        feeds = tuple(group.name for group in deployment.groups[label.source.topic])
        self._rules = rules_of(deployment.project, model, feeds)
        named = naming(model.spec.request, deployment.project.entities.values())
        self._join = Join(self._rules, group.name, named)
        self._model, self._group, self._sent = model, group, sent
        self._read = 0
        self._released: list[Sample] = []
        self._logged: dict[int, LoggedPrediction] = {}
        self._forgets: list[tuple[int, str, str]] = []

    def _to(self, end: int) -> None:
        for offset, entry in self._sent.read().entries[self._group.partition][self._read :]:
            if offset >= end:
                break
            self._read += 1
            record = read_record(msgspec.json.encode(entry))
            if isinstance(record, LoggedPrediction):
                self._logged[offset] = record
            if isinstance(record, ForgetRecord) and self._join.forgets(record):
                self._forgets.append((offset, record.entity, record.key))
            left = self._join.step(record, offset)
            left = self._join.kept(left, self._logged)
            self._released += settle(left, self._logged, self._group.name, self._rules.name)

    def check(self, end: int) -> None:
        """All that the log up to here releases has been sent, as it is; what it forgets, behind what left before."""
        self._to(end)
        for at, *whom in self._forgets:
            before = [self._sent.firsts.get(origin, 0) for origin in self._origins(at)]
            told = self._sent.markers.get((whom[0], whom[1]), [])
            if at < end and max(told, default=-1) < max(before, default=0):
                raise Violation(f"{self._group.name}: {end} is committed, what {at} forgets not sent")
        for sample in self._released:
            if sample.offset >= end:
                return
            origin = (sample.fingerprint, sample.source, sample.offset, sample.index)
            if self._sent.origins.get(origin) != sample:
                raise Violation(f"{self._group.name}: {end} is committed, {sample.id} of {origin} not sent")

    def _counted_again(self) -> None:
        """What came after the last thing that was forgotten stands behind it, too, if that was told again."""
        if len(self._sent.entries) > 1 or not self._alone:
            return  # each partition of the log, and each definition, tells it for itself
        for at, *whom in self._forgets:
            if (whom[0], whom[1]) in {(entity, key) for later, entity, key in self._forgets if later > at}:
                continue
            told = max(self._sent.markers[whom[0], whom[1]])
            for s in self._released:
                if s.offset > at and self._sent.lasts[s.fingerprint, s.source, s.offset, s.index] < told:
                    raise Violation(
                        f"{self._group.name}: {s.id} stands before what {at} forgets, and only there"
                    )

    def _origins(self, end: int) -> Iterator[tuple[str, str, int, int]]:
        for s in self._released:
            if s.offset < end:
                yield s.fingerprint, s.source, s.offset, s.index

    def finish(self, end: int, thorough: bool) -> None:
        """Nothing else has been sent, and in this order; thorough: as the oracle of the join has it."""
        self.check(end)
        self._counted_again()
        name, fingerprint = self._group.name, self._model.fingerprint
        mine = [
            sample
            for (of, source, *_), sample in self._sent.origins.items()
            if source == name and of == fingerprint
        ]
        released = [sample for sample in self._released if sample.fingerprint == fingerprint]
        if mine != released:
            raise Violation(f"samples of {name}: {[s.id for s in mine]}, not {[s.id for s in released]}")
        if not thorough:
            return
        right = Oracle(self._rules, name, _names)
        for offset, entry in self._sent.entries[self._group.partition]:
            right.fold(entry, offset)
        told = [_without_index(sample) for sample in right.samples if sample.fingerprint == fingerprint]
        if [_without_index(sample) for sample in mine] != told:
            raise Violation(f"samples of {name}: {[s.id for s in mine]}, not {[s.id for s in told]}")


def _names(event: bytes) -> set[tuple[str, str]]:
    told = msgspec.json.decode(event)
    return {(entity, told[entity]) for entity in ("card", "shop")}


def _without_index(sample: Sample) -> Sample:
    # foreign ones are counted by the oracle alone, and it has no names for rules
    return msgspec.structs.replace(sample, index=0, rules="")


class _Learner:
    """The model that River makes of the samples, without a learner."""

    def __init__(self, model: Model, sent: Sent) -> None:
        label = model.spec.label
        assert label is not None
        self._model, self._sent = model, sent
        self._corrections = label.learn_corrections
        self._river = copy.deepcopy(model.spec.learner)
        self._version = 0
        self._digests: dict[int, str] = {}

    def check(self, end: int, header: Any) -> None:
        """A snapshot of the samples before an offset is the fold of them."""
        samples = self._sent.read().learnt(self._model.fingerprint, end, self._corrections)
        if header.version != len(samples):
            raise Violation(f"version {header.version} after {len(samples)} samples, at {end}")
        if header.digest != self._digest(samples):
            raise Violation(f"version {header.version} is not the fold of its samples")

    def finish(self, header: Any) -> None:
        """What is served is the fold of all samples."""
        if header is not None:
            self.check(len(self._sent.read().samples), header)
        elif self._sent.read().learnt(self._model.fingerprint, 1 << 60, self._corrections):
            raise Violation("nothing is served")

    def _digest(self, samples: Sequence[Sample]) -> str:
        version = len(samples)
        if version not in self._digests:
            if version < self._version:
                self._river, self._version = copy.deepcopy(self._model.spec.learner), 0
            for sample in samples[self._version :]:
                x = dict(zip(self._model.vector.names, sample.vector, strict=True))
                x = {name: value for name, value in x.items() if value is not None}
                self._river.predict_proba_one(x)
                self._river.learn_one(x, sample.label)
            self._version = version
            self._digests[version] = digest(self._river)
        return self._digests[version]


class _Only:
    """A log in which the predictions of other vectors are left out of one model's log."""

    def __init__(self, log: Any, model: Model) -> None:
        self._log, self._model = log, model
        self.bounds = log.bounds

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[Any]]:
        for batch in self._log.read(topic, partition, start, end):
            yield [r for r in batch if topic != self._model.log_topic or self._mine(r)]

    def _mine(self, record: Any) -> bool:
        return self._model.fingerprint.encode() in (record.value or b"")
