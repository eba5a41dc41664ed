"""Bases: every state of a group at one position, so that a recomputation need not begin where the log once did.

A base is made from the log (and an earlier base), never from the store, so it shares no fault with it. It is named by
its group, what is folded (the digest of the plans) and its position, and carries the digest of its bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from features.errors import StateCorrupt
from features.group import FoldGroup
from features.store import Group, Position

_LENGTHS = struct.Struct("<II")


class Header(msgspec.Struct, frozen=True):
    """What a base is of."""

    group: str
    plans: str
    next: int
    clock: int
    previous: int
    first: int
    states: int
    sha256: str


class Base(NamedTuple):
    """A base as it is read."""

    header: Header
    body: bytes

    def states(self) -> Iterator[tuple[str, str, bytes]]:
        """Yields (fingerprint of the plan, entity, state)."""
        at = 0
        while at < len(self.body):
            name, size = _LENGTHS.unpack_from(self.body, at)
            at += _LENGTHS.size
            fingerprint, _, entity = self.body[at : at + name].decode().partition(".")
            yield fingerprint, entity, self.body[at + name : at + name + size]
            at += name + size


class Bases:
    """The bases in one folder.

    Args:
        folder: where they are.
        plans: the digest of the plans of each topic, so that bases of another definition are not taken.
    """

    def __init__(self, folder: Path, plans: dict[str, str]) -> None:
        self.folder = folder
        self._plans = plans

    def write(self, fold: FoldGroup) -> Path:
        """Writes the states of a group as they stand; the same states give the same bytes.

        Returns:
            The file, which appears whole or not at all.
        """
        body = bytearray()
        count = 0
        for fingerprint, entity, data in sorted(fold.dump()):
            name = f"{fingerprint}.{entity}".encode()
            body += _LENGTHS.pack(len(name), len(data)) + name + data
            count += 1
        position, group = fold.position, fold.group
        header = Header(
            group.name,
            self._plans[group.topic],
            position.next,
            position.clock,
            position.previous,
            position.first,
            count,
            hashlib.sha256(body).hexdigest(),
        )
        path = self._path(group.topic, group.partition, position.next)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(header) + b"\n" + body)
        part.replace(path)
        return path

    def newest(self, fold: FoldGroup, at_most: int) -> Base | None:
        """Returns the newest base of a group at or before a position.

        Raises:
            StateCorrupt: its bytes are not those that its header names.
        """
        group = fold.group
        position = self.newest_position(group, at_most)
        if position is None:
            return None
        path = self._path(group.topic, group.partition, position)
        head, _, body = path.read_bytes().partition(b"\n")
        header = msgspec.json.decode(head, type=Header)
        if hashlib.sha256(body).hexdigest() != header.sha256:
            raise StateCorrupt(f"base {path.name} is damaged", fix="remove it and make it again")
        return Base(header, body)

    def newest_position(self, group: Group, at_most: int) -> int | None:
        """Returns the position of the newest base of a group at or before one; None where there is none."""
        named = self._path(group.topic, group.partition, 0).name.rpartition("@")[0]
        positions = [int(path.stem.rpartition("@")[2]) for path in self.folder.glob(f"{named}@*.base")]
        return max((position for position in positions if position <= at_most), default=None)

    def _path(self, topic: str, partition: int, position: int) -> Path:
        return self.folder / f"{topic}@{partition}@{self._plans[topic]}@{position:020d}.base"


def restore(fold: FoldGroup, base: Base) -> None:
    """Puts a group where a base stands."""
    header = base.header
    token = fold.position.token
    fold.drop(
        Position(fold.position.topic_id, header.next, header.clock, header.previous, header.first, token)
    )
    fold.restore(base.states())
