"""What is done to the files of a Redis that has just been killed, and what its positions are then."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import redis

from features.embedded import EmbeddedRedis


class RedisFiles:
    """The folder of a Redis with an append-only file; of one file, or of several from Redis 7 on."""

    def __init__(self, server: EmbeddedRedis, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._backup = folder.with_name(f"{folder.name}.rdb")

    def back_up(self) -> None:
        """Copy everything that the running server holds."""
        with redis.Redis.from_url(self._server.url) as client:
            client.save()
        shutil.copyfile(self._folder / "dump.rdb", self._backup)

    def tail(self) -> int:
        """Bytes of the append-only file of the running server that were appended since it was last rewritten."""
        with redis.Redis.from_url(self._server.url) as client:
            found = client.info("persistence")
        if (self._folder / "appendonlydir").is_dir():
            return self._appended().stat().st_size
        return int(found["aof_current_size"]) - int(found["aof_base_size"])

    def tear(self, count: int) -> None:
        """Cut bytes off the end of the file of the killed server, as a loss of power would."""
        file = self._appended()
        with file.open("r+b") as opened:
            opened.truncate(max(0, file.stat().st_size - count))

    def rewrite(self) -> None:
        """Let the server that has come back write its file anew, as whoever runs it should after a torn one.

        Redis leaves the whole commands of a torn transaction in the file. At the next start they are carried out with
        the first transaction behind them, so after a second loss states could stand beside an older position.
        """
        with redis.Redis.from_url(self._server.url) as client:
            client.bgrewriteaof()
            while True:
                found = client.info("persistence")
                if not found["aof_rewrite_in_progress"] and not found["aof_rewrite_scheduled"]:
                    break

    def restore(self) -> None:
        """Put the backup in the place of all that the killed server had."""
        shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)
        # a file of this name may begin with a snapshot; Redis 7 turns it into its several files
        shutil.copyfile(self._backup, self._folder / "appendonly.aof")

    def _appended(self) -> Path:
        several = sorted(
            (self._folder / "appendonlydir").glob("*.incr.aof"),
            key=lambda file: int(file.name.split(".")[-3]),
        )
        return several[-1] if several else self._folder / "appendonly.aof"


def address(url: str) -> tuple[str, int]:
    """Host and port of a URL."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port
