"""`headrace check` says what a project file declares."""

from __future__ import annotations

from pathlib import Path

from features.fold import fold
from features.state import State, encode
from headrace.describe import bytes_of
from headrace.loading import load
from tests.headrace.conftest import PAYMENTS, Cli, lines


def test_everything_declared_is_told_to_a_program(cli: Cli) -> None:
    answer = cli("check", PAYMENTS, "--rate", 100, "--json")

    told = answer.json
    assert answer.code == 0
    assert told["project"] == "payments"
    assert [view["name"] for view in told["views"]] == ["CardActivity", "TerminalActivity", "TerminalRisk"]
    assert told["models"][0]["task"] == "binary"
    assert told["models"][0]["slots"][0] == {"name": "amount", "type": "float", "may_be_missing": False}
    assert {"name": "count_7d", "aggregation": "Count()", "window": "7d delayed 7d"} in told["views"][1][
        "features"
    ]
    assert {topic["name"] for topic in told["topics"]} >= {
        "payments.transactions.v1",
        "payments.transactions.v1.dlq",
        "headrace.payments.fraud.log.v1",
        "headrace.payments.fraud.samples.v1",
    }


def test_waiting_predictions_are_rate_times_horizon_times_bytes(cli: Cli) -> None:
    told = cli("check", PAYMENTS, "--rate", 100, "--json").json["models"][0]["pending"]

    assert told["bytes_total"] == 100 * 14 * 86_400 * told["bytes_each"]
    assert 200 < told["bytes_each"] < 600


def test_vectors_in_the_log_leave_a_tenth_to_redis(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "longer.py"
    file.write_text(PAYMENTS.read_text().replace("absent=False)", 'absent=False, vectors="log")'))

    told = cli("check", file, "--rate", 100, "--json").json["models"][0]["pending"]

    assert (told["vectors"], told["bytes_each"], told["max_pending"]) == ("log", 33, 20_000_000)
    assert told["bytes_total"] == 100 * 14 * 86_400 * 33
    assert 40 < told["memory_each"] < 60


def test_people_get_tables(cli: Cli) -> None:
    answer = cli("check", PAYMENTS, "--rate", 100)

    assert lines(answer, ["CardActivity.mean_30d", "Mean(Transaction.amount)", "30d", "card"])
    assert lines(answer, ["waiting predictions", "100/s x 14d"])
    assert answer.err == ""


def test_the_bytes_of_a_state_are_those_of_a_folded_one() -> None:
    plan = load(PAYMENTS).project.plans[1]  # a terminal's, which keeps nothing but times
    state = State()
    fold(plan, state, 1_700_000_000_000, 0, (), 0)

    assert bytes_of(plan, 1) == len(encode(plan, state))
    assert bytes_of(plan, 60) < bytes_of(plan, 512)
