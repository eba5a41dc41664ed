"""A log on disk: what a broker in memory would forget, kept as files that can be read like a broker's log.

One file for each partition, NDJSON of `[offset, timestamp, key, value]` with key and value as base64. Beside them
`layouts.json` says which states served which file when the predictions were made: they decide what a prediction was
made of as much as the log does.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import orjson

from features.store import Adoption

from .errors import SpoolDamaged
from .log import NO_TOPIC_ID, Bounds, Record

_STEP = 1 << 16
_LAYOUTS = "layouts.json"
_Line = tuple[int, int, bytes | None, bytes | None]  # msgspec reads bytes from base64
_decoder: msgspec.json.Decoder[_Line] = msgspec.json.Decoder(_Line)


class Spool:
    """Records of several topics in one folder, appended in the order of their offsets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[tuple[str, int], IO[bytes]] = {}
        self._ends: dict[tuple[str, int], int] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def declare(self, topic: str, partitions: int) -> None:
        """Makes the files of a topic, so that an empty one is known too."""
        for number in range(partitions):
            self._path(topic, number).touch()

    def append(self, topic: str, partition: int, records: Sequence[Any]) -> None:
        """Writes records; those that are there already are skipped."""
        end = self._ends.get((topic, partition))
        if end is None:
            end = self._ends[topic, partition] = self._end(topic, partition)
        new = [record for record in records if record.offset >= end]
        if not new:
            return
        file = self._files.get((topic, partition))
        if file is None:
            file = self._files[topic, partition] = self._path(topic, partition).open("ab")
        file.write(b"".join(_line(record) for record in new))
        file.flush()
        self._ends[topic, partition] = new[-1].offset + 1

    def bounds(self, topic: str) -> Mapping[int, Bounds]:
        """Returns the bounds of each partition; a spool begins at 0."""
        found = {}
        for path in self.folder.glob(f"{topic}@*.ndjson"):
            number = int(path.stem.rpartition("@")[2])
            end = self._ends.get((topic, number))
            found[number] = Bounds(NO_TOPIC_ID, 0, self._end(topic, number) if end is None else end)
        return found

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[Record]]:
        """Yields records from start up to, not including, end.

        Raises:
            SpoolDamaged: a line is no record.
        """
        path = self._path(topic, partition)
        if not path.exists():
            return
        batch: list[Record] = []
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # somebody is writing it now
                offset, timestamp, key, value = _read(path, line)
                if offset >= end:
                    break
                if offset >= start:
                    batch.append(Record(offset, timestamp, key, value, ()))
                if len(batch) == 1000:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def keep_layouts(self, decided: Mapping[str, Sequence[Adoption]]) -> None:
        """Writes what was decided for each topic, whole or not at all."""
        path = self.folder / _LAYOUTS
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(decided))
        part.replace(path)

    def layouts(self) -> dict[str, list[Adoption]]:
        """Returns what was decided for each topic, oldest first; nothing where the spool was made without.

        Raises:
            SpoolDamaged: the file is not what was written.
        """
        path = self.folder / _LAYOUTS
        if not path.exists():
            return {}
        try:
            return msgspec.json.decode(path.read_bytes(), type=dict[str, list[Adoption]])
        except (msgspec.DecodeError, ValueError) as error:
            raise SpoolDamaged(path, str(error)) from None

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _path(self, topic: str, partition: int) -> Path:
        return self.folder / f"{topic}@{partition}.ndjson"

    def _end(self, topic: str, partition: int) -> int:
        """Returns the offset after the last whole line, found from the end of the file."""
        path = self._path(topic, partition)
        if not path.exists():
            return 0
        with path.open("rb") as file:
            tail, at = b"", file.seek(0, os.SEEK_END)
            while at and tail.count(b"\n") < 2:
                step = min(at, _STEP)
                at = file.seek(at - step)
                tail = file.read(step) + tail
        lines = tail.splitlines(keepends=True)
        whole = [line for line in lines[-2:] if line.endswith(b"\n")]
        return _read(path, whole[-1])[0] + 1 if whole else 0


def _line(record: Any) -> bytes:
    key = None if record.key is None else base64.b64encode(record.key).decode()
    value = None if record.value is None else base64.b64encode(record.value).decode()
    return orjson.dumps([record.offset, record.timestamp, key, value]) + b"\n"


def _read(path: Path, line: bytes) -> _Line:
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, ValueError) as error:
        raise SpoolDamaged(path, f"{line[:80]!r} is no record ({error})") from None
