"""`headrace replay` gives one vector for one history, whatever form the files have."""

from __future__ import annotations

import csv
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.loading import load
from tests.headrace.conftest import PAYMENTS, Cli, Files, lines


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def as_csv(path: Path, folder: Path) -> Path:
    rows = rows_of(path)
    made = folder / f"{path.stem}.csv"
    with made.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        # json writes a float as repr does: the shortest text of its bits
        writer.writerows([{k: json.dumps(v).strip('"') for k, v in row.items()} for row in rows])
    return made


def as_parquet(path: Path, folder: Path) -> Path:
    rows = [row | {"at": datetime.fromisoformat(row["at"])} for row in rows_of(path)]
    made = folder / f"{path.stem}.parquet"
    pq.write_table(pa.Table.from_pylist(rows), made)
    return made


def events(transactions: Path, chargebacks: Path) -> tuple[str, ...]:
    return ("--events", f"transactions={transactions}", "--events", f"chargebacks={chargebacks}")


def test_every_form_gives_the_same_rows_to_the_last_bit(cli: Cli, files: Files, tmp_path: Path) -> None:
    tables = []
    for form in (lambda path, _: path, as_csv, as_parquet):
        out = tmp_path / "out.parquet"
        given = events(form(files.transactions, tmp_path), form(files.chargebacks, tmp_path))
        assert cli("replay", PAYMENTS, *given, "--out", out).code == 0
        tables.append(pq.read_table(out))

    assert tables[0].num_rows == files.payments
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_rows_hold_slots_score_version_flags_and_the_label_once_known(
    cli: Cli, files: Files, tmp_path: Path
) -> None:
    out = tmp_path / "out.ndjson"

    cli("replay", PAYMENTS, *events(files.transactions, files.chargebacks), "--out", out)

    rows = rows_of(out)
    names = load(PAYMENTS).project.models[0].vector.names
    assert list(rows[0]) == ["id", "time", "origin", *names, "score", "version", "flags", "label"]
    assert [row["id"] for row in rows] == [row["id"] for row in rows_of(files.transactions)]
    known = {row["transaction"]: row["fraud"] for row in rows_of(files.chargebacks)}
    assert {row["id"]: row["label"] for row in rows} == {row["id"]: known.get(row["id"]) for row in rows}
    assert rows[0]["version"] == 0
    assert rows[-1]["version"] > 0
    assert rows[0]["flags"] == ["unknown:TerminalRisk"]


def test_ndjson_and_parquet_hold_the_same_numbers(cli: Cli, files: Files, tmp_path: Path) -> None:
    given = events(files.transactions, files.chargebacks)
    cli("replay", PAYMENTS, *given, "--out", tmp_path / "a.ndjson")
    cli("replay", PAYMENTS, *given, "--out", tmp_path / "b.parquet")

    lines_of = rows_of(tmp_path / "a.ndjson")
    columns = pq.read_table(tmp_path / "b.parquet").to_pylist()
    for line, row in zip(lines_of, columns, strict=True):
        assert datetime.fromisoformat(line.pop("time")) == row.pop("time")
        assert line == row


def test_the_metrics_stand_beside_their_baseline(cli: Cli, files: Files) -> None:
    answer = cli("replay", PAYMENTS, *events(files.transactions, files.chargebacks))

    assert lines(answer, ["LogLoss"])
    assert lines(answer, ["ROCAUC", "0.5"])
    told = cli("replay", PAYMENTS, *events(files.transactions, files.chargebacks), "--json").json
    assert told["version"] == files.verdicts
    assert told["baseline"]["ROCAUC"] == 0.5


def test_without_learning_every_score_is_that_of_version_0(cli: Cli, files: Files, tmp_path: Path) -> None:
    out = tmp_path / "out.ndjson"

    cli("replay", PAYMENTS, *events(files.transactions, files.chargebacks), "--no-learn", "--out", out)

    assert {row["version"] for row in rows_of(out)} == {0}


def test_a_bar_is_shown_where_it_is_asked_for(cli: Cli, files: Files) -> None:
    given = events(files.transactions, files.chargebacks)

    assert "replaying" in cli("replay", PAYMENTS, *given, "--progress", "--json").err
    assert cli("replay", PAYMENTS, *given, "--json").err == ""


def test_a_source_that_is_not_there_is_told(cli: Cli, files: Files) -> None:
    answer = cli("replay", PAYMENTS, "--events", f"payment={files.transactions}")

    assert answer.code == 1
    assert "payments.transactions.v1" in answer.err


@pytest.mark.parametrize("name", ["out.csv", "out"])
def test_an_ending_that_we_do_not_write_is_a_usage_error(
    cli: Cli, files: Files, tmp_path: Path, name: str
) -> None:
    answer = cli(
        "replay", PAYMENTS, "--events", f"transactions={files.transactions}", "--out", tmp_path / name
    )

    assert answer.code == 2
    assert ".parquet or .ndjson" in answer.err
