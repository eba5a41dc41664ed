"""`headrace keys`, and that the API is not open to other machines by mistake."""

from __future__ import annotations

import stat
from hashlib import sha256
from pathlib import Path

import pytest

from serving.keyfile import read, time_of
from tests.headrace.conftest import PAYMENTS, Cli


def test_a_new_key_is_shown_once_and_its_digest_is_kept(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = cli(
        "keys", "new", file, "--id", "till", "--scope", "ingest", "--scope", "predict", "--rate", "5/minute"
    )

    assert made.code == 0
    secret = made.out.strip()
    assert secret.startswith("hr_")
    assert secret not in made.err + file.read_text()
    (key,) = read(file).values()
    assert key.digest == sha256(secret.encode()).digest()
    assert (key.id, key.scopes, key.expires) == ("till", ("predict", "ingest"), None)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["keys"]


def test_lines_of_others_and_the_rights_of_the_file_stay(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    other = f"# by hand\nown  sha256:{'ab' * 32}   read"
    file.write_text(other)
    file.chmod(0o640)

    assert cli("keys", "new", file, "--id", "a", "--scope", "admin").code == 0
    assert cli("keys", "revoke", file, "a").code == 0

    assert file.read_text() == other + "\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_list_shows_all_but_digests(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"a sha256:{'ab' * 32} read,label rate=7/hour expires=2030-01-01T00:00:00Z\n")

    listed = cli("keys", "list", file, "--json")

    wanted = {"id": "a", "scopes": ["read", "label"], "rate": "7/hour", "expires": "2030-01-01T00:00:00Z"}
    assert listed.json == {"keys": [wanted]}
    shown = cli("keys", "list", file).out
    assert "read, label" in shown
    assert "abab" not in shown + listed.out


def test_a_revoked_key_may_be_good_for_a_while(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    cli("keys", "new", file, "--id", "a", "--scope", "read", "--expires-in", "2h")
    monkeypatch.setattr("headrace.commands.keys.time.time", lambda: time_of("2026-01-01T00:00:00Z"))

    assert cli("keys", "revoke", file, "a", "--in", "90m").code == 0
    assert [key.expires for key in read(file).values()] == [time_of("2026-01-01T01:30:00Z")]
    assert cli("keys", "revoke", file, "a", "--in", "7d").code == 0  # nobody makes a key good again
    assert [key.expires for key in read(file).values()] == [time_of("2026-01-01T01:30:00Z")]


@pytest.mark.parametrize(
    "words",
    [
        ("new", "keys", "--id", "a", "--scope", "everything"),
        ("new", "keys", "--id", "a b", "--scope", "read"),
        ("new", "keys", "--id", "a", "--scope", "read", "--rate", "often"),
        ("new", "keys", "--id", "a"),
        ("new", "there", "--id", "own", "--scope", "read"),
        ("revoke", "there", "other"),
    ],
)
def test_what_cannot_be_is_a_usage_error_and_changes_nothing(
    cli: Cli, tmp_path: Path, words: tuple[str, ...]
) -> None:
    line = f"own sha256:{'ab' * 32} read\n"
    (tmp_path / "there").write_text(line)

    assert cli("keys", *words).code == 2

    assert (tmp_path / "there").read_text() == line
    assert not (tmp_path / "keys").exists()


def test_a_failure_while_writing_leaves_the_file_as_it_was(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(line := f"own sha256:{'ab' * 32} read\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("headrace.commands.keys.os.replace", full)

    assert cli("keys", "revoke", file, "own").code == 1
    assert file.read_text() == line
    assert [one.name for one in tmp_path.iterdir()] == ["keys"]


# -- serve ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_the_api_listens_to_other_machines_only_with_keys_or_by_its_word(cli: Cli, host: str) -> None:
    refused = cli("serve", "missing.py", "--host", host)
    assert refused.code == 2
    assert f"will not listen on {host} without keys" in refused.err

    for more in (("--insecure",), ("--keys", "missing")):  # goes on, to no file
        assert "missing.py" in cli("serve", "missing.py", "--host", host, *more).err


def test_keys_that_cannot_be_read_end_it_before_anything_else(cli: Cli) -> None:
    answer = cli("serve", PAYMENTS, "--keys", "missing", "--kafka", "127.0.0.1:1")
    assert answer.code == 1
    assert "API keys cannot be read" in answer.err


def test_a_private_key_needs_its_certificate(cli: Cli) -> None:
    answer = cli("serve", PAYMENTS, "--tls-key", "key.pem")
    assert answer.code == 2
    assert "without its certificate" in answer.err


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"--jwks": "x.json", "--jwt-issuer": "i"}, "--jwt-audience"),
        ({"--jwks": "x.json", "--jwt-audience": "a"}, "--jwt-issuer"),
        ({"--jwt-issuer": "i", "--jwt-audience": "a"}, "--jwks"),
        ({"--jwt-rate": "1/second"}, "--jwks"),
    ],
)
def test_tokens_are_not_checked_by_halves(cli: Cli, given: dict[str, str], missing: str) -> None:
    answer = cli("serve", PAYMENTS, *(word for pair in given.items() for word in pair))

    assert answer.code == 2
    assert f"without {missing}" in answer.err
    for part in ("where:", "why:", "fix:"):
        assert part in answer.err


@pytest.mark.parametrize(
    ("where", "rate", "code", "said"),
    [
        ("nowhere.json", "1/second", 1, "No such file"),
        ("http://issuer.example/jwks", "1/second", 1, "exchange the keys"),
        ("nowhere.json", "often", 2, "--jwt-rate cannot be"),
    ],
)
def test_keys_of_an_issuer_that_cannot_be_used_end_the_command(
    cli: Cli, where: str, rate: str, code: int, said: str
) -> None:
    words = ("--jwks", where, "--jwt-issuer", "i", "--jwt-audience", "a", "--jwt-rate", rate)
    answer = cli(
        "serve", PAYMENTS, "--host", "0.0.0.0", *words
    )  # tokens open it to other machines, as keys do

    assert answer.code == code
    assert said in answer.err
