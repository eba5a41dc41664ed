"""What the API allows. Every limit stands here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The limits of one API process."""

    max_body_bytes: int = 1_000_000
    """A larger body is refused with 413, whether it announces its size or comes in chunks."""
    max_batch: int = 1_000
    """Items of one array; more are refused with 422."""
    max_concurrency: int = 256
    """Requests in hand; one more is refused with 503. Probes and metrics are always answered."""
    retry_after: int = 1
    """Seconds that a refused caller is asked to wait."""
    fallback: bool = False
    """Answer without the store, from the request alone, when it is away: flagged, logged, never learned."""
    newest: int = 25
    """Predictions that `/v1/status` shows."""
    stale_ms: int = 15_000
    """A worker that has not told its status for so long is not shown."""

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_batch", "max_concurrency", "newest"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
