from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw, Struct

from features.forgetting import name_of
from models.join import Join, JoinRules, RulesError, settle
from models.join_rules import Vectors
from models.records import (
    ForgetRecord,
    LabelRecord,
    LoggedPrediction,
    LogRecord,
    PredictionRecord,
    ProgressRecord,
    Sample,
    Scalar,
    Value,
    decode_record,
    decode_sample,
    encode_joined,
    encode_record,
    encode_sample,
    read_record,
)
from tests.models.join_oracle import Oracle

GROUP = "headrace.shop.fraud.log.v1/0"
REQUESTS = "payments.v1/0"
WHOSE = ("u", "v")
FEED = "labels.v1/0"


def prediction(
    ident: str,
    t: int,
    origin: Literal["api", "stream"] = "api",
    *,
    flags: Sequence[str] = (),
    score: float = 0.5,
) -> PredictionRecord:
    return PredictionRecord(
        id=ident,
        t=t,
        origin=origin,
        vector=[1, 0.1, True, "a", None, -0.0],
        score=score,
        version=3,
        fingerprint="f",
        as_of={"payments.v1/0": 7},
        event=Raw(b'{"id": "%s", "amount": 1.50}' % ident.encode()),
        flags=list(flags),
    )


def label(ident: str, t: int, offset: int, value: Scalar = True, source: str = FEED) -> LabelRecord:
    return LabelRecord(id=ident, t=t, label=value, source=source, offset=offset)


def progress(t: int, offset: int = 1_000, source: str = FEED) -> ProgressRecord:
    return ProgressRecord(source=source, offset=offset, t=t)


def fold(join: Join, records: Iterable[Struct], start: int = 0) -> list[Sample]:
    samples = []
    for offset, record in enumerate(records, start):
        assert isinstance(record, PredictionRecord | LabelRecord | ProgressRecord | ForgetRecord)
        samples += join.fold(record, offset)
    return samples


def predictions_until(t: int) -> list[PredictionRecord]:
    """Two witnesses that move the prediction clock to `t` and wait for nothing that the test looks at."""
    return [prediction("~clock1", t), prediction("~clock2", t)]


def told(samples: Iterable[Sample]) -> list[tuple[str, str, Scalar]]:
    return [(sample.id, sample.kind, sample.label) for sample in samples]


class Store(dict[bytes, bytes]):
    """The cells, as the caller persists them."""

    def commit(self, join: Join) -> Store:
        for key, cell in join.take_writes().items():
            if cell is None:
                self.pop(key, None)
            else:
                self[key] = cell
        return self


RULES = JoinRules(within=100, absent=False, lateness=20)


# -- what a label gets (the rows of the table about labels)


def test_label_in_time_leaves_at_once_with_the_logged_vector() -> None:
    made = prediction("a", 1_000, score=0.25)
    (sample,) = fold(Join(RULES, GROUP), [made, label("a", 1_050, 0)])
    assert (sample.id, sample.t, sample.label, sample.label_t, sample.kind) == (
        "a",
        1_000,
        True,
        1_050,
        "label",
    )
    assert (sample.vector, sample.score, sample.version, sample.fingerprint) == (made.vector, 0.25, 3, "f")
    assert (sample.origin, bytes(sample.event)) == ("api", bytes(made.event))
    assert (sample.source, sample.offset, sample.index) == (GROUP, 1, 0)


def test_label_on_the_last_millisecond_of_the_horizon_is_in_time() -> None:
    join = Join(RULES, GROUP)
    assert told(fold(join, [prediction("a", 0), label("a", 100, 0)])) == [("a", "label", True)]
    assert told(fold(join, [prediction("b", 0), label("b", 101, 1)], start=2)) == []


def test_label_older_than_its_prediction_is_known_from_the_prediction_on() -> None:
    (sample,) = fold(Join(RULES, GROUP), [prediction("a", 1_000), label("a", 400, 0)])
    assert (sample.label_t, sample.kind) == (1_000, "label")


def test_label_before_its_prediction_waits_for_it() -> None:
    samples = fold(Join(RULES, GROUP), [label("a", 1_050, 0), prediction("a", 1_000)])
    assert [(s.id, s.kind, s.label_t, s.offset) for s in samples] == [("a", "label", 1_050, 1)]


def test_label_for_an_unknown_prediction_is_kept_until_the_horizon_then_counted() -> None:
    join = Join(RULES, GROUP)
    fold(join, [label("nobody", 1_000, 0), *predictions_until(1_120)])
    assert join.counters["label_unknown"] == 0
    fold(join, predictions_until(1_121), start=3)
    assert join.counters["label_unknown"] == 1
    assert join.fold(prediction("nobody", 1_000), 9) == []
    fold(join, [label("nobody at all", 1_000, 1)], start=10)
    assert join.counters["label_unknown"] == 2


def test_second_label_is_counted_and_the_first_one_counts() -> None:
    join = Join(RULES, GROUP)
    samples = fold(
        join,
        [
            prediction("a", 0),
            label("a", 10, 0, value=True),
            label("a", 20, 1, value=False),
            label("b", 10, 2, value=True),
            label("b", 20, 3, value=False),
            prediction("b", 0),
        ],
    )
    assert told(samples) == [("a", "label", True), ("b", "label", True)]
    assert join.counters["label_duplicate"] == 2


def test_label_after_the_horizon_is_a_counted_correction() -> None:
    join = Join(RULES, GROUP)
    samples = fold(join, [prediction("a", 0), *predictions_until(101), progress(121), label("a", 110, 2_000)])
    assert told(samples) == [("a", "absent", False)]
    assert join.counters["label_correction"] == 1


def test_correction_is_learned_only_if_the_spec_says_so_and_once() -> None:
    join = Join(JoinRules(within=100, absent=False, lateness=20, learn_corrections=True), GROUP)
    made = prediction("a", 0)
    late = [label("a", 110, 2_000), label("a", 115, 2_001)]
    samples = fold(join, [made, *predictions_until(101), progress(121), *late])
    assert told(samples) == [("a", "absent", False), ("a", "correction", True)]
    assert samples[1].vector == made.vector
    assert join.counters["label_correction"] == 1
    assert join.counters["label_duplicate"] == 1


def test_label_beyond_the_horizon_never_overtakes_the_absent_sample() -> None:
    join = Join(JoinRules(within=100, absent=False, lateness=20, learn_corrections=True), GROUP)
    samples = fold(join, [prediction("a", 0), label("a", 150, 0), *predictions_until(101), progress(121)])
    assert [(s.kind, s.offset, s.index) for s in samples] == [("absent", 4, 0), ("correction", 4, 1)]


def test_label_feed_that_stands_still_holds_the_absents_back() -> None:
    join = Join(RULES, GROUP)
    assert fold(join, [prediction("a", 0), *predictions_until(10**9)]) == []
    assert join.label_clock is None
    samples = fold(join, [progress(121)], start=3)
    assert told(samples) == [("a", "absent", False)]
    assert (samples[0].label_t, samples[0].offset) == (100, 3)


def test_one_group_of_the_label_source_that_stands_still_holds_the_absents_back() -> None:
    join = Join(RULES, GROUP)
    records = [prediction("a", 0), *predictions_until(10**9), progress(0, source="labels.v1/1")]
    assert fold(join, [*records, progress(10**9)]) == []
    assert told(fold(join, [progress(121, source="labels.v1/1")], start=9)) == [("a", "absent", False)]


def test_group_that_was_never_heard_holds_the_absents_back_when_it_is_expected() -> None:
    rules = msgspec.structs.replace(RULES, feeds=(FEED, "labels.v1/1"))
    join = Join(rules, GROUP)
    assert fold(join, [prediction("a", 0), *predictions_until(10**9), progress(10**9)]) == []
    assert told(fold(join, [progress(121, source="labels.v1/1")], start=9)) == [("a", "absent", False)]


def test_label_clock_is_not_turned_back_by_a_group_that_turns_up_late() -> None:
    join = Join(RULES, GROUP)
    fold(join, [progress(500), progress(0, source="labels.v1/1"), progress(600)])
    assert join.label_clock == 500


def test_quiet_label_source_is_taken_for_alive_for_the_agreed_silence() -> None:
    rules = msgspec.structs.replace(RULES, silence=50)
    samples = fold(
        Join(rules, GROUP), [prediction("a", 0), *predictions_until(101), progress(70), progress(71)]
    )
    assert [(s.kind, s.offset) for s in samples] == [("absent", 4)]


def test_label_in_time_is_not_beaten_by_the_expiry_that_it_causes() -> None:
    rules = msgspec.structs.replace(RULES, silence=1_000)
    records = [
        prediction("a", 0),
        prediction("b", 1),
        *predictions_until(500),
        label("x", 90, 0),
        label("a", 100, 1),
    ]
    assert told(fold(Join(rules, GROUP), records)) == [("b", "absent", False), ("a", "label", True)]


# -- which prediction counts


def test_first_api_record_counts_else_the_first_stream_one() -> None:
    join = Join(RULES, GROUP)
    records: list[LogRecord] = [
        prediction("a", 0, "stream", score=0.1),
        prediction("a", 0, "api", score=0.2),
        prediction("a", 0, "api", score=0.3),
        prediction("a", 0, "stream", score=0.4),
        prediction("b", 0, "stream", score=0.5),
        prediction("b", 0, "stream", score=0.6),
        label("a", 1, 0),
        label("b", 1, 1),
    ]
    assert [(s.id, s.origin, s.score) for s in fold(join, records)] == [
        ("a", "api", 0.2),
        ("b", "stream", 0.5),
    ]
    assert join.counters["prediction_duplicate"] == 4


def test_late_stream_prediction_of_a_sample_that_left_is_recognised() -> None:
    join = Join(RULES, GROUP)
    fold(join, [prediction("a", 0), label("a", 1, 0), prediction("a", 0, "stream")])
    assert join.counters["prediction_duplicate"] == 1
    assert join.pending_count == 0


def test_prediction_whose_id_may_be_forgotten_is_dropped_as_late() -> None:
    join = Join(RULES, GROUP)
    clock = [*predictions_until(1_000), progress(1_000)]
    assert fold(join, [prediction("a", 0), label("a", 1, 0), *clock]) != []
    assert fold(join, [prediction("a", 0, "stream"), label("z", 1_100, 1_001)], start=10) == []
    assert join.counters["prediction_late"] == 1


def test_fallback_score_never_waits_and_its_label_is_told_from_unknown_ones() -> None:
    join = Join(RULES, GROUP)
    fold(join, [prediction("a", 0, flags=["fallback"]), label("a", 1, 0)])
    assert fold(join, [*predictions_until(1_000), progress(1_000)], start=2) == []
    assert join.counters["prediction_fallback"] == 1
    assert join.counters["label_fallback"] == 1
    assert join.counters["label_unknown"] == 0


def test_fallback_score_is_remembered_as_long_as_its_label_may_come() -> None:
    for clock, reason in ((120, "label_fallback"), (121, "label_unknown")):
        join = Join(RULES, GROUP)
        fold(join, [*predictions_until(clock), prediction("a", 0, flags=["fallback"]), label("a", 10, 0)])
        fold(join, predictions_until(1_000), start=4)
        assert join.counters[reason] == 1


def test_stream_prediction_after_a_fallback_answer_is_learned() -> None:
    samples = fold(
        Join(RULES, GROUP),
        [prediction("a", 0, flags=["fallback"]), label("a", 1, 0), prediction("a", 0, "stream")],
    )
    assert [(s.id, s.origin) for s in samples] == [("a", "stream")]


def test_prediction_without_an_absent_value_is_dropped_at_the_horizon_and_counted() -> None:
    for absent in (UNSET, None):
        join = Join(JoinRules(within=100, absent=absent), GROUP)
        assert fold(join, [prediction("a", 0), *predictions_until(101), progress(101)]) == []
        assert join.counters["prediction_unlabelled"] == 1


# -- time


def test_stray_from_the_future_expires_nothing() -> None:
    join = Join(RULES, GROUP)
    far = 10**12
    records: list[LogRecord] = [
        prediction("a", 0),
        prediction("stray", far),
        prediction("stray", far, "stream"),
        prediction("b", 1),
        label("stray", far, 0),
        label("stray", far, 1),
        label("x", 5, 2),
    ]
    assert told(fold(join, records)) == [("stray", "label", True)]
    assert (join.prediction_clock, join.label_clock) == (1, 5)


def test_expiries_leave_in_deadline_then_id_order_before_the_record_that_caused_them() -> None:
    join = Join(JoinRules(within=100, absent=False), GROUP)
    waiting = [prediction("c", 2), prediction("b", 1), prediction("a", 2)]
    records = [*waiting, label("late", 1_000, 0), prediction("late", 1_000), *predictions_until(1_000)]
    samples = fold(join, [*records, progress(150, offset=1), label("~clock1", 999, 1)])
    assert [(s.id, s.kind, s.index) for s in samples] == [
        ("late", "label", 0),
        ("b", "absent", 0),
        ("a", "absent", 1),
        ("c", "absent", 2),
        ("~clock1", "label", 0),
    ]


def test_labels_that_may_be_revised_leave_at_the_horizon_with_the_last_in_event_time() -> None:
    rules = msgspec.structs.replace(RULES, counts="last")
    join = Join(rules, GROUP)
    revisions = [label("a", 50, 0, 1), label("a", 90, 1, 2), label("a", 70, 2, 3), label("a", 101, 3, 4)]
    records = [prediction("a", 0), *revisions, *predictions_until(101)]
    assert fold(join, records) == []
    (sample,) = fold(join, [progress(121)], start=len(records))
    assert (sample.label, sample.label_t, sample.kind) == (2, 90, "label")
    assert (join.counters["label_revised"], join.counters["label_correction"]) == (2, 1)


def test_early_revisions_of_one_id_are_bounded_to_the_latest() -> None:
    rules = msgspec.structs.replace(RULES, counts="last")
    for later, kind in ((7, "label"), (8, "absent")):
        join = Join(rules, GROUP)
        fold(join, [label("a", 90, 0), *[label("a", 200 + n, n + 1) for n in range(later)]])
        samples = fold(join, [prediction("a", 0), *predictions_until(101), progress(121)], start=20)
        assert [sample.kind for sample in samples] == [kind]


def test_offsets_of_a_crashed_forwarder_that_come_again_have_no_effect() -> None:
    join, store = Join(RULES, GROUP), Store()
    fold(join, [label("a", 1, 4), progress(3, offset=7), label("b", 2, 7)])
    cells = dict(store.commit(join))
    repeated = [label("a", 1, 4), label("x", 1, 6), progress(3, offset=7), label("b", 2, 7)]
    assert fold(join, repeated, start=3) == []
    assert store.commit(join) == cells
    assert (join.counters["label_repeated"], join.counters["progress_repeated"]) == (3, 1)


def test_label_before_the_progress_of_its_group_was_seen_already() -> None:
    join = Join(RULES, GROUP)
    fold(join, [prediction("a", 0), progress(3, offset=7), label("a", 1, 6)])
    assert join.counters["label_repeated"] == 1
    assert told(fold(join, [label("a", 1, 7)], start=3)) == [("a", "label", True)]


def test_progress_at_the_same_offset_may_move_the_clock_on() -> None:
    join = Join(RULES, GROUP)
    fold(join, [progress(3, offset=7), progress(9, offset=7)])
    assert join.label_clock == 9


# -- the quota, memory, and coming back


def test_join_is_full_when_the_quota_waits() -> None:
    join = Join(msgspec.structs.replace(RULES, max_pending=3), GROUP)
    fold(join, [prediction("a", 5), prediction("b", 3)])
    assert (join.full, join.pending_count, join.oldest_pending) == (False, 2, 3)
    fold(join, [label("c", 1, 0)], start=2)
    assert join.full
    fold(join, [label("b", 1, 1)], start=3)
    assert (join.full, join.oldest_pending) == (False, 5)


def test_ids_are_forgotten_and_memory_is_bounded() -> None:
    join = Join(msgspec.structs.replace(RULES, learn_corrections=True), GROUP)
    for n in range(2_000):
        fold(join, [prediction(f"p{n}", n), progress(n, offset=n)], start=3 * n)
        if n % 3 == 0:
            join.fold(label(f"p{n}", n, n), 3 * n + 2)
    assert len(Store().commit(join)) < 2 * (100 + 20 + 100 + 20)
    assert join.pending_bytes < 60_000


def test_id_without_corrections_is_remembered_in_few_bytes() -> None:
    join = Join(RULES, GROUP)
    fold(join, [prediction("a", 1_700_000_000_000), label("a", 1_700_000_000_000, 0)])
    (cell,) = [cell for key, cell in Store().commit(join).items() if key != b"m"]
    assert len(cell) <= 24


def test_vector_is_forgotten_once_it_cannot_be_corrected_any_more() -> None:
    join = Join(JoinRules(within=100, absent=False, learn_corrections=True), GROUP)
    fold(
        join,
        [prediction("a", 0), label("b", 50, 0), prediction("b", 0), *predictions_until(101), progress(101)],
    )
    held = Store().commit(join)
    assert len(held[b"da"]) > 50
    assert len(held[b"db"]) <= 24
    fold(join, [label("a", 101, 2_000)], start=9)
    assert len(Store().commit(join)[b"da"]) <= 24


def test_join_of_other_rules_is_refused() -> None:
    join = Join(RULES, GROUP)
    fold(join, [prediction("a", 0)])
    cells = Store().commit(join).items()
    with pytest.raises(RulesError, match="within"):
        Join.load(msgspec.structs.replace(RULES, within=101), GROUP, cells)
    assert Join.load(msgspec.structs.replace(RULES, max_pending=2), GROUP, cells).pending_count == 1


def test_join_stored_in_another_format_is_refused_before_its_cells_are_read() -> None:
    meta = msgspec.msgpack.encode([b'{"within":100,"max_pending":1}', [0, 0, ""], 0, {}])
    with pytest.raises(RulesError, match="of another Headrace"):
        Join.load(RULES, GROUP, [(b"pa", b"no cell of ours"), (b"m", meta)])


def test_offsets_that_do_not_rise_are_refused() -> None:
    join = Join(RULES, GROUP)
    join.fold(prediction("a", 0), 5)
    with pytest.raises(ValueError, match="offset 5 after 5"):
        join.fold(prediction("b", 0), 5)


# -- against the oracle

AWKWARD: list[Value] = [-0.0, 0.0, 5e-324, 1.7976931348623157e308, 0.1, 1, 1.0, True, None, "é", 2**63 - 1]
LABELS: list[Scalar] = [True, False, 1, 2.5, -0.0, "bad"]
FEEDS = ["labels.v1/0", "labels.v1/1"]
OFTEN = 300


def rules_by(r: Random) -> JoinRules:
    return JoinRules(
        within=r.randrange(40),
        absent=r.choice([False, False, False, 0.0, UNSET, None]),
        silence=r.choice([0, 0, 5, 50]),
        lateness=r.choice([0, 3, 20]),
        counts=r.choice(["first", "last"]),
        learn_corrections=r.random() < 0.5,
        feeds=r.choice([(), (), ("labels.v1/0",), ("labels.v1/1", "labels.v1/0")]),
    )


def log_by(r: Random) -> list[LogRecord]:
    """A log in which time mostly rises, forwarders crash and repeat, and a group may fall silent."""
    log: list[LogRecord] = []
    sent: dict[str, list[LogRecord]] = {feed: [] for feed in FEEDS[: r.randrange(1, 3)]}
    offsets = dict.fromkeys(sent, 0)
    ids = ["a", "b", "c", "d", "é", "~"][: r.randrange(1, 7)]
    now = 0
    for _ in range(r.randrange(1, 80)):
        now += r.choice([0, 0, 1, 1, 2, 5, 15])
        stray = r.choice([now, 10**6, 10**12])
        t = r.choice([now, now, now - r.randrange(20), r.randrange(60), r.randrange(-10, 200), stray])
        feed = r.choice(list(sent))
        what = r.choice(["prediction"] * 6 + ["label"] * 5 + ["progress"] * 3 + ["crash", "forget"])
        if what == "prediction":
            log.append(prediction_by(r, r.choice(ids), t))
        elif what == "forget":
            forgotten = [record.offset for record in log if isinstance(record, ForgetRecord)]
            at = max(forgotten, default=-1) + 1 if not forgotten or r.random() < 0.7 else r.choice(forgotten)
            key = r.choice(WHOSE)
            log.append(ForgetRecord(entity="who", key=key, source=REQUESTS, offset=at, t=0))
        elif what == "crash":
            log += sent[feed][-r.randrange(1, 7) :]
        else:
            if what == "label":
                offsets[feed] += r.randrange(3)
                value = r.choice(LABELS)
                sent[feed].append(label(r.choice(ids), t, offsets[feed], value, feed))
                offsets[feed] += 1
            else:
                sent[feed].append(progress(min(t, now), offsets[feed], feed))
            log.append(sent[feed][-1])
    return log


def whose(event: bytes) -> set[str]:
    return {name_of(*pair) for pair in pairs(event)}


def pairs(event: bytes) -> set[tuple[str, str]]:
    return set(msgspec.json.decode(event, type=dict[str, Any]).items()) & {("who", key) for key in WHOSE}


def prediction_by(r: Random, ident: str, t: int) -> PredictionRecord:
    return PredictionRecord(
        id=ident,
        t=t,
        origin=r.choice(["api", "stream"]),
        vector=r.choices(AWKWARD, k=r.randrange(4)),
        score=r.choice([0.1, -0.0, 1, {"b": 0.25, "a": 1}, None]),
        version=r.randrange(9),
        fingerprint=r.choice("fg"),
        as_of=r.choice([{}, {REQUESTS: 2}, {REQUESTS: 2, "other/0": 0}]),
        event=Raw(r.choice([b'{"x":1}', b'{"x" : 1.0}', b"{}", b'{"who":"u"}', b'{"who": "v"}'])),
        flags=r.choice([[], [], [], ["unknown"], ["fallback"]]),
    )


def released(join: Join, log: Sequence[LogRecord], offset: int) -> list[bytes]:
    """The samples that the record at an offset releases, with the vectors that wait in the log looked up in it."""
    left = join.step(read_record(encode_record(log[offset])), offset)
    wanted = {leaving.at: read_record(encode_record(log[leaving.at])) for leaving in left if not leaving.body}
    logged = {at: record for at, record in wanted.items() if isinstance(record, LoggedPrediction)}
    assert logged.keys() == wanted.keys()
    return [encode_joined(sample) for sample in settle(join.kept(left, logged), logged, GROUP, "")]


def check_against_oracle(r: Random) -> Join:
    rules, log = rules_by(r), log_by(r)
    join = Join(rules, GROUP, whose)
    in_log = Join(msgspec.structs.replace(rules, vectors="log"), GROUP, whose)
    oracle = Oracle(rules, GROUP, pairs)
    for offset, record in enumerate(log):
        expected = [encode_sample(sample) for sample in oracle.fold(record, offset)]
        assert [encode_sample(sample) for sample in join.fold(record, offset)] == expected, (offset, record)
        assert released(in_log, log, offset) == expected, (offset, record)
    assert +join.counters == +oracle.counters
    assert in_log.counters == join.counters
    assert in_log.pending_count == join.pending_count
    assert in_log.oldest_pending == join.oldest_pending
    return join


def check_restarts(r: Random, vectors: Vectors) -> None:
    rules, log = msgspec.structs.replace(rules_by(r), vectors=vectors), log_by(r)
    whole = Join(rules, GROUP, whose)
    expected = [sample for offset in range(len(log)) for sample in released(whole, log, offset)]

    join, store = Join(rules, GROUP, whose), Store()
    got: list[bytes] = []
    for offset in range(len(log)):
        if r.random() < 0.2:
            store.commit(join)
            join = Join.load(rules, GROUP, r.sample(list(store.items()), len(store)), whose)
            assert join.take_writes() == {}
        got += released(join, log, offset)
    assert got == expected
    assert store.commit(join) == Store().commit(whole)
    assert join.pending_count == whole.pending_count
    assert join.pending_bytes == whole.pending_bytes
    assert join.oldest_pending == whole.oldest_pending


def check_moves(r: Random) -> None:
    """Vectors wait here or there, as the rules of each start say."""
    rules, log = rules_by(r), log_by(r)
    in_redis = msgspec.structs.replace(rules, vectors="redis")
    expected = [encode_sample(sample) for sample in fold(Join(in_redis, GROUP, whose), log)]
    join, store = Join(rules, GROUP, whose), Store()
    got: list[bytes] = []
    for offset in range(len(log)):
        if r.random() < 0.1:
            store.commit(join)
            rules = msgspec.structs.replace(rules, vectors=r.choice(["redis", "log"]))
            join = Join.load(rules, GROUP, store.items(), whose)
        got += released(join, log, offset)
    assert got == expected


@given(st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_join_equals_the_brute_force_oracle_by_bits(r: Random) -> None:
    check_against_oracle(r)


def check_foreign(r: Random, vectors: Vectors) -> int:
    """Predictions of another vector leave no sample, and change no other one but for its index."""
    rules, log = rules_by(r), log_by(r)
    whole, only = Join(rules, GROUP), Join(msgspec.structs.replace(rules, vectors=vectors, only="f"), GROUP)
    skipped = 0
    for offset, record in enumerate(log):
        every = whole.fold(record, offset)
        own = [sample for sample in every if sample.fingerprint == "f"]
        skipped += len(every) - len(own)
        expected = [
            encode_sample(msgspec.structs.replace(sample, index=index)) for index, sample in enumerate(own)
        ]
        assert released(only, log, offset) == expected
    assert only.counters.pop("sample_foreign", 0) == skipped
    assert +only.counters == +whole.counters
    return skipped


@pytest.mark.parametrize("vectors", ["redis", "log"])
def test_predictions_of_another_vector_leave_no_sample_and_change_no_other(vectors: Vectors) -> None:
    assert sum(check_foreign(Random(seed), vectors) for seed in range(OFTEN)) > OFTEN


@pytest.mark.parametrize("vectors", ["redis", "log"])
@given(r=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_restart_at_any_points_changes_no_sample_and_no_cell(vectors: Vectors, r: Random) -> None:
    check_restarts(r, vectors)


def test_join_equals_the_oracle_on_many_logs_that_meet_every_rule() -> None:
    met: Counter[str] = Counter()
    for seed in range(OFTEN):
        met += check_against_oracle(Random(seed)).counters
    assert set(met) == {
        "label_correction",
        "label_duplicate",
        "label_fallback",
        "label_joined",
        "label_repeated",
        "label_revised",
        "label_unknown",
        "prediction_absent",
        "prediction_duplicate",
        "prediction_fallback",
        "prediction_late",
        "prediction_unlabelled",
        "progress_repeated",
        "forgetting",
        "forgetting_repeated",
        "prediction_forgotten",
        "sample_foreign",
    }


@pytest.mark.parametrize("vectors", ["redis", "log"])
def test_restarts_change_nothing_on_many_logs(vectors: Vectors) -> None:
    for seed in range(OFTEN):
        check_restarts(Random(seed), vectors)


def test_where_vectors_wait_may_change_at_any_restart() -> None:
    for seed in range(OFTEN):
        check_moves(Random(seed))


def test_every_prediction_is_accounted_for_once() -> None:
    for seed in range(OFTEN):
        r = Random(seed)
        join, log = Join(rules_by(r), GROUP), log_by(r)
        samples = fold(join, log)
        counted = join.counters
        unlearned = counted["prediction_unlabelled"] + counted["prediction_duplicate"]
        unlearned += counted["prediction_fallback"] + counted["prediction_late"]
        learned = [sample for sample in samples if sample.kind != "correction"]
        waiting = sum(key.startswith(b"p") for key in Store().commit(join))
        assert (
            sum(isinstance(record, PredictionRecord) for record in log) == len(learned) + unlearned + waiting
        )
        assert len(learned) == counted["label_joined"] + counted["prediction_absent"]
        assert len({(sample.offset, sample.index) for sample in samples}) == len(samples)


# -- the records


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
INTS = st.integers(-(2**63), 2**63 - 1)
VALUES: st.SearchStrategy[Value] = st.one_of(st.booleans(), INTS, FLOATS, st.text(max_size=4), st.none())


@given(st.lists(VALUES), st.one_of(FLOATS, INTS, st.dictionaries(st.text(), FLOATS)))
@example([5e-324, 1.7976931348623157e308, -0.0, 0.1 + 0.2, 1, 1.0, True], -0.0)
def test_every_bit_of_a_vector_survives_the_log(vector: list[Value], score: Any) -> None:
    record = msgspec.structs.replace(prediction("a", 0), vector=vector, score=score)
    read = decode_record(encode_record(record))
    assert isinstance(read, PredictionRecord)
    assert bits(read.vector) == bits(vector)
    assert bits(read.score) == bits(score)
    assert bytes(read.event) == bytes(record.event)


def bits(value: Any) -> Any:
    if isinstance(value, float):
        return struct.pack(">d", value)
    if isinstance(value, list):
        return [bits(item) for item in value]
    if isinstance(value, dict):
        return [(key, bits(item)) for key, item in value.items()]
    return type(value), value


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2**63, -(2**63) - 1])
def test_numbers_that_json_cannot_carry_are_refused_when_written(bad: float) -> None:
    made = prediction("a", 0)
    (sample,) = fold(Join(RULES, GROUP), [made, label("a", 1, 0)])
    for record in (
        msgspec.structs.replace(made, vector=[1.0, bad]),
        msgspec.structs.replace(made, score=bad),
        msgspec.structs.replace(made, score={"a": bad}),
        label("a", 1, 0, value=bad),
    ):
        with pytest.raises(ValueError, match="cannot carry"):
            encode_record(record)
    with pytest.raises(ValueError, match="cannot carry"):
        encode_sample(msgspec.structs.replace(sample, label=bad))


@pytest.mark.parametrize("bad", [b"NaN", b"Infinity", b"1e400", b"9223372036854775808", b"[1]", b'{"a":1}'])
def test_numbers_out_of_range_are_refused_when_read(bad: bytes) -> None:
    text = encode_record(prediction("a", 0)).replace(b'"vector":[1,', b'"vector":[' + bad + b",")
    with pytest.raises(msgspec.DecodeError):
        decode_record(text)


def test_sample_survives_its_topic() -> None:
    (sample,) = fold(Join(RULES, GROUP), [prediction("a", 0), label("a", 1, 0)])
    assert decode_sample(encode_sample(sample)) == sample
    assert b'"from":"' in encode_sample(sample)
