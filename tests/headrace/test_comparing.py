"""`headrace replay` beside what was logged: every row and feature that differs is counted, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.comparing import Comparison, Vector
from headrace.loading import load
from models.records import FALLBACK
from tests.headrace.conftest import PAYMENTS, Cli, Files, Played, lines
from tests.headrace.test_loop import changed, flipped, one_prediction, replaced

FEATURE = "CardActivity.spend_30d"  # of the request's own source: a live run has it without lag as well


def events(files: Files) -> tuple[object, ...]:
    """The words that replay the town."""
    sources = {"transactions": files.transactions, "chargebacks": files.chargebacks}
    given = [word for name, path in sources.items() for word in ("--events", f"{name}={path}")]
    return ("replay", PAYMENTS, *given, "--no-learn")


def counts(logged: Any) -> dict[str, int]:
    return {entry["feature"]: entry["rows"] for entry in logged["features"]}


@pytest.mark.parametrize("ending", ["ndjson", "parquet"])
def test_a_replay_equals_its_own_rows(cli: Cli, files: Files, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"rows.{ending}"
    cli(*events(files), "--out", out)

    answer = cli(*events(files), "--against", out, "--json")

    assert answer.code == 0
    assert answer.json["logged"] == {
        "compared": files.payments,
        "different": 0,
        "features": [],
        "replayed_only": 0,
        "logged_only": 0,
        "not_comparable": {},
    }


def test_one_flipped_bit_and_rows_of_one_side_are_found(cli: Cli, files: Files, tmp_path: Path) -> None:
    out = tmp_path / "rows.ndjson"
    cli(*events(files), "--out", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    right = rows[7][FEATURE]
    rows[7][FEATURE] = flipped(right)
    rows[9]["id"] = "of another day"
    rows[11]["flags"] = [FALLBACK]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))

    told = cli(*events(files), "--against", out, "--json").json["logged"]

    assert told == {
        "compared": files.payments - 2,
        "different": 1,
        "features": [
            {
                "feature": FEATURE,
                "rows": 1,
                "id": rows[7]["id"],
                "logged": rows[7][FEATURE],
                "replayed": right,
            }
        ],
        "replayed_only": 1,
        "logged_only": 1,
        "not_comparable": {"a fallback score, made without features": 1},
    }


def test_an_integer_is_not_the_float_of_its_value(cli: Cli, files: Files, tmp_path: Path) -> None:
    out = tmp_path / "rows.ndjson"
    cli(*events(files), "--out", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    rows[3]["CardActivity.count_1d"] = float(rows[3]["CardActivity.count_1d"])
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))

    told = cli(*events(files), "--against", out, "--json").json["logged"]

    assert counts(told) == {"CardActivity.count_1d": 1}


@pytest.mark.parametrize("spooled", [False, True], ids=["kafka", "spool"])
def test_every_row_of_a_live_run_is_compared(cli: Cli, played: Played, spooled: bool) -> None:
    where = ("--log", played.spool) if spooled else ("--kafka", played.kafka)

    answer = cli(*events(played.files), *where, "--json")

    told = answer.json["logged"]
    assert answer.code == 0
    assert (told["compared"], told["replayed_only"], told["logged_only"]) == (played.files.payments, 0, 0)
    assert told["not_comparable"] == {}
    # outcomes are known later in a live run whose hold has expired; nothing else can differ
    assert {name.partition(".")[0] for name in counts(told)} <= {"TerminalRisk"}


def test_a_planted_difference_is_told_in_json_and_in_text(cli: Cli, played: Played, tmp_path: Path) -> None:
    at, victim = one_prediction(played.spool, -7)
    slot = load(PAYMENTS).project.models[0].vector.names.index(FEATURE)
    wrong = list(victim.vector)
    wrong[slot] = flipped(float(wrong[slot] or 0))
    spool = changed(
        played.spool, tmp_path / "flipped", lambda o, e: replaced(e, vector=wrong) if o == at else e
    )

    told = cli(*events(played.files), "--log", spool, "--json").json["logged"]
    shown = cli(*events(played.files), "--log", spool)

    (found,) = [entry for entry in told["features"] if entry["feature"] == FEATURE]
    assert found == {
        "feature": FEATURE,
        "rows": 1,
        "id": victim.id,
        "logged": wrong[slot],
        "replayed": victim.vector[slot],
    }
    assert shown.code == 0
    assert lines(shown, [str(told["compared"]), str(told["different"]), str(len(told["features"]))])
    assert lines(shown, [FEATURE, "1", victim.id, repr(wrong[slot]), repr(victim.vector[slot])])


def test_nothing_in_common_is_no_success(cli: Cli, played: Played, tmp_path: Path) -> None:
    spool = changed(
        played.spool, tmp_path / "other", lambda _, e: replaced(e, fingerprint="of another project")
    )

    answer = cli(*events(played.files), "--log", spool, "--json")

    assert answer.code == 3
    assert answer.json["logged"]["not_comparable"] == {
        "made by another version of the project": played.files.payments
    }
    assert "no logged prediction could be compared" in answer.err


def test_without_logged_predictions_none_are_looked_for(cli: Cli, files: Files) -> None:
    assert cli(*events(files), "--json").json["logged"] is None


@pytest.mark.parametrize(
    ("content", "what"),
    [('{"id": "p1"}\n', "has no column 'time'"), ("nonsense\n", "holds what is no row"), ("7\n", "no row")],
)
def test_a_file_of_something_else_is_refused(
    cli: Cli, files: Files, tmp_path: Path, content: str, what: str
) -> None:
    other = tmp_path / "other.ndjson"
    other.write_text(content)

    answer = cli(*events(files), "--against", other)

    assert answer.code == 1
    assert what in answer.err
    assert f"where: {other}, " in answer.err


def test_two_places_of_logged_predictions_are_refused(cli: Cli, files: Files, tmp_path: Path) -> None:
    answer = cli(*events(files), "--against", tmp_path / "a.ndjson", "--log", tmp_path)

    assert answer.code == 2
    assert "--against and --log" in answer.err


def test_of_one_id_the_vector_counts_that_the_join_takes() -> None:
    model = load(PAYMENTS).project.models[0]
    one, other = ([n] * len(model.vector.names) for n in (1.0, 2.0))
    by_stream, late = Vector("a", "stream", other), Vector("a", "api", other)
    by_api, first, second = Vector("a", "api", one), Vector("b", "stream", one), Vector("b", "stream", other)

    compared = Comparison(model, [by_stream, by_api, late, first, second])
    compared.add("a", one)
    compared.add("b", one)

    assert (compared.rows, compared.different, compared.logged_only) == (2, 0, 0)
