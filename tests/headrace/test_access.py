"""What each role may do in Redis, both ways: all that it needs works, and everything else is refused."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, ResponseError
from redis.retry import Retry

from features.embedded import free_port, server_program
from headrace.demo.feeding import payment
from headrace.loading import load
from models.deployment import topics_of
from models.topics import dead_letter_topic
from streams.embedded import EmbeddedKafka
from tests.headrace.conftest import PAYMENTS, START, Cli, headrace

READS = {"get", "mget", "getrange", "hget", "hmget", "hvals", "hscan", "exists"}
CONNECTS = {"select", "cluster", "asking"}
WRITES = {"set", "mset", "setrange", "unlink", "hset", "hsetnx", "hdel", "eval", "evalsha"}
# written by hand: what the store calls, in scripts as well
MAY = {
    "headrace-api": CONNECTS | READS,
    "headrace-worker": CONNECTS | READS | WRITES | {"strlen", "type", "hlen", "scan"},
    "headrace-admin": CONNECTS | READS | {"info", "scan", "unlink", "hdel"},
}
OWNER = "owner"
AT_ONCE = Retry(NoBackoff(), 0)


class Guarded(NamedTuple):
    """A Redis with the ACL file of the payments project, and one more user who may do all."""

    port: int
    passwords: dict[str, str]

    def url(self, user: str) -> str:
        return f"redis://{user}:{self.passwords[user]}@127.0.0.1:{self.port}/0"

    def client(self, user: str) -> redis.Redis:
        return redis.Redis.from_url(self.url(user), protocol=2)


@pytest.fixture
def guarded(cli: Cli, tmp_path: Path) -> Iterator[Guarded]:
    made = cli("access", PAYMENTS, "--json").json
    file = tmp_path / "users.acl"
    file.write_text("\n".join([*made["redis"], f"user {OWNER} on >{OWNER} ~* &* +@all", ""]))
    port = free_port()
    words = ("--port", port, "--bind", "127.0.0.1", "--aclfile", file, "--dir", tmp_path, "--save", "")
    server = subprocess.Popen([server_program(), *map(str, words)], stdout=subprocess.DEVNULL)
    guarded = Guarded(port, made["passwords"] | {OWNER: OWNER})
    try:
        while True:
            assert server.poll() is None, "the ACL file is not taken"
            try:
                with guarded.client(OWNER) as client:
                    client.ping()
                break
            except redis.ConnectionError:
                continue
        yield guarded
    finally:
        server.terminate()
        server.wait()


def test_nobody_gets_in_without_a_password(guarded: Guarded) -> None:
    nobody = redis.Redis(port=guarded.port, protocol=2, retry=AT_ONCE)
    with nobody as client, pytest.raises(redis.AuthenticationError):
        client.get("headrace:groups")
    for user in MAY:
        guest = redis.Redis(port=guarded.port, username=user, password="", protocol=2, retry=AT_ONCE)
        with guest as client, pytest.raises(redis.AuthenticationError):
            client.get("headrace:groups")


@pytest.mark.parametrize("user", MAY)
def test_every_other_command_of_the_server_is_refused(guarded: Guarded, user: str) -> None:
    with guarded.client(OWNER) as owner:
        known = owner.execute_command("COMMAND")
    refused, allowed, let_in, containers = set(), set(), [], set()
    with guarded.client(user) as client:
        for name, facts in known.items():
            if "no_auth" in facts["flags"]:
                continue  # AUTH and its like, which everybody may
            word = name.decode() if isinstance(name, bytes) else name
            if word in MAY[user]:
                allowed.add(word)
                continue
            try:
                client.execute_command(word, *["{1aa}@"] * (abs(facts["arity"]) - 1))
                let_in.append((word, ""))
            except ResponseError as error:
                if "NOPERM" in str(error) or isinstance(error, NoPermissionError):
                    refused.add(word)
                elif "unknown subcommand" in str(error) or "DEBUG command not allowed" in str(error):
                    containers.add(
                        word
                    )  # Redis 7 looks for the subcommand, or its setting, first: nothing was done
                else:
                    let_in.append((word, str(error)))
        for words in (
            *(("CLUSTER", "INFO"), ("CLUSTER", "RESET"), ("CLUSTER", "FORGET", "x"), ("CONFIG", "GET", "*")),
            *(("ACL", "LIST"), ("SCRIPT", "FLUSH"), ("CLIENT", "KILL", "x:1")),
        ):
            with pytest.raises(NoPermissionError):
                client.execute_command(*words)
    assert let_in == []
    assert {"flushall", "keys", "config", "acl", "script", "shutdown", "debug"} <= refused | containers
    assert allowed == MAY[user]
    assert len(refused | containers) > 150


@pytest.mark.parametrize("user", MAY)
def test_keys_of_others_are_refused(guarded: Guarded, user: str) -> None:
    with guarded.client(user) as client:
        for key in ("x", "session:1", "headrace", "headrace:other", "{user1}x", "headrace:layouts/rides/t"):
            with pytest.raises(NoPermissionError):
                client.get(key)
        for key in ("{7qy}@", "{g7}a.card-1", "{7qy}model", "headrace:layouts/payments/t"):
            assert client.get(key) is None


def test_the_loop_runs_with_these_rights_and_asks_for_no_others(
    cli: Cli, guarded: Guarded, tmp_path: Path
) -> None:
    topics = topics_of(load(PAYMENTS).project, {"payments.transactions.v1": 1, "payments.chargebacks.v1": 1})
    everything = topics | {dead_letter_topic(topic): 1 for topic in topics}
    source = tmp_path / "few.ndjson"
    source.write_bytes(b"".join(payment(f"p{k}", "c1", "t1", 5.0, START + k) + b"\n" for k in range(40)))
    with EmbeddedKafka.start(everything) as kafka:
        where = ("--kafka", kafka.bootstrap)
        assert cli("produce", PAYMENTS, "transactions", source, *where).code == 0
        worker = headrace(
            *("worker", PAYMENTS, *where, "--session-timeout", 2),
            env={**os.environ, "HEADRACE_REDIS": guarded.url("headrace-worker")},
        )
        api = None
        try:
            admin = ("--redis", guarded.url("headrace-admin"), *where)
            asked = ("features", "get", PAYMENTS, "CardActivity", "c1", "--at", START + 1_000, "--json")
            with guarded.client(OWNER) as owner:
                while not owner.exists("headrace:status"):  # until the worker has given the places out
                    assert worker.poll() is None
                while cli(*asked, *admin).json["values"]["count_1d"] != 40:
                    assert worker.poll() is None
            api = headrace(
                *("serve", PAYMENTS, *where, "--port", 0),
                env={**os.environ, "HEADRACE_REDIS": guarded.url("headrace-api")},
            )
            assert api.stderr is not None
            said = ""
            while not (found := re.search(r"http://[\d.:]+", said)):
                line = api.stderr.readline()
                assert line, said
                said += line
            body = payment("p99", "c1", "t1", 5.0, START + 1_000)
            with httpx.Client(base_url=found[0]) as client:
                answer = client.post("/v1/models/fraud/predict", content=body).json()
                assert client.get("/readyz").status_code == 200
                assert client.get("/v1/status").json()["store"] == "up"
                assert client.get("/v1/features/CardActivity/c1").status_code == 200
            assert cli("models", "list", PAYMENTS, *admin).code == 0
        finally:
            for process in filter(None, (api, worker)):
                process.terminate()
                process.communicate()

    assert answer["prediction_id"] == "p99"
    assert answer["age_ms"] is not None
    with guarded.client(OWNER) as owner:
        assert owner.acl_log() == []
        used = {name.removeprefix("cmdstat_").split("|")[0] for name in owner.info("commandstats")}
    assert {"evalsha", "mset", "set", "hset", "hscan", "mget", "getrange"} <= used
    assert guarded.passwords["headrace-api"] not in said
