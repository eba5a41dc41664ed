"""Settings of the command line: a flag wins over the environment, that over `.env`, that over the default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .errors import UsageRefused

if TYPE_CHECKING:
    from streams.security import Brokers


_UNSHOWN = ("secret", "redis", "kafka_sasl_password")  # they are, or may hold, a password


class Settings(BaseSettings):
    """What a process needs to know; each field is an option and, as `HEADRACE_<NAME>`, a variable."""

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    kafka: str = Field("127.0.0.1:9092", description="Brokers, as host:port,host:port.")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT",
        description="How Kafka is reached: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.",
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="How SASL proves the user: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."
    )
    kafka_sasl_username: str | None = Field(None, description="The user of SASL.")
    kafka_sasl_password: SecretStr | None = Field(None, description="The password of SASL.")
    kafka_ssl_ca_location: str | None = Field(
        None, description="PEM file of the authorities that certify the brokers; the system's without."
    )
    kafka_ssl_certificate_location: str | None = Field(
        None, description="PEM file of this client's certificate."
    )
    kafka_ssl_key_location: str | None = Field(
        None, description="PEM file of its private key; the file of the certificate without."
    )
    redis: str = Field(
        "redis://127.0.0.1:6379/0",
        description="URL of Redis: redis://host:port/db, rediss:// with TLS; of a cluster any of its nodes, or "
        "several: redis://host:port,host:port.",
    )
    secret: SecretStr | None = Field(None, description="Secret that seals model snapshots; 16 bytes or more.")
    host: str = Field("127.0.0.1", description="Address that the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the API; 0 takes a free one.")
    max_body: int = Field(
        1_000_000, ge=1, description="Bytes of a request's body; a larger one is refused with 413."
    )
    max_batch: int = Field(1_000, ge=1, description="Items of one array; more are refused with 422.")
    max_concurrency: int = Field(
        256, ge=1, description="Requests that the API has in hand; one more is refused with 503."
    )
    fallback: bool = Field(
        False, description="Score from the request alone while Redis is away: flagged, logged, never learned."
    )
    keys: Path | None = Field(
        None, description="File of API keys; without one the API asks nobody for a key."
    )
    jwks: str | None = Field(
        None,
        description="Public keys of the issuer of tokens: https address or file of a JSON Web Key Set.",
    )
    jwt_issuer: str | None = Field(None, description="What a token must have as its issuer, `iss`.")
    jwt_audience: str | None = Field(None, description="What a token must have in its audience, `aud`.")
    jwt_rate: str | None = Field(
        None, description="Requests that each subject of tokens may make: 200/second; no bound without."
    )
    insecure: bool = Field(
        False,
        description="Listen to other machines without API keys or tokens: whoever reaches the API may do anything.",
    )
    tls_cert: Path | None = Field(
        None, description="PEM file of the API's certificate and those that lead to its authority."
    )
    tls_key: Path | None = Field(
        None, description="PEM file of its private key; the file of the certificate without."
    )
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Loopback port of a worker's metrics; 0 is none."
    )
    instance: str | None = Field(None, description="Name of a worker that stays the same over restarts.")
    hold: float = Field(30.0, ge=0, description="Seconds a request may wait for sources that are behind.")
    session_timeout: float = Field(
        10.0, gt=0, description="Seconds until the work of a dead worker is taken over."
    )
    stall_timeout: float = Field(
        10.0,
        gt=0,
        description="Seconds a partition may stand still while its log grows; then it is claimed again.",
    )

    @field_validator("redis")
    @classmethod
    def _url(cls, value: str) -> str:
        # here, because the client would show a part of a password that stands unquoted in a URL
        try:
            parts = urlsplit(value)
            hosts = parts.netloc.rpartition("@")[2].split(",")  # several of a cluster
            ports = [urlsplit(f"//{host}").port for host in hosts]
            good = parts.scheme in ("redis", "rediss", "unix") and 0 not in ports
        except ValueError:
            good = False
        if not good:
            raise ValueError("it is no URL of Redis; special characters of a password are written as %XX")
        return value

    @property
    def brokers(self) -> Brokers:
        """Where Kafka is and how it is reached.

        Raises:
            SecurityUnusable: the settings do not fit together.
        """
        from streams.security import Brokers

        password = self.kafka_sasl_password
        return Brokers(
            self.kafka,
            self.kafka_security_protocol,
            self.kafka_sasl_mechanism or "",
            self.kafka_sasl_username or "",
            "" if password is None else password.get_secret_value(),
            self.kafka_ssl_ca_location or "",
            self.kafka_ssl_certificate_location or "",
            self.kafka_ssl_key_location or "",
        )

    @property
    def secret_text(self) -> str | None:
        """The secret as it was given."""
        return None if self.secret is None else self.secret.get_secret_value()


def settings(**flags: Any) -> Settings:
    """Returns the settings; a flag that was not given is None and leaves the word to the others.

    The flag `kafka` may be those of `options.secured`.

    Raises:
        UsageRefused: a value is of the wrong kind; names the setting.
    """
    if isinstance(flags.get("kafka"), Mapping):
        flags |= flags["kafka"]
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise UsageRefused(
            f"the setting {name} is not usable"
            if name in _UNSHOWN
            else f"the setting {name} cannot be {first['input']!r}",
            where=f"--{name.replace('_', '-')}, HEADRACE_{name.upper()} or {Path('.env')}",
            why=first["msg"],
            fix=str(Settings.model_fields[name].description) if name in Settings.model_fields else "",
        ) from None


def shown(url: str) -> str:
    """Returns the address in a URL, without user, password and parameters.

    >>> shown("rediss://me:secret@redis-1:6380/0?ssl_ca_certs=ca.pem")
    'rediss://redis-1:6380/0'
    """
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
