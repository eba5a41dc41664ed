"""A store in memory, for replays and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import keys
from .errors import StoreError
from .store import Adoption, Answer, Group, Position, Read, Status, Writes, judge


class MemoryStore:
    """Keeps everything in dictionaries, with the semantics of the store in Redis."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.hashes: dict[str, dict[bytes, bytes]] = {}
        self._groups: dict[str, str] = {}
        self._partitions: dict[str, int] = {}
        self._codes: dict[str, str] = {}
        self._layouts: dict[str, dict[str, Adoption]] = {}

    async def groups(self, project: str, topic: str, plans: str, partitions: int) -> list[Group]:
        """Returns the groups of a topic."""
        known = self._partitions.setdefault(f"{project}/{topic}", partitions)
        if known != partitions:
            raise partitions_changed(topic, known, partitions)
        names = [f"{project}/{topic}/{p}/{plans}" for p in range(partitions)]
        return [
            Group(topic, p, keys.tag(self._groups.setdefault(name, keys.spread(len(self._groups)))))
            for p, name in enumerate(names)
        ]

    async def codes(self, fingerprints: Sequence[str]) -> dict[str, str]:
        """Returns the code of each plan."""
        return {f: self._codes.setdefault(f, keys.code(len(self._codes))) for f in fingerprints}

    async def layouts(self, project: str, topic: str) -> list[Adoption]:
        """Returns what was decided for a topic, oldest first."""
        return list(self._layouts.get(keys.layouts(project, topic), {}).values())

    async def adopt(self, project: str, topic: str, adoption: Adoption) -> None:
        """Remembers a decision, unless there is one."""
        self._layouts.setdefault(keys.layouts(project, topic), {}).setdefault(adoption.needed, adoption)

    async def claim(self, group: Group, initial: Position, reader: str = "") -> Position:
        """Takes the group over."""
        key = keys.position(group.tag, reader)
        if key not in self.values:
            self.values[key] = initial.pack()
        stored = Position.unpack(self.values[key])
        if stored.topic_id != initial.topic_id:
            raise topic_changed(group)
        taken = stored._replace(token=initial.token)
        self.values[key] = taken.pack()
        return taken

    async def commit(
        self, group: Group, start: Position, end: Position, writes: Writes, reader: str = ""
    ) -> Answer:
        """Writes all or nothing."""
        key = keys.position(group.tag, reader)
        if key not in self.values:
            return Answer(Status.MISMATCH, Position.start(start.topic_id))
        stored = Position.unpack(self.values[key])
        status = judge(stored, start, end)
        if status is not Status.APPLIED:
            return Answer(status, stored)
        if writes.fields and writes.hash_key in self.values:
            raise StoreError(f"{writes.hash_key} is not a hash", where=group.name)
        if taken := [name for name in writes.patches if name in self.hashes]:
            raise StoreError(f"{taken[0]} is a hash", where=group.name)
        if any(len(self.values.get(name, b"")) != patch.size for name, patch in writes.patches.items()):
            return Answer(Status.MISMATCH, stored)
        for name, patch in writes.patches.items():
            self.values[name] = patch.onto(self.values[name])
        self.values.update(writes.sets)
        for gone in writes.deletes:
            self.values.pop(gone, None)
        if writes.hash_key:
            fields = self.hashes.setdefault(writes.hash_key, {})
            for field, value in writes.fields.items():
                if value is None:
                    fields.pop(field, None)
                else:
                    fields[field] = value
        self.values[key] = end.pack()
        return Answer(status, end)

    async def read(self, wanted: Mapping[Group, Sequence[str]]) -> dict[Group, Read]:
        """Returns values and positions."""
        found = {}
        for group, names in wanted.items():
            stored = self.values.get(keys.position(group.tag))
            position = None if stored is None else Position.unpack(stored)
            found[group] = Read(position, [self.values.get(name) for name in names])
        return found

    async def get(self, key: str) -> bytes | None:
        """Returns one value."""
        return self.values.get(key)

    async def heads(self, keys: Sequence[str], size: int) -> list[bytes | None]:
        """Returns the first bytes of values."""
        return [value[:size] if (value := self.values.get(key)) else None for key in keys]

    async def tell(self, key: str, field: str, value: bytes) -> None:
        """Sets a field of a hash."""
        self.hashes.setdefault(key, {})[field.encode()] = value

    async def note(self, values: Mapping[str, bytes]) -> None:
        """Sets values."""
        self.values.update(values)

    async def scan(self, prefix: str, cursor: int) -> tuple[int, list[str]]:
        """Returns all keys that begin with a prefix."""
        return 0, [key for key in self.values if key.startswith(prefix)]

    async def fields(self, key: str) -> list[tuple[bytes, bytes]]:
        """Returns everything in a hash."""
        return list(self.hashes.get(key, {}).items())

    async def close(self) -> None:
        """Has nothing to give back."""


def partitions_changed(topic: str, known: int, partitions: int) -> StoreError:
    """Returns the error of a topic whose keys have moved to other partitions."""
    return StoreError(
        f"topic {topic} has {partitions} partitions, but its features were made with {known}",
        why="adding partitions moves keys, so the states would be split between old and new places",
        fix=f"go back to {known} partitions, or name a new topic version and read it from its start",
    )


def topic_changed(group: Group) -> StoreError:
    """Returns the error of a topic that was deleted and made again under its name."""
    return StoreError(
        f"topic {group.topic} is not the one that the features of {group.name} were folded from",
        why="it was deleted and created again: its offsets mean other records now",
        fix="name a new topic version, or remove the old features with a new project name",
    )
