"""The feed of models: the newest version that the learner has committed, ready to be asked."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Collection, Sequence

from features import keys as names
from features.errors import StoreError
from features.store import Store

from .deployment import Deployment
from .errors import SnapshotError
from .predictor import Predictor
from .snapshot import Key, open_sealed, peek
from .spec import Model

log = logging.getLogger("headrace.feed")

HEAD = 512  # bytes that tell two envelopes apart: they hold the body's SHA-256 and the version
_INLINE = 1 << 18  # a body up to this size loads in less than the loop may be held up
_PATIENCE = 1.0  # longest pause, in seconds, while the store is away


class _Followed:
    """One model, the key of its snapshots, and what was last seen there."""

    def __init__(self, model: Model, key: str) -> None:
        self.model = model
        self.key = key
        self.head: bytes | None = None
        self.predictor = Predictor.untrained(model)
        self.ready = False


class ModelFeed:
    """Keeps the newest predictor of each model of a deployment.

    A snapshot that no key of ours sealed, or that was learned from another vector, is never served: it is
    counted and logged once, and the last good one stays.

    Args:
        store: where the learner commits its snapshots.
        deployment: whose models are followed.
        keys: that snapshots may be sealed with.
        interval: seconds between two looks; one look is one small trip for all models.
        allow: modules of the project whose classes a learner may hold.
    """

    def __init__(
        self,
        store: Store,
        deployment: Deployment,
        keys: Sequence[Key],
        interval: float = 0.05,
        *,
        allow: Collection[str] = (),
    ) -> None:
        self._store = store
        self._keys = tuple(keys)
        self._interval = interval
        self._allow = tuple(allow)
        self._followed = {
            model.name: _Followed(model, names.model(deployment.groups[model.samples_topic][0].tag))
            for model in deployment.project.models
        }
        self.swaps: Counter[str] = Counter()
        """Versions taken over, by model."""
        self.refused: Counter[tuple[str, str]] = Counter()
        """Snapshots not taken over, by model and the error's name."""

    def predictor(self, name: str) -> Predictor:
        """Returns the newest version of a model; version 0 while there is no snapshot."""
        return self._followed[name].predictor

    def ready(self, name: str) -> bool:
        """Whether it is known which version to serve: the store was asked, and has no bad snapshot only."""
        return self._followed[name].ready

    async def run(self) -> None:
        """Looks again and again, until it is cancelled; an error of the store is waited out."""
        pause, away = self._interval, False
        while True:
            try:
                await self.poll()
            except StoreError as error:
                if not away:
                    log.warning("models stay as they are: %s", error)
                away, pause = True, min(_PATIENCE, 2 * pause)
            else:
                away, pause = False, self._interval
            await asyncio.sleep(pause)

    async def poll(self) -> None:
        """Looks once and takes over what is new.

        Raises:
            StoreError: the store did not answer.
        """
        followed = list(self._followed.values())
        heads = await self._store.heads([one.key for one in followed], HEAD)
        for one, head in zip(followed, heads, strict=True):
            if head is None:
                one.ready = True  # nothing was learned yet, or the store was emptied: the last good one stays
            elif head != one.head:
                await self._take(one)

    async def _take(self, one: _Followed) -> None:
        data = await self._store.get(one.key)
        if data is None:
            return
        one.head = data[:HEAD]  # the value may be newer than the head that was seen
        try:
            if len(data) <= _INLINE:
                predictor = self._load(one.model, data)
            else:
                predictor = await asyncio.to_thread(self._load, one.model, data)
        except SnapshotError as error:
            self._refuse(one, error)
            log.warning("model %s stays at version %d: %s", one.model.name, one.predictor.version, error)
        except Exception as error:  # unpickling runs constructors of the project, which may raise anything
            self._refuse(one, error)
            log.exception("model %s stays at version %d", one.model.name, one.predictor.version)
        else:
            one.predictor = predictor
            one.ready = True
            self.swaps[one.model.name] += 1

    def _refuse(self, one: _Followed, error: Exception) -> None:
        self.refused[one.model.name, type(error).__name__] += 1

    def _load(self, model: Model, data: bytes) -> Predictor:
        header = peek(data, self._keys)
        if header.fingerprint != model.fingerprint:
            raise SnapshotError(
                f"version {header.version} of {model.name} was learned from another vector",
                why=f"its fingerprint is {header.fingerprint}, this project's is {model.fingerprint}",
                fix="restart the learner and the API from the same project file",
            )
        collecting = gc.isenabled()
        gc.disable()  # a load only makes objects; walking them meanwhile would double its time
        try:
            return Predictor.of(model, open_sealed(data, self._keys, self._allow))
        finally:
            if collecting:
                gc.enable()
