"""Callers of the API while everything breaks, and what became of every request."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any, NamedTuple

import httpx
import msgspec

from models.records import FALLBACK, PredictionRecord
from tests.chaos.events import CARDS, SHOPS
from tests.streams.shop import Payment

PAUSE = 0.05  # seconds between two requests
PATIENCE = 10.0  # seconds that an answer may take
KEPT = 20_000  # answers that are judged; beyond, every one still counts


class Answered(NamedTuple):
    """An answer with a score, and the request."""

    event: Payment
    body: dict[str, Any]


class Callers:
    """One caller that takes the APIs in turn and asks another one where nobody listens, as a balancer does.

    What became of a request is one of
        answered      a score from features
        flagged       a score without features, which says so
        refused       a problem document that says to come again
        unreachable   no API took the request, or the one that did was killed with it in hand
        wrong         anything else; judged answers may still be found to be wrong
    """

    def __init__(self, ports: list[int], model: str, seed: int) -> None:
        self._urls = [f"http://127.0.0.1:{port}/v1/models/{model}/predict?explain=vector" for port in ports]
        self._chance = random.Random(f"requests of {seed}")
        self.now = 0  # the time of requests: how far the features have come
        self.counts: Counter[str] = Counter()
        self.kept: list[Answered] = []
        self.oddities: list[str] = []

    async def run(self) -> None:
        """Asks until it is cancelled."""
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            for k in range(1 << 62):
                await asyncio.sleep(PAUSE)
                if self.now:
                    await self._ask(client, k)

    async def _ask(self, client: httpx.AsyncClient, k: int) -> None:
        chance = self._chance
        event = Payment(
            f"q{k}",
            f"c{chance.randrange(CARDS)}",
            f"s{chance.randrange(SHOPS)}",
            round(chance.lognormvariate(3, 0.8), 2),
            self.now,
        )
        answer: httpx.Response | None = None
        for attempt in range(len(self._urls)):
            url = self._urls[(k + attempt) % len(self._urls)]
            try:
                answer = await client.post(url, content=msgspec.json.encode(event))
                break
            except httpx.TransportError:
                continue
        self.counts[self._became(event, answer)] += 1

    def _became(self, event: Payment, answer: httpx.Response | None) -> str:
        if answer is None:
            return "unreachable"
        if answer.status_code == 503 and answer.headers["content-type"] == "application/problem+json":
            return "refused"
        if answer.status_code != 200:
            self.oddities.append(f"{answer.status_code} {answer.text[:300]}")
            return "wrong"
        body = answer.json()
        if len(self.kept) < KEPT:
            self.kept.append(Answered(event, body))
        return "flagged" if FALLBACK in body["flags"] else "answered"

    def records(self, fingerprint: str) -> list[PredictionRecord]:
        """The answers as the API would log them: their vectors and scores can be made again."""
        return [
            PredictionRecord(
                id=event.id,
                t=event.at,
                origin="api",
                vector=body["vector"],
                score=body["score"],
                version=body["version"],
                fingerprint=fingerprint,
                as_of=body["as_of"],
                event=msgspec.Raw(msgspec.json.encode(event)),
                flags=body["flags"],
            )
            for event, body in self.kept
        ]
