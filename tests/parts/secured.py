"""A real Kafka with listeners that ask for TLS and SASL, and the certificates that it takes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from features.embedded import free_port
from tests.parts.kafka import KafkaServer

USER, PASSWORD = "alice", "correct horse"
_LOGIN = "org.apache.kafka.common.security"
_SCRAM = {
    "SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256,
    "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512,
}


class Secured(NamedTuple):
    """The server, its further ports by protocol, and files in PEM."""

    server: KafkaServer
    ports: dict[str, int]
    ca: Path
    stranger: Path  # an authority that certified nobody here
    certificate: Path
    key: Path

    def bootstrap(self, protocol: str) -> str:
        """The brokers' address that speaks a protocol."""
        return f"127.0.0.1:{self.ports[protocol]}"


@contextmanager
def secured_kafka(folder: Path) -> Iterator[Secured]:
    """Starts it; SSL asks the client for a certificate, both SASL protocols take PLAIN and SCRAM."""
    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key = authority(folder, "ca")
    stranger, _ = authority(folder, "stranger")
    certificate, key = certified(folder, "broker", ca, ca_key)
    client, client_key = certified(folder, "client", ca, ca_key)
    store = folder / "store.pem"
    store.write_text(key.read_text() + certificate.read_text())
    ports = {protocol: free_port() for protocol in ("SSL", "SASL_PLAINTEXT", "SASL_SSL")}
    more = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(ca),
        "listener.name.ssl.ssl.client.auth": "required",
    }
    for listener in ("sasl_plaintext", "sasl_ssl"):
        prefix = f"listener.name.{listener}"
        more[f"{prefix}.sasl.enabled.mechanisms"] = ",".join(["PLAIN", *_SCRAM])
        more[f"{prefix}.plain.sasl.jaas.config"] = (
            f'{_LOGIN}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        )
        for mechanism in _SCRAM:
            more[f"{prefix}.{mechanism.lower()}.sasl.jaas.config"] = (
                f"{_LOGIN}.scram.ScramLoginModule required;"
            )
    with KafkaServer.start(folder / "kafka", beside=ports, more=more) as server:
        _add_user(server)
        yield Secured(server, ports, ca, stranger, client, client_key)


class Guarded(NamedTuple):
    """A server that asks users of SASL PLAIN what they may do; who comes to `server.bootstrap` may do all."""

    server: KafkaServer
    bootstrap: str
    passwords: Mapping[str, str]

    def librdkafka(self, user: str) -> dict[str, str]:
        """The settings of a client of confluent-kafka."""
        return {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": user,
            "sasl.password": self.passwords[user],
        }

    def refused(self) -> list[str]:
        """What it has refused since it was started, a line each."""
        return [line for line in self.server.said.splitlines() if " is Denied operation " in line]


@contextmanager
def guarded_kafka(folder: Path, users: Iterable[str]) -> Iterator[Guarded]:
    """Starts it, with Kafka's own authorizer, and nothing allowed to anybody."""
    passwords = {user: f"word of {user}" for user in users}
    port = free_port()
    known = " ".join(f'user_{user}="{word}"' for user, word in passwords.items())
    more = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",  # the broker itself, and whoever comes without a password
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": f"{_LOGIN}.plain.PlainLoginModule required {known};",
    }
    with KafkaServer.start(folder, beside={"SASL_PLAINTEXT": port}, more=more) as server:
        yield Guarded(server, f"127.0.0.1:{port}", passwords)


def _add_user(server: KafkaServer) -> None:
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    for mechanism in _SCRAM.values():  # Kafka takes one for each user in a request
        wanted = UserScramCredentialUpsertion(USER, ScramCredentialInfo(mechanism, 4096), PASSWORD.encode())
        admin.alter_user_scram_credentials([wanted])[USER].result()


def authority(folder: Path, name: str) -> tuple[Path, Path]:
    """Makes an authority of its own; returns its certificate and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    _openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
        *("-addext", "basicConstraints=critical,CA:true", "-addext", "keyUsage=critical,keyCertSign"),
        *("-keyout", key, "-out", certificate),
    )
    return certificate, key


def certified(folder: Path, name: str, ca: Path, ca_key: Path) -> tuple[Path, Path]:
    """Makes a certificate for loopback by an authority; returns it and its key."""
    certificate, key, request = (folder / f"{name}{ending}" for ending in (".pem", "-key.pem", ".csr"))
    _openssl(
        *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", request),
    )
    _openssl(
        *("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2"),
        *("-copy_extensions", "copy", "-out", certificate),
    )
    return certificate, key


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
