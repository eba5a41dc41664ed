"""A whole project file: what type checkers say of it, and what its vector holds."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from features import Feature
from features.fold import fold
from features.state import State
from features.vector import Assembled

from .sample_project import CardActivity, Transaction, transactions, vector

SAMPLE = Path(__file__).with_name("sample_project.py")
ROOT = SAMPLE.parents[2]


def mypy(tmp_path: Path, file: Path) -> tuple[int, str]:
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={tmp_path}", str(file)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr


def test_type_checkers_find_nothing_wrong_and_know_the_type_of_every_attribute(tmp_path: Path) -> None:
    assert mypy(tmp_path, SAMPLE) == (0, "Success: no issues found in 1 source file\n")


def test_type_checkers_find_mistakes_in_a_project_file(tmp_path: Path) -> None:
    mistakes = {
        "Sum(Transaction.country)": "arg-type",
        "Sum(Transaction.amuont)": "attr-defined",
        "TopK(Transaction.amount, 3)": "arg-type",
        "Quantile(Transaction.amount)": "call-arg",
        "Count().over(600)": "call-overload",
        'Count().since("decade")': "arg-type",
    }
    source = SAMPLE.read_text()
    wrong = tmp_path / "wrong.py"
    wrong.write_text(source + "\n\n" + "\n".join(mistakes))
    first = source.count("\n") + 3
    code, said = mypy(tmp_path, wrong)

    assert code == 1
    for line, (mistake, kind) in enumerate(mistakes.items(), first):
        assert any(f"wrong.py:{line}:" in text and f"[{kind}]" in text for text in said.splitlines()), (
            mistake,
            said,
        )


START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def transaction(k: int, **changes: Any) -> Transaction:
    given = {
        "id": f"t{k}", "card": "c1", "terminal": f"m{k % 3}", "amount": 10.0 * (k + 1),
        "fee": None if k % 2 else 0.25, "items": k, "country": "CH" if k % 4 else "DE",
        "latitude": 47.0, "longitude": 8.0 + k, "at": START + timedelta(minutes=k), **changes,
    }  # fmt: skip
    return Transaction(**given)


def assembled(event: Transaction, earlier: list[Transaction]) -> Assembled:
    t = transactions.time_of(event)
    states: list[list[State | None]] = []
    for wanted in vector.wanted:
        state = State()
        plan = wanted.plan
        for offset, e in enumerate(earlier):
            if plan.key_of(e) == wanted.key(event) and (plan.keep is None or plan.keep(e)):
                fold(
                    plan,
                    state,
                    transactions.time_of(e),
                    transactions.identify(e, offset),
                    plan.extract(e),
                    offset,
                )
        states.append([state if state.n else None])
    return vector.assemble(event, t, states, [0] * len(states))


def named(row: Assembled) -> dict[str, Any]:
    return dict(zip(vector.names, row.vector, strict=True))


def test_the_vector_of_a_request_holds_what_its_columns_views_and_functions_say() -> None:
    row = named(assembled(transaction(5), [transaction(k) for k in range(5)]))

    assert row == {
        "amount": 60.0,
        "CardActivity.count_10m": 6,
        "CardActivity.count_1h": 6,
        "CardActivity.count_1d": 6,
        "CardActivity.spend_1d": 210.0,
        "CardActivity.spend_30d": 210.0,
        "CardActivity.fees_1d": 0.75,
        "CardActivity.mean_30d": 35.0,
        "CardActivity.least": 10.0,
        "CardActivity.most_items": 5,
        "CardActivity.spread_30d": 350.0,
        "CardActivity.deviation_30d": 350.0**0.5,
        "CardActivity.terminals_1d": 3,
        "CardActivity.median_7d": 30.0,
        "CardActivity.countries_7d.1.value": "CH",
        "CardActivity.countries_7d.1.count": 4,
        "CardActivity.countries_7d.2.value": "DE",
        "CardActivity.countries_7d.2.count": 2,
        "CardActivity.first_country": "DE",
        "CardActivity.last_items": 5,
        "CardActivity.last_amounts.1": 60.0,
        "CardActivity.last_amounts.2": 50.0,
        "CardActivity.last_amounts.3": 40.0,
        "CardActivity.since_first": 300.0,
        "CardActivity.heat": pytest.approx(sum(2 ** (-k / 60) for k in range(6))),
        "CardActivity.burn": pytest.approx(sum(10 * (6 - k) * 2 ** (-k / 60) for k in range(6))),
        "CardActivity.share": 35.0,
        "CardActivity.today": 6,
        "CardBefore.since_last": 60.0,
        "TerminalActivity.count_7d": 0,
        "LargeAtTerminal.count_1d": 0,
        "amount_ratio": 60.0 / 35.0,
        "known_country": False,
        "at.hour": 13,
        "at.weekday": 6,
        "at.weekend": True,
        "at.night": False,
        "distance_to.CardBefore": pytest.approx(75.8, abs=0.1),
    }


def test_an_unknown_entity_gets_a_vector_of_its_own_event_and_flags() -> None:
    row = assembled(transaction(5, amount=2000.0), [])

    assert sorted(row.flags) == [
        "unknown:CardActivity", "unknown:CardBefore", "unknown:LargeAtTerminal", "unknown:TerminalActivity"
    ]  # fmt: skip
    assert named(row)["CardActivity.count_1d"] == 1
    assert named(row)["CardBefore.since_last"] is None
    assert named(row)["LargeAtTerminal.count_1d"] == 1
    assert named(row)["distance_to.CardBefore"] is None


def test_the_vector_is_the_same_whether_the_request_was_folded_before_it() -> None:
    earlier = [transaction(k) for k in range(5)]
    event = transaction(5)

    assert assembled(event, [*earlier, event]).vector == assembled(event, earlier).vector


def test_every_value_has_the_type_of_its_slot() -> None:
    for row in (assembled(transaction(5), [transaction(k) for k in range(5)]), assembled(transaction(0), [])):
        for slot, x in zip(vector.slots, row.vector, strict=True):
            assert (x is None and slot.nullable) or type(x) is slot.type, (slot, x)


def test_a_feature_of_a_class_is_named_and_shown() -> None:
    assert isinstance(CardActivity.count_10m, Feature)
    assert repr(CardActivity.count_10m) == "CardActivity.count_10m: Count() over 10m"
    assert repr(CardActivity.median_7d) == "CardActivity.median_7d: Quantile(Transaction.amount, 0.5) over 7d"
