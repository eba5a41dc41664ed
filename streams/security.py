"""Where the brokers are and how they are reached: one value, told to librdkafka and to aiokafka in their own words."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

from .errors import SecurityUnusable

PLAINTEXT = "PLAINTEXT"
PROTOCOLS = (PLAINTEXT, "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True)
class Brokers:
    """A Kafka cluster, as a client needs to know it.

    Args:
        bootstrap: Brokers as `host:port,host:port`.
        protocol: One of `PROTOCOLS`.
        mechanism: One of `MECHANISMS`, for a protocol with SASL.
        username: For SASL.
        password: For SASL; never shown.
        ca: A file of the authorities that certify the brokers, in PEM; the system's if empty.
        certificate: A file with the certificate of this client, in PEM.
        key: A file with its private key, in PEM; empty if it is in the same file.

    Raises:
        SecurityUnusable: The parts do not make up something that both libraries can do, or a file cannot be used.
    """

    bootstrap: str
    protocol: str = PLAINTEXT
    mechanism: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise _no(
                "security protocol", f"there is no {self.protocol}", f"Use one of {', '.join(PROTOCOLS)}."
            )
        for name in ("mechanism", "username", "password"):
            given = bool(getattr(self, name))
            if given and not self.sasl:
                # sent nowhere, while its owner believes that the connection is authenticated
                raise _no(f"SASL {name}", f"{self.protocol} has no SASL", "Use SASL_SSL or SASL_PLAINTEXT.")
            if not given and self.sasl:
                raise _no(f"SASL {name}", f"{self.protocol} needs one, and none is given", "Give it.")
        if self.sasl and self.mechanism not in MECHANISMS:
            raise _no(
                "SASL mechanism", f"there is no {self.mechanism}", f"Use one of {', '.join(MECHANISMS)}."
            )
        for name in ("ca", "certificate", "key"):
            if getattr(self, name) and not self.tls:
                raise _no(f"SSL {name} file", f"{self.protocol} has no TLS", "Use SSL or SASL_SSL.")
        if self.key and not self.certificate:
            raise _no(
                "SSL key file", "there is no certificate that it belongs to", "Give the certificate too."
            )
        if self.tls:
            self._context()

    @classmethod
    def of(cls, kafka: str | Self) -> Self:
        """Return the brokers at an address, which are plain where it is only that."""
        return kafka if isinstance(kafka, cls) else cls(str(kafka))

    @property
    def sasl(self) -> bool:
        """Whether a client proves who it is by a password."""
        return self.protocol.startswith("SASL_")

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.protocol.endswith("SSL")

    def librdkafka(self) -> dict[str, Any]:
        """Return the settings of a client of confluent-kafka, with the address."""
        named = {
            "security.protocol": self.protocol,
            "sasl.mechanism": self.mechanism,
            "sasl.username": self.username,
            "sasl.password": self.password,
            "ssl.ca.location": self.ca,
            "ssl.certificate.location": self.certificate,
            "ssl.key.location": self.key or self.certificate,
        }
        return {"bootstrap.servers": self.bootstrap} | {name: value for name, value in named.items() if value}

    def aiokafka(self) -> dict[str, Any]:
        """Return the arguments of a client of aiokafka, without the address."""
        found: dict[str, Any] = {"security_protocol": self.protocol}
        if self.tls:
            found["ssl_context"] = self._context()
        if self.sasl:
            found |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return found

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
        except OSError as error:  # ssl.SSLError is one
            raise _no(f"SSL ca file {self.ca}", _why(error), "Name a PEM file that can be read.") from None
        if self.certificate:
            try:
                # without a password of its own OpenSSL would ask for that of an encrypted key at the terminal
                context.load_cert_chain(self.certificate, self.key or None, password=_no_password)
            except (OSError, ValueError) as error:
                files = " and ".join(filter(None, (self.certificate, self.key)))
                fix = "Name a certificate and its own key, both in PEM, the key not encrypted."
                raise _no(f"SSL certificate and key in {files}", _why(error), fix) from None
        return context


Kafka: TypeAlias = str | Brokers
"""An address of plain brokers, or brokers and how they are reached."""


def _no(what: str, why: str, fix: str) -> SecurityUnusable:
    return SecurityUnusable(f"Kafka cannot be reached with this {what} ({why}). {fix}")


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _no_password() -> bytes:
    raise ValueError("the key is encrypted")
