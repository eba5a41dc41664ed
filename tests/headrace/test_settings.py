"""A flag wins over the environment, that over `.env`, that over the default."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.errors import HeadraceError
from headrace.errors import UsageRefused
from headrace.settings import Settings, settings
from tests.headrace.conftest import PAYMENTS, Cli


def test_the_order_of_precedence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADRACE_KAFKA", raising=False)
    assert settings().kafka == "127.0.0.1:9092"
    (tmp_path / ".env").write_text("HEADRACE_KAFKA=from-file:1\nOTHER=1\n")
    assert settings().kafka == "from-file:1"
    monkeypatch.setenv("HEADRACE_KAFKA", "from-environment:1")
    assert settings(kafka=None).kafka == "from-environment:1"
    assert settings(kafka="from-flag:1").kafka == "from-flag:1"


def test_a_value_of_the_wrong_kind_names_the_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_PORT", "many")
    with pytest.raises(UsageRefused) as caught:
        settings()
    assert "HEADRACE_PORT" in caught.value.where


def test_a_wrong_setting_is_a_usage_error_of_the_command(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HOLD", "-1")
    answer = cli("verify", PAYMENTS)
    assert answer.code == 2
    assert "HEADRACE_HOLD" in answer.err


def test_the_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_SECRET", "a-secret-of-many-bytes")
    found = settings()
    assert "a-secret" not in repr(found)
    assert found.secret_text == "a-secret-of-many-bytes"


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())
    assert issubclass(UsageRefused, HeadraceError)
