"""The engine: every stage of a worker, driven by polls.

Sources that the worker owns are folded in the order of event time while there is a backlog, so that no state runs
further ahead of a waiting request than it can answer for. Learners and joins go on beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from features import keys
from features.clock import NEVER
from features.partition import partition_of
from features.store import NO_TOPIC, Group, Position
from models.spec import Model

from .chain import Asked, Chain
from .context import Context
from .elsewhere import END, RECENT, Elsewhere, Mark
from .fold_stage import FoldStage
from .join_stage import JoinStage
from .learn_stage import LearnStage
from .log import Bounds, Partition
from .score_stage import Moved, ScoreStage, outcomes_read
from .stage import Rewound, Stage
from .stalls import Stall, Stalls, Stand
from .transport import Flow

log = logging.getLogger("headrace.worker")

S = TypeVar("S", bound=Stage)

ROLES = ("features", "join", "learn")
CHECK = 1.0  # seconds between two comparisons with the positions in the store


class Engine:
    """A processor of polls: which stages a partition has, and in which order they work.

    Args:
        context: what the stages share.
        roles: which of "features", "join" and "learn" this process plays.
    """

    def __init__(self, context: Context, roles: Collection[str] = ROLES) -> None:
        self.context = context
        self.roles = frozenset(roles)
        self.stages: dict[Partition, list[Stage]] = {}
        self._ends: dict[
            Partition, int
        ] = {}  # of the logs, as last seen: the flow knows nothing while a claim goes on
        self._folds: dict[Group, FoldStage] = {}
        self._flow: Flow | None = None
        self._checked = context.monotonic()
        self._stalls = Stalls(context.stall)
        project = context.deployment.project
        self._sources = {source.topic: source for source in project.sources}
        self._logs = {model.log_topic: model for model in project.models}
        self._samples = {model.samples_topic: model for model in project.models}
        # twice that is less than the lateness: of two workers each may be that far ahead of what it knows of the other
        self._slack = (min((source.lateness for source in project.sources), default=1) - 1) // 2
        self._elsewhere: Elsewhere | None = None
        self._others: list[Group] = []  # whose requests another worker scores
        self._chains: dict[str, Chain] = {}  # of the models whose outcomes are read
        self._shared = False  # whether this process folds some of the sources' partitions and not all

    def topics(self) -> dict[str, int]:
        """Returns the topics that these roles read, with their partitions."""
        groups = self.context.deployment.groups
        wanted: list[str] = []
        if "features" in self.roles:
            wanted.extend(self._sources)
        if "join" in self.roles:
            wanted.extend(self._logs)
        if "learn" in self.roles:
            wanted.extend(self._samples)
        return {topic: len(groups[topic]) for topic in dict.fromkeys(wanted)}

    # the processor of the transport

    def attach(self, flow: Flow) -> None:
        """Receives the way to steer the transport."""
        self._flow = flow
        self._elsewhere = Elsewhere(self.context, flow.ends)

    async def assigned(
        self, partitions: frozenset[Partition], bounds: Mapping[Partition, Bounds]
    ) -> Mapping[Partition, int]:
        """Claims partitions and returns where to read each from."""
        resume: dict[Partition, int] = {}
        self.stages = {}  # a claim that was cut short may have left some
        self._ends = {partition: bounds[partition].highwater for partition in partitions}
        for partition in sorted(partitions):
            stages = await self._claim(partition, bounds[partition])
            self.stages[partition] = stages
            resume[partition] = min(stage.next for stage in stages)
        self._bind()
        return resume

    async def revoked(self, partitions: frozenset[Partition]) -> None:
        """Finishes what is in hand and lets go."""
        if self._elsewhere is not None:
            await self._elsewhere.close()
        for partition in partitions:
            await self._give_up(partition)
        self.context.metrics.lag.clear()  # whoever takes them over tells of them; what is kept follows at once
        self.context.metrics.held.clear()
        self._bind()

    async def _give_up(self, partition: Partition) -> None:
        for stage in self.stages.pop(partition, []):
            try:
                await stage.finish()
            except Rewound:
                log.info("%s: moved on while it was given up", stage.group.name)

    def _bind(self) -> None:
        """Tells the stages who folds what, after the partitions of this process have changed."""
        self._folds = {stage.group: stage for stage in self._of(FoldStage)}
        deployment = self.context.deployment
        chained = outcomes_read(deployment.project, deployment.project.models)
        self._chains = {} if self._elsewhere is None else {m.name: self._chain(m) for m in chained}
        for stage in self._of(ScoreStage):
            stage.bind(self._folds, self._elsewhere, self._chains)
        self._share()

    def _share(self) -> None:
        """Tells whose requests others score: also those of partitions that others have taken over."""
        deployment = self.context.deployment
        mine = {group for group, fold in self._folds.items() if not fold.fenced}
        asked = {model.spec.request.topic for model in deployment.project.models}
        self._others = [g for topic in asked for g in deployment.groups[topic] if g not in mine]
        every = [g for source in deployment.project.sources for g in deployment.groups[source.topic]]
        self._shared = 0 < len(mine) < len(every)

    def _chain(self, model: Model) -> Chain:
        groups = self.context.deployment.groups
        assert self._elsewhere is not None
        return Chain(
            self._elsewhere,
            groups[model.log_topic],
            groups[model.samples_topic],
            self.context.monotonic,
        )

    def wants(self, partition: Partition) -> bool:
        """Whether every stage of a partition has room."""
        stages = self.stages.get(partition)
        return stages is not None and all(stage.wants() for stage in stages)

    async def polled(self, partition: Partition, records: Sequence[Any], highwater: int) -> None:
        """Gives a poll to the stages of its partition and does what is due."""
        stages = self.stages.get(partition)
        if stages is None or not records:
            return
        end = records[-1].offset + 1
        if self._flow is not None:
            end = max(end, self._flow.position(partition))
        try:
            for stage in stages:
                await stage.take(records, end)
        except Rewound:
            self._reread(partition)
        await self.advance()
        topic, number = partition
        # the flow counts this poll as delivered when we return
        self.context.metrics.lag.labels(topic, number).set(max(0, highwater - end))

    async def idle(self) -> None:
        """Goes on with what waits."""
        await self.advance()

    # the work

    async def advance(self) -> None:
        """Folds and scores as far as time allows; publishes what is due."""
        await self._check()
        self._look()
        self._look_elsewhere()
        more = True
        while more:
            more = await self._fold() or await self._score()
        await self._speak()
        for partition, stages in list(self.stages.items()):
            for stage in stages:
                try:
                    await stage.work()
                except Rewound:
                    self._reread(partition)
        self._measure()

    def _measure(self) -> None:
        """Says how far every partition lags and how many requests wait in it, whether or not a poll came."""
        metrics, flow = self.context.metrics, self._flow
        for partition in self.stages:
            topic, number = partition
            if flow is not None:
                end = self._ends[partition] = flow.highwater(partition)
                metrics.lag.labels(topic, number).set(max(0, end - flow.position(partition)))
            scorer = self._scorer(partition)
            if scorer is not None:
                metrics.held.labels(topic, number).set(len(scorer.pending))

    async def _check(self) -> None:
        """Compares now and then where the store stands: it may have gone back while there was nothing to commit."""
        now, store = self.context.monotonic(), self.context.store
        if now - self._checked < CHECK:
            return
        self._checked = now
        stages: dict[Group, list[Stage]] = {}
        for stage in self._of(Stage):
            stages.setdefault(stage.group, []).append(stage)
        wanted = {g: [keys.position(g.tag, s.reader) for s in some] for g, some in stages.items()}
        found = await self.context.patiently("read positions", lambda: store.read(wanted))
        nexts: dict[Partition, tuple[int, ...]] = {}
        for group, some in stages.items():
            for stage, value in zip(some, found[group].values, strict=True):
                stored = Position.start(NO_TOPIC) if value is None else Position.unpack(value)
                nexts[stage.partition] = (*nexts.get(stage.partition, ()), stored.next)
                try:
                    await stage.check(stored)
                except Rewound:
                    self._reread(stage.partition)
        for stall in self._stalls.look(self.context.monotonic(), self._stands(nexts)):
            await self._claim_again(stall)

    def _stands(self, nexts: Mapping[Partition, tuple[int, ...]]) -> dict[Partition, Stand]:
        """Returns where the partitions stand that should move, which are not those that wait for something.

        One that another worker has taken over moves with that worker, unless there is none: a claim that was on its way
        when its owner lost the partition, or died, takes it over from the one that the group has given it to since.
        """
        stands: dict[Partition, Stand] = {}
        flow = self._flow
        for partition, stored in nexts.items():
            if flow is None:
                continue
            end = flow.highwater(partition)
            if any(stage.fenced for stage in self.stages[partition]):
                stands[partition] = Stand(stored, end)
            elif self.wants(partition):
                stands[partition] = Stand((flow.position(partition),), end)
        return stands

    async def _claim_again(self, stall: Stall) -> None:
        """Gives a partition up that stands still, and claims it anew."""
        partition, (positions, end), seconds = stall
        log.warning(
            "%s/%d has stood at %d for %.0f s while its log has grown to %d: claiming it again",
            *partition,
            min(positions),
            seconds,
            end,
        )
        self.context.metrics.restarts.labels(partition.topic).inc()
        first = self.stages[partition][0].position
        await self._give_up(partition)
        stages = await self._claim(partition, Bounds(first.topic_id, first.first, end))
        self.stages[partition] = stages
        self._bind()
        self._reread(partition)

    def _look(self) -> None:
        flow = self._flow
        for partition, stages in self.stages.items():
            for stage in stages:
                if isinstance(stage, FoldStage):
                    # the last offset may hold a transaction's marker, which no poll brings
                    stage.ended = flow is None or (
                        max(stage.read, flow.position(partition)) >= flow.highwater(partition)
                    )

    def _look_elsewhere(self) -> None:
        """Asks how far other workers have come where something here waits for them, and tells them how far this has."""
        silent = [fold for fold in self._folds.values() if fold.silent]
        if self._elsewhere is None or not self._folds or not (self._shared or self._chains or silent):
            return
        behind = [fold for fold in self._folds.values() if fold.inbox or not fold.ended]
        asking = [stage for stage in self._of(ScoreStage) if stage.pending]
        if not behind and not asking and not silent:
            return
        wanted = dict.fromkeys(group for stage in asking for group in stage.distant())
        wanted.update(dict.fromkeys(self._others))
        groups = self.context.deployment.groups
        wanted.update(dict.fromkeys(group for fold in silent for group in groups[fold.partition.topic]))
        wanted.update(dict.fromkeys(group for chain in self._chains.values() for group in chain.groups))
        marks = {fold.group: self._mark(fold) for fold in self._folds.values() if not fold.fenced}
        waiting = any(stage.waits_elsewhere() for stage in asking)
        self._elsewhere.look(wanted, marks if self._shared else {}, waiting)
        if waiting:
            for name, chain in self._chains.items():
                model = self.context.deployment.project.model(name)
                next_ones = [one for stage in asking if (one := stage.next_one()) is not None]
                known = partial(self._outcomes_known, model)
                chain.turn(self._labels_front(model), self._samples_front, next_ones, known)

    def _labels_front(self, model: Model) -> int:
        """Returns the event time that labels which are not in the model's log yet have at least."""
        assert model.spec.label is not None
        return min(map(self._front, self.context.deployment.groups[model.spec.label.source.topic]))

    def _front(self, group: Group) -> int:
        """Returns the event time that everything still to come of a group has at least, whoever folds it."""
        fold = self._folds.get(group)
        if fold is not None and not fold.fenced:
            return fold.front()
        assert self._elsewhere is not None
        return self._elsewhere.front(group, self.context.monotonic() - RECENT)

    def _samples_front(self, group: Group) -> int:
        """Returns the event time up to which the next sample shows that all have been folded.

        Samples stand in the order in which they were joined, so it tells of those before it only beyond the slack.
        """
        return self._front(group) - self._slack

    def _outcomes_known(self, model: Model) -> tuple[int, Collection[Asked]]:
        """Returns when the first outcome of a request that waits is known, by the labels in the joins of this process.

        With it comes that request, after those that stand before it in its partition, whatever their times.
        """
        joins = {stage.partition: stage.join for stage in self._of(JoinStage) if stage.model is model}
        partitions = self.context.partitions(model.log_topic)
        bound = END
        first: Iterable[Asked] = ()
        for stage in self._of(ScoreStage):
            if stage.source is not model.spec.request:
                continue
            for k, (ident, t) in enumerate(stage.asked()):
                join = joins.get(Partition(model.log_topic, partition_of(ident.encode(), partitions)))
                label_t = None if join is None else join.early_label(ident)
                if label_t is not None and max(t, label_t) < bound:
                    bound, first = max(t, label_t), islice(stage.asked(), k + 1)
        return bound, frozenset(first)

    async def _speak(self) -> None:
        """Lets silent partitions go by the clock of their source, if their logs have just been seen to end."""
        for fold in self._folds.values():
            if fold.silent and self._elsewhere is not None:
                clocks = map(self._elsewhere.clock, self.context.deployment.groups[fold.partition.topic])
                if self._elsewhere.reached(fold.group) > self.context.monotonic() - 2 * RECENT:
                    await fold.speak(max(clocks))

    def _mark(self, fold: FoldStage) -> Mark:
        scorer = self._scorer(fold.partition)
        return fold.mark(fold.next if scorer is None else scorer.next, self._asks(fold))

    def _asks(self, fold: FoldStage) -> int | None:
        """Returns the time of the request of a partition that is scored next; None where none waits.

        One that has not come yet, after a claim, is hardly older than the clock of the fold that has passed it.
        """
        scorer = self._scorer(fold.partition)
        if scorer is None:
            return None
        coming = self._flow is not None and self._flow.position(fold.partition) < fold.next
        return fold.fold.position.clock if coming and not scorer.pending else scorer.oldest()

    async def _fold(self) -> bool:
        """Folds what every partition has up to one event time; the partitions wait for their outputs side by side."""
        folds = [fold for fold in self._of(FoldStage) if not fold.fenced]
        waiting = [t for t in map(self._asks, folds) if t is not None]
        if self._elsewhere is not None and self._shared:
            waiting.extend(self._elsewhere.asks(group) for group in self._others)
        behind = [fold for fold in folds if fold.read != fold.next]
        if not behind:
            return False
        limit = min((*(fold.front() for fold in folds), *waiting), default=NEVER) + self._slack
        return any(await asyncio.gather(*(self._fold_one(fold, limit) for fold in behind)))

    async def _fold_one(self, fold: FoldStage, limit: int) -> bool:
        scorer = self._scorer(fold.partition)
        if scorer is not None and not scorer.wants():
            return False  # its requests must be scored first; they wait for others, never for it
        try:
            folded = await fold.fold_until(limit)
        except Rewound:
            self._reread(fold.partition)
            return False
        if scorer is not None:
            for prepared, record in folded or ():
                scorer.queue(prepared, record)
        return folded is not None

    async def _score(self) -> bool:
        """Scores what need not wait; nothing is folded meanwhile, so every request sees committed states."""
        stages = [stage for stage in self._of(ScoreStage) if stage.pending and not stage.fenced]
        return bool(stages) and any(await asyncio.gather(*(self._score_one(stage) for stage in stages)))

    async def _score_one(self, stage: ScoreStage) -> bool:
        try:
            return await stage.score(stage.holds())
        except Rewound:
            self._reread(stage.partition)
        except Moved:
            self._forget_others()
            self._checked = -1e18  # the stages of this process are to hear of it now
        return False

    def _forget_others(self) -> None:
        if self._elsewhere is not None:
            self._elsewhere.forget()

    def _reread(self, partition: Partition) -> None:
        """Reads a partition again from where its stages stand; what was fetched is dropped."""
        self._forget_others()
        self._share()
        stages = self.stages[partition]
        for stage in stages:
            if isinstance(stage, FoldStage):
                stage.rewind_inbox()
            elif isinstance(stage, ScoreStage):
                stage.rewind()
        if self._flow is not None:
            self._flow.seek(partition, min(stage.next for stage in stages))

    async def _claim(self, partition: Partition, bounds: Bounds) -> list[Stage]:
        topic, number = partition
        context = self.context
        group = context.deployment.groups[topic][number]
        stages: list[Stage] = []
        source = self._sources.get(topic)
        if source is not None and "features" in self.roles:
            position = await FoldStage.claimed(context, group, bounds.topic_id, bounds.earliest)
            fold = FoldStage(context, partition, group, position, source)
            stages.append(fold)
            if context.deployment.project.requested_by(source):
                scored = await ScoreStage.claimed(context, group, bounds.topic_id, bounds.earliest)
                stages.append(ScoreStage(context, partition, group, scored, source))
        model: Model | None = self._logs.get(topic)
        if model is not None and "join" in self.roles:
            join = JoinStage(
                context,
                partition,
                group,
                await JoinStage.claimed(context, group, bounds.topic_id, bounds.earliest),
                model,
            )
            with contextlib.suppress(Rewound):  # it stands where the store does
                await join.load()
            stages.append(join)
        model = self._samples.get(topic)
        if model is not None and "learn" in self.roles:
            learn = LearnStage(
                context,
                partition,
                group,
                await LearnStage.claimed(context, group, bounds.topic_id, bounds.earliest),
                model,
            )
            await learn.load()
            stages.append(learn)
        return stages

    def status(self) -> dict[str, Any]:
        """Returns what the console shows of this worker, as plain data."""
        context = self.context
        fresh = sorted(context.fresh)
        groups = {}
        for partition, stages in self.stages.items():
            end = self._ends[partition]
            for stage in stages:
                name = stage.group.name + (f"@{stage.reader}" if stage.reader else "")
                groups[name] = {"next": stage.next, "lag": max(0, end - stage.next)}
        models: dict[str, Any] = {}
        for learn in self._of(LearnStage):
            models[learn.model.name] = {
                "version": learn.learner.version,
                "figures": learn.figures(),
                "coverage": learn.learner.monitor.coverage,
            }
        for join in self._of(JoinStage):
            told = models.setdefault(join.model.name, {})
            told["pending"] = told.get("pending", 0) + join.join.pending_count
            told["join_full"] = told.get("join_full", False) or join.join.full
        return {
            "at_ms": context.now_ms(),
            "roles": sorted(self.roles),
            "groups": groups,
            "counts": dict(context.counts),
            "freshness_ms": {"p50": _quantile(fresh, 0.5), "p99": _quantile(fresh, 0.99), "n": len(fresh)},
            "models": models,
        }

    def _scorer(self, partition: Partition) -> ScoreStage | None:
        return next((stage for stage in self.stages[partition] if isinstance(stage, ScoreStage)), None)

    def _of(self, kind: type[S]) -> list[S]:
        return list(self._each(kind))

    def _each(self, kind: type[S]) -> Iterator[S]:
        for stages in self.stages.values():
            for stage in stages:
                if isinstance(stage, kind):
                    yield stage


def _quantile(ordered: Sequence[float], q: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None
