"""Predictions that wait in the log alone: chunks of 32 bytes each, and the index that finds them."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from features.errors import StateCorrupt
from models.join import Join, JoinRules
from models.join_cells import API, DONE, KNOWN, Held, Writes
from models.join_chunks import ENTRY, FURTHEST, MANY, SIZE, Chunks, Index, digest_of
from models.records import LogRecord, ProgressRecord, encode_sample
from tests.models.test_join import GROUP, Store, label, prediction, prediction_by, progress, released


def waiting(t: int, at: int) -> Held:
    return Held(t, KNOWN | API, at=at)


def stored(chunks: Chunks) -> Writes:
    writes: Writes = {}
    chunks.take(writes)
    return writes


def test_a_waiting_prediction_is_one_entry_of_32_bytes() -> None:
    chunks = Chunks(exact=False)
    chunks.add("a", waiting(5, 77))

    assert stored(chunks) == {b"c0": ENTRY.pack(digest_of("a"), 5, (KNOWN | API) << 56 | 77)}
    assert chunks.stored == SIZE == 32


def test_a_chunk_and_the_head_of_its_string_fill_an_allocation() -> None:
    """An allocation is 2,048 bytes; the head of a string of this length takes 5, its end 1."""
    assert 2048 - SIZE < MANY * SIZE + 6 <= 2048


def test_labels_are_noted_beside_the_entries_while_they_matter() -> None:
    chunks = Chunks(exact=True)
    chunks.add("a", waiting(5, 0))
    found = chunks.find("a")
    assert found is not None
    key, held = found
    held.label, held.beyond = (7, True), (900, "x")
    chunks.put(key, held)
    assert chunks.find("a") == (key, held)
    assert chunks.stored > SIZE
    held.label = held.beyond = None
    chunks.put(key, held)

    assert chunks.stored == SIZE
    assert stored(chunks)[b"n" + digest_of("a")] is None


def test_an_offset_that_leaves_no_room_for_the_flags_is_refused() -> None:
    with pytest.raises(OverflowError, match=str(FURTHEST + 1)):
        Chunks(exact=False).add("a", waiting(0, FURTHEST + 1))


def test_a_stored_chunk_is_deleted_when_all_of_it_is_forgotten() -> None:
    chunks = Chunks(exact=False)
    for k in range(2 * MANY):
        chunks.add(f"{k}", Held(k, KNOWN | DONE, at=k))
    chunks.forget(MANY - 1)
    assert stored(chunks).keys() == {b"c0", b"c1"}
    chunks.forget(MANY)
    assert stored(chunks) == {b"c0": None}
    assert chunks.find("0") is None
    chunks.forget(10**9)
    assert stored(chunks) == {}, "the newest has the last number"
    assert chunks.find(f"{MANY}") is None


class Digests(list[bytes]):
    """Digests that collide often: few runs, and few marks of three bytes."""

    def __init__(self, r: Random, n: int) -> None:
        few = r.choice([2, 300])
        for k in range(n):
            run, mark = r.randrange(few).to_bytes(8, "little"), bytes(r.choices((0, 1), k=3))
            self.append(run + k.to_bytes(5, "little") + mark)


@pytest.mark.parametrize("seed", range(20))
def test_index_finds_what_a_dict_finds(seed: int) -> None:
    r = Random(seed)
    digests = Digests(r, 1_000)
    index, known = Index(digests.__getitem__), dict[bytes, int]()
    for _ in range(4_000):
        number = r.randrange(len(digests))
        digest = digests[number]
        if digest in known and r.random() < 0.4:
            index.remove(digest, known.pop(digest))
        elif digest not in known:
            index.add(digest, number)
            known[digest] = number
        asked = digests[r.randrange(len(digests))]
        assert index.find(asked) == known.get(asked, -1)
    assert [index.find(digest) for digest in digests] == [known.get(digest, -1) for digest in digests]


# -- long logs


def long_rules(r: Random) -> JoinRules:
    return JoinRules(
        within=r.choice([0, 40, 400]),
        absent=r.choice([False, None]),
        silence=r.choice([0, 50]),
        lateness=r.choice([0, 30, 300]),
        counts=r.choice(["first", "last"]),
        learn_corrections=r.random() < 0.5,
    )


def long_log(r: Random, n: int) -> list[LogRecord]:
    """A log of many ids, with times that are as disordered as catching up leaves them."""
    log: list[LogRecord] = []
    now, width = 0, r.choice([1, 50, 600])
    for k in range(n):
        now += r.choice([0, 0, 1, 2])
        t, ident = now - r.randrange(width), f"{r.randrange(max(0, k - 300), k + 20)}"
        what = r.random()
        if what < 0.55:
            log.append(prediction_by(r, ident, t))
        elif what < 0.8:
            log.append(label(ident, t, k))
        else:
            log.append(progress(now - r.randrange(20), k))
    return log


@pytest.mark.parametrize("seed", range(20))
def test_long_logs_release_the_same_from_chunks_as_from_cells(seed: int) -> None:
    r = Random(seed)
    rules, log = long_rules(r), long_log(r, 1_500)
    whole, store = Join(rules, GROUP), Store()
    rules = msgspec.structs.replace(rules, vectors="log")
    join = Join(rules, GROUP)
    for offset, record in enumerate(log):
        if r.random() < 0.01:
            store.commit(join)
            counters = join.counters
            join = Join.load(rules, GROUP, r.sample(list(store.items()), len(store)))
            join.counters += counters
        expected = [encode_sample(sample) for sample in whole.fold(record, offset)]
        assert released(join, log, offset) == expected
        if offset % 100 == 0:
            assert join.pending_count == whole.pending_count
            assert join.oldest_pending == whole.oldest_pending
    assert +join.counters == +whole.counters


def test_memory_of_a_long_run_is_that_of_its_horizon() -> None:
    rules = JoinRules(within=1_000, absent=False, lateness=100, vectors="log")
    join, store, r = Join(rules, GROUP), Store(), Random(1)
    most = 0
    for k in range(20_000):
        asked = prediction_by(r, f"{k}", k)
        join.step(asked, 2 * k)
        join.step(ProgressRecord(source="labels.v1/0", offset=k, t=k), 2 * k + 1)
        if k % 50 == 0:
            store.commit(join)
            most = max(most, sum(map(len, store.values())))

    assert most < (1_100 + 4 * MANY) * SIZE + 1_000


def kept(rules: JoinRules) -> Store:
    """The fields of a join with a prediction that has labels."""
    join = Join(rules, GROUP)
    records: list[LogRecord] = [prediction("a", 1_000), label("a", 1_050, 0)]
    for offset, record in enumerate(records):
        join.step(record, offset)
    return Store().commit(join)


@pytest.mark.parametrize(
    ("field", "cell"),
    [
        (b"m", b""),
        (b"m", b"\x91\x01"),
        (b"p\xff", b"\x92\x01\x01"),
        (b"pa", b"?"),
        (b"ea", b"\x92\x01"),
        (b"x", b""),
        (b"cx", bytes(SIZE)),
        (b"c0", b""),
        (b"c0", bytes(SIZE - 1)),
        (b"c0", bytes((MANY + 1) * SIZE)),
        (b"c99999999999", bytes(SIZE)),
        (b"n" + bytes(16), b"\x90"),
    ],
)
def test_fields_that_no_join_wrote_are_corrupt(field: bytes, cell: bytes) -> None:
    rules = JoinRules(within=100, counts="last", vectors="log")
    assert Join.load(rules, GROUP, kept(rules).items()).pending_count == 1
    with pytest.raises(StateCorrupt, match=GROUP):
        Join.load(rules, GROUP, (kept(rules) | {field: cell}).items())


def test_an_entry_that_has_lost_its_labels_is_corrupt() -> None:
    rules = JoinRules(within=100, counts="last", vectors="log")
    stored = kept(rules)
    del stored[b"n" + digest_of("a")]
    with pytest.raises(StateCorrupt, match="lost its labels"):
        Join.load(rules, GROUP, stored.items())
