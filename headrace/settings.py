"""Settings of the command line: a flag wins over the environment, that over `.env`, that over the default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from .errors import UsageRefused


class Settings(BaseSettings):
    """What a process needs to know; each field is an option and, as `HEADRACE_<NAME>`, a variable."""

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    kafka: str = Field("127.0.0.1:9092", description="Brokers, as host:port,host:port.")
    redis: str = Field("redis://127.0.0.1:6379/0", description="URL of Redis.")
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
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Loopback port of a worker's metrics; 0 is none."
    )
    instance: str | None = Field(None, description="Name of a worker that stays the same over restarts.")
    hold: float = Field(30.0, ge=0, description="Seconds a request may wait for sources that are behind.")
    session_timeout: float = Field(
        10.0, gt=0, description="Seconds until the work of a dead worker is taken over."
    )

    @property
    def secret_text(self) -> str | None:
        """The secret as it was given."""
        return None if self.secret is None else self.secret.get_secret_value()


def settings(**flags: Any) -> Settings:
    """Returns the settings; a flag that was not given is None and leaves the word to the others.

    Raises:
        UsageRefused: a value is of the wrong kind; names the setting.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise UsageRefused(
            f"the setting {name} cannot be {first['input']!r}"
            if name != "secret"
            else "the secret is not usable",
            where=f"--{name.replace('_', '-')}, HEADRACE_{name.upper()} or {Path('.env')}",
            why=first["msg"],
            fix=str(Settings.model_fields[name].description) if name in Settings.model_fields else "",
        ) from None
