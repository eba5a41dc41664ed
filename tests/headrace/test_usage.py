"""Every command explains itself, and a wrong call is a usage error."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from headrace.errors import code_of, told
from streams.errors import BrokerUnreachable, LogTruncated
from tests.headrace.conftest import PAYMENTS, REPOSITORY, Cli

COMMANDS = [
    ("demo",),
    ("check",),
    ("topics", "apply"),
    ("worker",),
    ("serve",),
    ("produce",),
    ("features", "get"),
    ("models", "list"),
    ("replay",),
    ("verify",),
    ("doctor",),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_has_help_and_an_example(cli: Cli, words: tuple[str, ...]) -> None:
    answer = cli(*words, "--help")
    assert answer.code == 0
    assert f"Example: headrace {' '.join(words)}" in " ".join(answer.out.split())


def test_the_exit_codes_stand_in_the_help(cli: Cli) -> None:
    said = " ".join(cli("--help").out.split())
    assert "0 ok, 1 failure or differences, 2 usage, 3 nothing could be checked" in said
    assert all(words[0] in said for words in COMMANDS)


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("check",),
        ("check", PAYMENTS, "--rate", "x"),
        ("worker", PAYMENTS, "--role", "cook"),
        ("replay", PAYMENTS),
        ("replay", PAYMENTS, "--events", "transactions"),
        ("replay", PAYMENTS, "--events", "transactions=nowhere.csv"),
        ("replay", PAYMENTS, "--as-of", "now"),
        ("features", "get", PAYMENTS, "CardActivity", "c", "--at", "yesterday"),
        ("verify", PAYMENTS, "--log", "nowhere"),
    ],
    ids=str,
)
def test_a_wrong_call_exits_with_2(cli: Cli, words: tuple[object, ...]) -> None:
    answer = cli(*words)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err


def test_colours_are_left_out_where_they_are_not_wanted() -> None:
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color", "FORCE_COLOR": ""}
    done = subprocess.run(
        [sys.executable, "-m", "headrace.cli", "check", "nowhere.py"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "\x1b" not in done.stderr


def test_a_broker_that_is_away_is_told_in_four_parts_and_once(cli: Cli) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: whoever calls is refused
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        answer = cli("topics", "apply", PAYMENTS, "--kafka", address)
    assert answer.code == 1
    assert "Kafka does not answer" in answer.err
    assert f"where: {address}" in answer.err
    assert "why:" in answer.err
    assert "fix:   Start the broker" in answer.err
    assert len(answer.err.splitlines()) == 4


def test_errors_of_the_streams_room_are_taken_apart() -> None:
    parts = told(BrokerUnreachable("broker:9092", "look up topic a.b", "Connection refused"))
    assert parts == (
        "Cannot look up topic a.b: Kafka does not answer at broker:9092",
        "broker:9092",
        "Connection refused",
        "Start the broker, or correct the bootstrap address.",
    )
    parts = told(LogTruncated("a.b.v1", 3, 5, 9))
    assert parts.where == "a.b.v1/3"
    assert "Nothing was skipped." in parts.why
    assert parts.fix.startswith("Rebuild the state")
    assert code_of(LogTruncated("a.b.v1", 3, 5, 9)) == 1
