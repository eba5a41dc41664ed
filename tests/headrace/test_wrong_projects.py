"""A wrong project file gets an error that names the user's line and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.headrace.conftest import PAYMENTS, Cli

# name, what stands in the file, what stands there instead, what is said, the line that is named, the fix
WRONG = [
    (
        "column",
        "Sum(Transaction.amount)",
        "Sum(Transaction.amuont)",
        "Transaction has no column 'amuont'",
        "spend_1d, spend_30d = Sum(Transaction.amuont)",
        "write Transaction.amount",
    ),
    (
        "twins",
        "class TerminalActivity(FeatureView",
        (
            "class CardActivity2(FeatureView, of=card, source=transactions):\n    n = Count().over('1d')\n\n\n"
            "CardActivity2.__name__ = 'CardActivity'\n\n\nclass TerminalActivity(FeatureView"
        ),
        "two views are called 'CardActivity'",
        'project = Project("payments", fraud',
        "rename one of them",
    ),
    (
        "horizon",
        ', within="14d", absent=False',
        "",
        "a label has no horizon",
        "label=Label(chargebacks, value=Chargeback.fraud)",
        'within="14d"',
    ),
    (
        "input",
        "inputs=[Transaction.amount,",
        "inputs=[Chargeback.fraud,",
        "the input Chargeback.fraud is not a column of the request",
        'project = Project("payments", fraud',
        "take a column of the request",
    ),
    (
        "window",
        'Count().over("7d", delay="7d")',
        'Count().over("0s")',
        "window '0s' has no length",
        'count_7d = Count().over("0s")',
        "1ms",
    ),
    (
        "task",
        "StandardScaler() | LogisticRegression()",
        "StandardScaler() | LinearRegression()",
        "LinearRegression cannot learn from a bool label",
        "fraud = ModelSpec(",
        "label that is a number",
    ),
    (
        "seed",
        "learner=StandardScaler() | LogisticRegression()",
        "learner=StandardScaler() | ARFClassifier(n_models=3)",
        "",
        "learner=StandardScaler() | ARFClassifier(n_models=3)",
        "seed",
    ),
]


def wrong_file(folder: Path, name: str, old: str, new: str) -> Path:
    source = PAYMENTS.read_text()
    assert old in source
    imports = "from river.forest import ARFClassifier\nfrom river.linear_model import LinearRegression\n"
    source = source.replace("from river.preprocessing", imports + "from river.preprocessing")
    source = source.replace(old, new)
    if name == "twins":
        source = source.replace(
            'Project("payments", fraud)', 'Project("payments", fraud, views=[CardActivity2])'
        )
    file = folder / f"wrong_{name}.py"
    file.write_text(source)
    return file


@pytest.mark.parametrize(
    ("name", "old", "new", "what", "line", "fix"), WRONG, ids=[case[0] for case in WRONG]
)
def test_a_wrong_project_is_told_with_the_users_line(
    cli: Cli, tmp_path: Path, name: str, old: str, new: str, what: str, line: str, fix: str
) -> None:
    file = wrong_file(tmp_path, name, old, new)

    answer = cli("check", file)

    assert answer.code == 1
    assert answer.out == ""
    parts = dict(part.strip().split(":", 1) for part in answer.err.splitlines() if ":" in part)
    assert what in parts["error"]
    assert f"wrong_{name}.py, line " in parts["where"]
    assert line in parts["where"]
    assert fix in parts["fix"]
    assert "Traceback" not in answer.err


def test_the_line_that_is_named_is_the_line(cli: Cli, tmp_path: Path) -> None:
    file = wrong_file(tmp_path, *WRONG[0][:3])

    said = cli("check", file).err

    number = int(said.partition("line ")[2].partition(":")[0])
    assert "Sum(Transaction.amuont)" in file.read_text().splitlines()[number - 1]


def test_debug_shows_the_traceback_as_well(cli: Cli, tmp_path: Path) -> None:
    file = wrong_file(tmp_path, "window2", *WRONG[4][1:3])

    said = cli("check", file, "--debug").err

    assert "Traceback" in said
    assert "error: window '0s' has no length" in said


def test_a_file_that_is_missing_is_said_so(cli: Cli) -> None:
    answer = cli("check", "nowhere.py")

    assert answer.code == 1
    assert "there is no file nowhere.py" in answer.err
