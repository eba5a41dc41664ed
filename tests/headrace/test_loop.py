"""The commands around a running project: produce, worker, features, models, verify, replay, doctor."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from headrace.demo.generator import DAY
from headrace.loading import load
from models.records import PredictionRecord, decode_record, encode_record
from streams.log import Record
from streams.spool import Spool
from tests.headrace.conftest import DAYS, PAYMENTS, START, Cli, Played, headrace, lines

LOG = "headrace.payments.fraud.log.v1"


def test_the_worker_ends_in_good_order(played: Played) -> None:
    assert played.worker_code == 0, played.worker_said
    assert "worker stopped in good order" in played.worker_said
    assert "\x1b" not in played.worker_said
    assert 'headrace_freshness_seconds_count{topic="payments.transactions.v1"}' in played.worker_metrics


def test_models_are_listed_with_version_and_metrics(cli: Cli, played: Played) -> None:
    told = cli("models", "list", PAYMENTS, *played.where, "--json").json["models"]

    assert [model["name"] for model in told] == ["fraud"]
    assert told[0]["version"] == played.files.verdicts
    assert len(told[0]["digest"]) == 64
    assert set(told[0]["progressive"]) >= {"ROCAUC", "LogLoss"}
    assert lines(
        cli("models", "list", PAYMENTS, *played.where), ["fraud", "binary", str(played.files.verdicts)]
    )


def test_features_are_read_as_of_a_position(cli: Cli, played: Played) -> None:
    first = json.loads(played.files.transactions.read_text().splitlines()[0])

    told = cli(
        *("features", "get", PAYMENTS, "CardActivity", first["card"], "--at", START + DAYS * DAY),
        *(*played.where, "--json"),
    ).json

    payments = [json.loads(line) for line in played.files.transactions.read_text().splitlines()]
    mine = [p["amount"] for p in payments if p["card"] == first["card"]]
    assert told["values"]["mean_30d"] == pytest.approx(sum(mine) / len(mine), rel=1e-12)
    assert sum(told["as_of"].values()) > 0
    assert told["flags"] == []


def test_features_of_an_unknown_entity_are_flagged(cli: Cli, played: Played) -> None:
    told = cli("features", "get", PAYMENTS, "CardActivity", "nobody", *played.where, "--json").json

    assert told["flags"] == ["unknown:CardActivity"]
    assert told["newest"] is None


def test_a_view_that_is_not_there_is_told(cli: Cli, played: Played) -> None:
    answer = cli("features", "get", PAYMENTS, "CardActivty", "c", *played.where)

    assert answer.code == 1
    assert "use one of CardActivity, TerminalActivity, TerminalRisk" in answer.err


@pytest.mark.parametrize("spooled", [False, True], ids=["kafka", "spool"])
def test_everything_logged_verifies_bit_by_bit(cli: Cli, played: Played, spooled: bool) -> None:
    where = ("--log", played.spool) if spooled else played.where

    answer = cli("verify", PAYMENTS, *where, "--json")

    (verdict,) = answer.json["models"]
    assert answer.code == 0
    assert (verdict["equal"], verdict["different"], verdict["not_checkable"]) == (played.files.payments, 0, 0)


def test_a_limit_takes_the_newest(cli: Cli, played: Played) -> None:
    answer = cli("verify", PAYMENTS, "--log", played.spool, "--limit", 10, "--json")

    assert answer.json["models"][0]["equal"] == 10


def changed(spool: Path, into: Path, change: Callable[[int, PredictionRecord], PredictionRecord]) -> Path:
    """A copy of a spool with its predictions changed."""
    shutil.copytree(spool, into)
    (file,) = into.glob(f"{LOG}@*")
    records: list[Any] = [record for batch in Spool(spool).read(LOG, 0, 0, 1 << 60) for record in batch]
    file.unlink()
    out = Spool(into)
    made = []
    for record in records:
        entry = decode_record(record.value)
        if isinstance(entry, PredictionRecord):
            record = Record(
                record.offset, record.timestamp, record.key, encode_record(change(record.offset, entry)), ()
            )
        made.append(record)
    out.append(LOG, 0, made)
    out.close()
    return into


def flipped(value: float) -> float:
    """The neighbour of a number: its last bit is the other one."""
    (bits,) = struct.unpack("<q", struct.pack("<d", value))
    (other,) = struct.unpack("<d", struct.pack("<q", bits ^ 1))
    return float(other)


def one_prediction(spool: Path, which: int) -> tuple[int, PredictionRecord]:
    found = [
        (record.offset, entry)
        for batch in Spool(spool).read(LOG, 0, 0, 1 << 60)
        for record in batch
        if isinstance(entry := decode_record(record.value or b""), PredictionRecord)
    ]
    return found[which]


def replaced(entry: PredictionRecord, **fields: Any) -> PredictionRecord:
    import msgspec

    return msgspec.structs.replace(entry, **fields)


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "table"])
def test_one_flipped_bit_of_a_vector_is_found(
    cli: Cli, played: Played, tmp_path: Path, as_json: bool
) -> None:
    at, victim = one_prediction(played.spool, -7)
    slot = load(PAYMENTS).project.models[0].vector.names.index("CardActivity.spend_30d")

    def flip(offset: int, entry: PredictionRecord) -> PredictionRecord:
        if offset != at:
            return entry
        vector = list(entry.vector)
        vector[slot] = flipped(float(vector[slot] or 0))
        return replaced(entry, vector=vector)

    spool = changed(played.spool, tmp_path / "flipped", flip)
    answer = cli("verify", PAYMENTS, "--log", spool, *(["--json"] if as_json else []))

    assert answer.code == 1
    if as_json:
        (verdict,) = answer.json["models"]
        assert verdict["different"] == 1
        assert verdict["equal"] == played.files.payments - 1
        first = verdict["differences"][0]
        assert (first["id"], first["what"]) == (victim.id, "CardActivity.spend_30d")
        assert first["recomputed"] == victim.vector[slot]
    else:
        assert lines(answer, [victim.id, "CardActivity.spend_30d", repr(victim.vector[slot])])


def test_one_flipped_bit_of_a_score_is_found(cli: Cli, played: Played, tmp_path: Path) -> None:
    at, victim = one_prediction(played.spool, -3)
    assert isinstance(victim.score, float)
    score = flipped(victim.score)
    spool = changed(
        played.spool, tmp_path / "flipped", lambda o, e: replaced(e, score=score) if o == at else e
    )

    answer = cli("verify", PAYMENTS, "--log", spool, "--json")

    assert answer.code == 1
    (difference,) = answer.json["models"][0]["differences"]
    assert difference == {
        "id": victim.id,
        "origin": "stream",
        "version": victim.version,
        "what": "score",
        "logged": score,
        "recomputed": victim.score,
    }


def test_a_vector_that_no_model_can_take_is_a_difference_and_no_crash(
    cli: Cli, played: Played, tmp_path: Path
) -> None:
    at, _ = one_prediction(played.spool, 5)
    spool = changed(
        played.spool,
        tmp_path / "huge",
        lambda o, e: replaced(e, vector=[1e300, *e.vector[1:]]) if o == at else e,
    )

    answer = cli("verify", PAYMENTS, "--log", spool, "--json")

    (verdict,) = answer.json["models"]
    assert answer.code == 1
    assert (verdict["equal"], verdict["different"]) == (played.files.payments - 1, 1)


def test_nothing_that_can_be_checked_is_no_success(cli: Cli, played: Played, tmp_path: Path) -> None:
    spool = changed(
        played.spool, tmp_path / "other", lambda _, e: replaced(e, fingerprint="of another project")
    )

    answer = cli("verify", PAYMENTS, "--log", spool)

    assert answer.code == 3
    assert lines(answer, ["made by another version of the project"])
    assert "nothing could be checked" in answer.err


def test_a_folder_without_the_projects_topics_is_told(cli: Cli, tmp_path: Path) -> None:
    answer = cli("verify", PAYMENTS, "--log", tmp_path)

    assert answer.code == 3
    assert "holds nothing of" in answer.err


@pytest.mark.parametrize("spooled", [False, True], ids=["kafka", "spool"])
def test_replay_as_of_logged_gives_the_logged_vectors(
    cli: Cli, played: Played, tmp_path: Path, spooled: bool
) -> None:
    out = tmp_path / "logged.parquet"
    where = ("--log", played.spool) if spooled else played.where

    answer = cli("replay", PAYMENTS, "--as-of", "logged", *where, "--out", out, "--json")

    assert answer.json == {"model": "fraud", "rows": played.files.payments, "not_checkable": {}}
    rows = {row["id"]: row for row in pq.read_table(out).to_pylist()}
    names = load(PAYMENTS).project.models[0].vector.names
    at = 0
    for batch in Spool(played.spool).read(LOG, 0, 0, 1 << 60):
        for record in batch:
            entry = decode_record(record.value or b"")
            if isinstance(entry, PredictionRecord):
                assert [rows[entry.id][name] for name in names] == entry.vector
                assert rows[entry.id]["score"] == entry.score
                at += 1
    assert at == played.files.payments
    assert sum(row["label"] is not None for row in rows.values()) == played.files.verdicts


def test_events_can_be_produced_at_a_rate(cli: Cli, played: Played, tmp_path: Path) -> None:
    few = tmp_path / "few.ndjson"
    few.write_text("".join(played.files.chargebacks.read_text().splitlines(keepends=True)[:20]))

    answer = cli("produce", PAYMENTS, "chargebacks", few, "--kafka", played.kafka, "--rate", 200, "--json")

    assert answer.json == {"topic": "payments.chargebacks.v1", "acknowledged": 20}


def test_what_stood_before_a_bad_row_is_said_to_be_sent(cli: Cli, played: Played, tmp_path: Path) -> None:
    bad = tmp_path / "bad.ndjson"
    bad.write_text(played.files.chargebacks.read_text().splitlines(keepends=True)[0] + '{"fraud":1}\n')

    answer = cli("produce", PAYMENTS, "chargebacks", bad, "--kafka", played.kafka)

    assert answer.code == 1
    assert "1 events acknowledged" in answer.err
    assert f"where: {bad}, line 2, field " in answer.err


def test_the_doctor_finds_what_there_is(cli: Cli, played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_PORT", "0")

    answer = cli("doctor", PAYMENTS, *played.where, "--json")

    found = {finding["what"]: finding for finding in answer.json["findings"]}
    assert answer.code == 0
    assert found["Redis eviction"]["found"] == "noeviction"
    assert found["Redis append-only file"]["found"] == "on"
    assert found["payments.transactions.v1"]["found"].startswith("2 partitions")
    assert found["states from payments.transactions.v1"]["found"] == "deployed"
    assert any("embedded broker" in f["found"] for f in answer.json["findings"])


def edited(path: Path, feature: str) -> Path:
    """The project's file with a view more, under another name."""
    view = f"class More(FeatureView, of=card, source=transactions):\n    more = {feature}\n\n\n"
    text = PAYMENTS.read_text().replace("import Count,", "import Count, Max, Last,")
    whole = text.replace("project = ", view + "project = ").replace(", fraud)", ", fraud, views=[More])")
    path.write_text(whole)
    return path


def test_a_window_more_is_there_at_once_and_the_model_is_the_same(
    cli: Cli, played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_PORT", "0")
    file = edited(tmp_path / "window_more.py", 'Max(Transaction.amount).over("7d")')
    events = list(map(json.loads, played.files.transactions.read_text().splitlines()))
    last = events[-1]
    mine = [event for event in events if event["card"] == last["card"]]

    told = cli("doctor", file, *played.where, "--json").json["findings"]
    found = cli(
        "features", "get", file, "More", last["card"], "--at", last["at"], *played.where, "--json"
    ).json
    models = [cli("models", "list", f, *played.where, "--json").json["models"] for f in (PAYMENTS, file)]
    checked = cli("verify", file, *played.where, "--limit", 50, "--json")

    (states,) = [f["found"] for f in told if f["what"] == "states from payments.transactions.v1"]
    assert states.startswith("adopted: ")
    assert found["values"] == {"more": max(event["amount"] for event in mine)}
    assert models[0] == models[1]
    assert models[0][0]["version"] > 0
    assert (checked.code, checked.json["models"][0]["equal"]) == (0, 50)


def test_the_doctor_says_what_a_column_more_costs(
    cli: Cli, played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_PORT", "0")
    file = edited(tmp_path / "column_more.py", 'Last(Transaction.terminal).over("1d")')

    told = cli("doctor", file, *played.where, "--json").json["findings"]

    (states,) = [f for f in told if f["what"] == "states from payments.transactions.v1"]
    assert states["level"] == "warning"
    assert "card (by card) does not keep terminal (str) as a text" in states["found"]
    assert "again from its start" in states["fix"]


def test_the_doctor_says_what_to_do(cli: Cli, tmp_path: Path) -> None:
    answer = cli("doctor", "--kafka", "127.0.0.1:9", "--redis", "redis://127.0.0.1:9/0", "--json")

    found = {finding["what"]: finding for finding in answer.json["findings"]}
    assert answer.code == 1
    assert found["Kafka at 127.0.0.1:9"]["level"] == "error"
    assert "headrace demo" in found["Kafka at 127.0.0.1:9"]["fix"]
    assert found["Redis at 127.0.0.1:9"]["fix"]


def test_serve_answers_and_ends_in_good_order(played: Played) -> None:
    import urllib.request

    api = headrace("serve", PAYMENTS, *played.where, "--port", 0)
    assert api.stderr is not None
    said = api.stderr.readline()
    url = said.split()[-1]
    with urllib.request.urlopen(f"{url}v1/models") as answer:
        assert b"fraud" in answer.read()
    first = played.files.transactions.read_bytes().splitlines()[0]
    request = urllib.request.Request(
        f"{url}v1/models/fraud/predict", first, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        made = json.loads(answer.read())
    assert 0 < made["score"] < 1
    api.terminate()
    api.communicate()
    assert api.returncode == 0


def test_bases_are_made_from_the_spool_and_verify_takes_them(
    cli: Cli, played: Played, tmp_path: Path
) -> None:
    made = cli("base", PAYMENTS, "--log", str(played.spool), "--to", str(tmp_path), "--json").json["bases"]
    assert made
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(made)
    told = cli("verify", PAYMENTS, "--log", str(played.spool), "--bases", str(tmp_path), "--json").json[
        "models"
    ][0]
    assert told["different"] == 0
    assert told["equal"] > 0
