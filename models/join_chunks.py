"""The keeper for long horizons: 32 bytes for each prediction, and its vector in the log.

Predictions stand one behind the other, in the order in which they came: so a chunk of them is a span of time, is
stored as one field, is due together and is forgotten together. Values are little endian.

```
c<number>    up to 63 entries:  16 B digest of the id | i64 t | u64 offset of its record, with the flags in the top byte
n<digest>    the labels of one that holds some: few predictions do
```

63 entries and the head of a Redis string fill an allocation of 2 KB. An entry never moves: the number of a prediction
is that of its chunk times 63 and its place in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from heapq import heapify, heappop, heappush
from struct import Struct

import msgspec

from .join_cells import DONE, Held, Label, Writes
from .join_clocks import NEVER

ENTRY = Struct("<16sqQ")
SIZE = ENTRY.size
MANY = 63
_LAST = (1 << 40) // MANY - 1  # the number of an entry has five bytes
FURTHEST = (1 << 56) - 1  # the largest offset beside which the flags fit

_LABELLED = 16  # done, with a label that counted
_NOTED = 32  # there is a note

_NOBODY: tuple[str | None, bytes, int] = (None, b"", -1)
_Note = tuple[int | None, Label | None, Label | None]  # label_t, label, beyond
_encode = msgspec.msgpack.Encoder().encode
_note = msgspec.msgpack.Decoder(_Note).decode


def digest_of(ident: str) -> bytes:
    """Returns 128 bits of an id: nobody finds two with the same."""
    return blake2b(ident.encode(), digest_size=16).digest()


class Index:
    """Finds entries by digest: a hash table of small packed runs, about 10 bytes an entry.

    A dict would take ten times as much. It grows by one run at a time, so no record waits for a whole table to be
    built anew (linear hashing, Litwin 1980).

    Args:
        digest_at: gives the digest of an entry by its number.
    """

    _FULL = 64  # entries of a run, on average, before another run is added

    def __init__(self, digest_at: Callable[[int], bytes]) -> None:
        self._digest_at = digest_at
        self._runs = [bytearray()]  # of 8 bytes an entry: 3 of its digest, 5 of its number
        self._mask = 0  # runs from `_next` on are told by the bits of the mask, those before by one more
        self._next = 0
        self._count = 0

    def reserve(self, count: int) -> None:
        """Makes an empty index as large as it will be with so many entries."""
        runs = max(1, -(-count // self._FULL))
        self._mask = (1 << runs.bit_length() - 1) - 1
        self._next = runs - self._mask - 1
        self._runs = [bytearray() for _ in range(runs)]

    def find(self, digest: bytes) -> int:
        """Returns the number of an entry; -1 where there is none."""
        run, mark = self._runs[self._run_of(digest)], digest[13:]
        at = run.find(mark)
        while at >= 0:
            if at & 7 == 0:
                number = int.from_bytes(run[at + 3 : at + 8], "little")
                if self._digest_at(number) == digest:
                    return number
            at = run.find(mark, at + 1)
        return -1

    def add(self, digest: bytes, number: int) -> None:
        """Takes an entry whose digest is not there."""
        self._runs[self._run_of(digest)] += digest[13:] + number.to_bytes(5, "little")
        self._count += 1
        if self._count > self._FULL * len(self._runs):
            self._split()

    def remove(self, digest: bytes, number: int) -> None:
        """Lets go of an entry, if it is there."""
        run, packed = self._runs[self._run_of(digest)], digest[13:] + number.to_bytes(5, "little")
        at = run.find(packed)
        while at >= 0 and at & 7:
            at = run.find(packed, at + 1)
        if at >= 0:
            run[at : at + 8] = run[-8:]
            del run[-8:]
            self._count -= 1

    def _run_of(self, digest: bytes) -> int:
        bits = int.from_bytes(digest[:8], "little")
        run = bits & self._mask
        return run if run >= self._next else bits & (2 * self._mask + 1)

    def _split(self) -> None:
        old = self._runs[self._next]
        self._runs[self._next] = bytearray()
        self._runs.append(bytearray())
        self._next += 1
        if self._next > self._mask:
            self._mask, self._next = 2 * self._mask + 1, 0
        for at in range(0, len(old), 8):
            digest = self._digest_at(int.from_bytes(old[at + 3 : at + 8], "little"))
            self._runs[self._run_of(digest)] += old[at : at + 8]


class Chunks:
    """Keeps of each prediction what the rules need, and where its record is.

    Args:
        exact: whether the rules compare the label of a prediction that is done with later ones.
    """

    def __init__(self, exact: bool) -> None:
        self.waiting = 0
        self._exact = exact
        self._chunks: dict[int, bytearray] = {}
        self._notes: dict[bytes, bytes] = {}
        self._note_bytes = 0
        self._next = 0  # the number of the next entry
        self._index = Index(self._digest_at)
        self._asked = _NOBODY  # id, digest and number of what was looked for last: it is what comes next
        self._remembers = -(2**62)  # what is done and older is forgotten, even while its chunk is there
        # Of the open chunk: its least time, and whether its entries are in `_near`.
        self._first, self._entered = 2**62, False
        self._ahead: list[tuple[int, int]] = []  # least time and number of the chunks that were never due
        self._near: list[tuple[int, int]] = []  # time and number of the entries of the others; may be stale
        self._behind: list[tuple[int, int]] = []  # greatest time and number of the chunks that are closed
        self._changed: dict[int, None] = {}
        self._noted: dict[bytes, None] = {}

    @property
    def stored(self) -> int:
        """Bytes of the values."""
        whole = len(self._chunks) * MANY * SIZE
        unused = -self._next % MANY * SIZE
        return whole - unused + self._note_bytes

    def find(self, ident: str) -> tuple[int, Held] | None:
        """Returns the prediction of an id."""
        if not self._chunks:
            return None
        digest = digest_of(ident)
        number = self._index.find(digest)
        self._asked = ident, digest, number
        if number < 0:
            return None
        held = self._held(number)
        return None if held.done and held.t < self._remembers else (number, held)

    def add(self, ident: str, held: Held) -> None:
        """Takes a new prediction."""
        if held.at > FURTHEST:
            raise OverflowError(f"offset {held.at} does not fit an entry, whose offsets end at {FURTHEST}")
        asked, digest, before = self._asked
        if asked != ident or not self._chunks:
            digest = digest_of(ident)
            before = self._index.find(digest)
        self._asked = _NOBODY
        if before >= 0:
            self._erase(before)  # it is forgotten, and only its chunk is still there
        number = self._next
        self._next += 1
        at, place = divmod(number, MANY)
        if place == 0:
            self._chunks[at] = bytearray(MANY * SIZE)
        self._write(number, digest, held)
        self._index.add(digest, number)
        self._first = min(self._first, held.t)
        if self._entered:
            heappush(self._near, (held.t, number))
        if not held.done:
            self.waiting += 1
        if place == MANY - 1:
            self._close(at)

    def put(self, key: int, held: Held) -> None:
        """Takes what became of a prediction."""
        self._asked = _NOBODY
        digest, _, packed = self._entry(key)
        if held.done and not packed >> 56 & DONE:
            self.waiting -= 1
        self._write(key, digest, held)

    def drop(self, key: int) -> None:
        """Lets go of a prediction that waits."""
        self._erase(key)
        self.waiting -= 1

    def ripe(self, due: int, remembered: int) -> bool:
        """Whether there may be something that waits with `t < due`; what is forgotten is not found anyway."""
        return (
            self._first < due
            or (bool(self._near) and self._near[0][0] < due)
            or (bool(self._ahead) and self._ahead[0][0] < due)
        )

    def due(self, limit: int, spared: int | None = None) -> Iterator[tuple[str, int, Held]]:
        """Yields what waits with `t < limit`, in the order of t."""
        passed_over = []
        while self._reach(limit):
            entry = heappop(self._near)
            number = entry[1]
            if number == spared:
                passed_over.append(entry)
            elif self._waits(number):
                yield "", number, self._held(number)
        for entry in passed_over:
            heappush(self._near, entry)

    def forget(self, limit: int) -> None:
        """Forgets what is done and has `t < limit`; its chunk goes when something is stored."""
        self._remembers = limit

    def oldest(self) -> int | None:
        """Returns the least time of what waits."""
        while self._reach(2**62):
            if self._waits(self._near[0][1]):
                return self._near[0][0]
            heappop(self._near)
        return None

    def scrub(self, forgotten: Callable[[bytes], bool]) -> int:
        """Returns the greatest time of what is here: only the log can tell whose it is."""
        entries = (entry for chunk in self._chunks.values() for entry in ENTRY.iter_unpack(chunk))
        return max((t for _, t, packed in entries if packed), default=NEVER)

    def take(self, into: Writes) -> None:
        """Gives out the fields that changed."""
        self._remove()
        used = self._next % MANY * SIZE
        for at in self._changed:
            chunk = self._chunks.get(at)
            if chunk is None:
                into[b"c%d" % at] = None
            else:
                into[b"c%d" % at] = bytes(chunk[:used] if at == self._next // MANY else chunk)
        into.update({b"n" + digest: self._notes.get(digest) for digest in self._noted})
        self._changed.clear()
        self._noted.clear()

    def restore(self, kind: bytes, name: bytes, cell: bytes) -> None:
        """Takes a stored field."""
        if kind == b"n":
            _note(cell)
            self._notes[name] = cell
            self._note_bytes += len(cell)
            return
        at, n = int(name), len(cell) // SIZE
        if not 0 < n <= MANY or len(cell) % SIZE or not 0 <= at <= _LAST:
            raise ValueError(f"chunk {at} has {len(cell)} bytes")
        self._chunks[at] = bytearray(cell) + bytes((MANY - n) * SIZE)
        self._next = max(self._next, at * MANY + n)

    def restored(self) -> None:
        """Says that all fields have been restored.

        Raises:
            ValueError: they do not fit together.
        """
        self._index.reserve(MANY * len(self._chunks))
        for at, chunk in self._chunks.items():
            entries = list(ENTRY.iter_unpack(chunk))[: self._next - at * MANY]
            for number, (digest, _, packed) in enumerate(entries, at * MANY):
                if packed:
                    if packed >> 56 & _NOTED and digest not in self._notes:
                        raise ValueError(f"entry {number} has lost its labels")
                    self._index.add(digest, number)
                    self.waiting += not packed >> 56 & DONE
            times = [t for _, t, _ in entries]
            if len(entries) == MANY:
                self._ahead.append((min(times), at))
                self._behind.append((max(times), at))
            else:
                self._first = min(times)
        heapify(self._ahead)
        heapify(self._behind)

    # -- entries

    def _digest_at(self, number: int) -> bytes:
        at, place = divmod(number, MANY)
        return bytes(self._chunks[at][place * SIZE : place * SIZE + 16])

    def _entry(self, number: int) -> tuple[bytes, int, int]:
        at, place = divmod(number, MANY)
        return ENTRY.unpack_from(self._chunks[at], place * SIZE)

    def _held(self, number: int) -> Held:
        digest, t, packed = self._entry(number)
        flags, offset = packed >> 56, packed & FURTHEST
        label_t, label, beyond = _note(self._notes[digest]) if flags & _NOTED else (None, None, None)
        if flags & _LABELLED and label_t is None:
            label_t = t  # that there was one is all that is asked
        return Held(t, flags & ~(_LABELLED | _NOTED), label_t, None, label, beyond, offset)

    def _write(self, number: int, digest: bytes, held: Held) -> None:
        flags = held.flags
        label_t = held.label_t
        if label_t is not None:
            flags |= _LABELLED
        if not self._exact:
            label_t = None
        if label_t is not None or held.label is not None or held.beyond is not None:
            flags |= _NOTED
            self._keep_note(digest, _encode((label_t, held.label, held.beyond)))
        else:
            self._drop_note(digest)
        self._pack(number, digest, held.t, flags << 56 | held.at)

    def _pack(self, number: int, digest: bytes, t: int, packed: int) -> None:
        at, place = divmod(number, MANY)
        ENTRY.pack_into(self._chunks[at], place * SIZE, digest, t, packed)
        self._changed[at] = None

    def _erase(self, number: int) -> None:
        self._asked = _NOBODY
        digest, t, _ = self._entry(number)
        self._index.remove(digest, number)
        self._drop_note(digest)
        self._pack(number, digest, t, 0)

    def _keep_note(self, digest: bytes, note: bytes) -> None:
        self._drop_note(digest)
        self._notes[digest] = note
        self._note_bytes += len(note)
        self._noted[digest] = None

    def _drop_note(self, digest: bytes) -> None:
        note = self._notes.pop(digest, None)
        if note is not None:
            self._note_bytes -= len(note)
            self._noted[digest] = None

    # -- time

    def _reach(self, limit: int) -> bool:
        """Brings the entries near that may be the next with `t < limit`; returns whether there is one."""
        near = self._near
        while self._ahead and self._ahead[0][0] < limit and not (near and near[0][0] < self._ahead[0][0]):
            self._enter(heappop(self._ahead)[1])
        if not self._entered and self._first < limit and not (near and near[0][0] < self._first):
            self._entered = True
            self._enter(self._next // MANY)
        return bool(near) and near[0][0] < limit

    def _enter(self, at: int) -> None:
        for place in range(min(MANY, self._next - at * MANY)):
            number = at * MANY + place
            if self._waits(number):
                heappush(self._near, (self._entry(number)[1], number))

    def _waits(self, number: int) -> bool:
        if number // MANY not in self._chunks:
            return False
        packed = self._entry(number)[2]
        return packed != 0 and not packed >> 56 & DONE

    def _close(self, at: int) -> None:
        times = [ENTRY.unpack_from(self._chunks[at], place * SIZE)[1] for place in range(MANY)]
        heappush(self._behind, (max(times), at))
        if not self._entered:
            heappush(self._ahead, (self._first, at))
        self._first, self._entered = 2**62, False

    def _remove(self) -> None:
        """Removes the chunks that hold nothing but what is forgotten, the newest excepted: it has the last number."""
        newest = (self._next - 1) // MANY
        while self._behind and self._behind[0][0] < self._remembers and self._behind[0][1] != newest:
            at = heappop(self._behind)[1]
            for place in range(MANY):
                digest, _, packed = ENTRY.unpack_from(self._chunks[at], place * SIZE)
                if packed:
                    self._index.remove(digest, at * MANY + place)
                    self._drop_note(digest)
            del self._chunks[at]
            self._changed[at] = None
